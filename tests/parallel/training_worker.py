"""Laws of the training loop on two ranks; prints those that held."""

from __future__ import annotations

import contextlib
import copy
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import horovod.torch as hvd
import torch
from torch import Tensor, nn

from dathvd import runtime as runtime_module
from dathvd.checkpoint import find_checkpoints, load_whole
from dathvd.config import load_config
from dathvd.data import load_dataset
from dathvd.distributed import broadcast_parameters
from dathvd.distributed.between_hosts import send_to_partner
from dathvd.distributed.from_root import tree_from_root
from dathvd.errors import UserError
from dathvd.hashing import tensor_sha256
from dathvd.models import StochasticDepth
from dathvd.objectives import Objective, Terms
from dathvd.run_folder import read_metrics, read_result
from dathvd.runtime import AgreedError, Runtime, bytes_from_root, start
from dathvd.training.batches import Batch, BatchPlan, plan_of
from dathvd.training.guard import Guard
from dathvd.training.loop import step_seed
from dathvd.training.run import train
from dathvd.training.saver import Saver
from dathvd.training.saving import restore, save
from dathvd.training.state import TrainingState
from dathvd.training.stationarity import Stationarity
from dathvd.training.step import Trainer
from dathvd.training.workers import build_state

QUICK = [
    "data.name=synthetic", "data.image_size=8", "data.num_train=64",
    "data.num_test=16", "train.batch_size=16", "model.width=8",
    "model.normalization=batch", "attack.num_steps=2", "attack.epsilon=0.1",
    "optimizer.lr=0.003", "train.epochs=2", "train.log_every=1",
    "train.checkpoint_every=0", "evaluation.attack.num_steps=2",
    "evaluation.attack.restarts=1",
    "evaluation.pictures=false",
]  # fmt: skip

Law = Callable[[Runtime, Path], None]
LAWS: dict[str, Law] = {}


def law(function: Law) -> Law:
    """Enter a law in the table of those that the worker runs."""
    LAWS[function.__name__] = function
    return function


def left_by_one_worker(folder: Path) -> None:
    """A checkpoint of step 2 in ``folder``; for a process alone."""
    alone = Runtime(0, 1, 0, 1, torch.device("cpu"), "mpi", 1)
    state, plan = started(alone, "train.overlap=attack")
    for step in range(2):
        following = list(plan.step(step + 1))
        state.trainer.step(list(plan.step(step)), 0.01, following)
    state.step = 2
    save(state, folder, alone)


def started(runtime: Runtime, *overrides: str) -> tuple[TrainingState, BatchPlan]:
    """A fresh state and its batches."""
    config = load_config(None, [*QUICK, *overrides])
    dataset = load_dataset(config.data)
    state = build_state(config, dataset, runtime)
    return state, plan_of(config, dataset, runtime.device, runtime.rank, runtime.size)


def spoilt(batches: list[Batch], runtime: Runtime) -> list[Batch]:
    """The last rank's last batch with an infinite pixel."""
    if runtime.rank < runtime.size - 1:
        return batches
    images = batches[-1].images.clone()
    images[0, 0, 2, 2] = torch.inf
    return [*batches[:-1], replace(batches[-1], images=images)]


def tensors(state: TrainingState) -> Iterator[tuple[str, Tensor]]:
    """All that the state carries from step to step, by name."""
    trainer = state.trainer
    yield from trainer.model.state_dict().items()
    yield "totals", trainer.totals.sums
    for average in trainer.averages.values():
        yield "updates", torch.tensor(average.updates)
        for name, tensor in average.network.state_dict().items():
            yield f"average.{name}", tensor
    for name, parameter in trainer.model.named_parameters():
        for key, value in trainer.optimizer.state[parameter].items():
            yield f"{name}.{key}", torch.as_tensor(value)
    for place, bucket in enumerate(state.exchanger.state_dict()["buckets"]):
        for kind in ("residuals", "shared"):
            for name, tensor in bucket[kind].items():
                yield f"bucket{place}.{kind}.{name}", tensor


def digests(state: TrainingState) -> dict[str, bytes]:
    return {name: tensor_sha256(name, tensor) for name, tensor in tensors(state)}


VARIANTS: dict[str, list[str]] = {
    "plain": [],
    "averaged weights and residuals": [
        "train.ema_decay=0.8", "compression.name=sign", "compression.warmup=0",
    ],
    "overlap and factors": [
        "train.overlap=attack", "compression.name=powersgd", "compression.warmup=0",
    ],
    "accumulation": ["train.backward_passes_per_step=2", "train.overlap=attack"],
    "synchronised": ["train.batch_norm=synchronised", "train.ema_decay=0.8"],
    "train mode": ["attack.model_mode=train", "compression.name=int8"],
    "perturbed weights": ["objective.weight_perturbation=0.01"],
    "trades": [
        "objective.name=trades", "attack.loss=kl", "compression.name=topk",
        "compression.warmup=0",
    ],
    "free": ["attack.name=free", "attack.replays=3"],
}  # fmt: skip


@law
def a_skipped_step_leaves_no_trace(runtime: Runtime, folder: Path) -> None:
    """All that is carried keeps its bits on all ranks; training goes on."""
    for variant, overrides in VARIANTS.items():
        state, plan = started(runtime, *overrides)
        trainer = state.trainer
        overlap = "train.overlap=attack" in overrides
        good, bad = list(plan.step(0)), spoilt(list(plan.step(1)), runtime)
        trainer.step(good, 0.01, bad if overlap else ())
        before, coming = digests(state), list(plan.step(2))
        trainer.step(bad, 0.01, coming if overlap else ())
        assert state.exchanger.skipped == 1, variant
        after = digests(state)
        changed = [name for name in before if after[name] != before[name]]
        assert not changed and after.keys() == before.keys(), (variant, changed)
        anew = [trainer._attack(batch, 0) for batch in coming] if overlap else []
        assert len(trainer.prepared) == len(anew)
        assert all(map(torch.equal, trainer.prepared, anew)), variant
        trainer.step(coming, 0.01)
        assert state.exchanger.skipped == 1 and digests(state) != before, variant
        assert all(value.isfinite().all() for _, value in tensors(state)), variant


@law
def free_goes_on_from_the_points_before_a_skipped_replay(
    runtime: Runtime, folder: Path
) -> None:
    state, plan = started(runtime, "attack.name=free", "attack.replays=4")
    trainer, batches = state.trainer, list(plan.step(0))
    twin, _ = started(runtime, "attack.name=free", "attack.replays=4")
    for replay in range(4):
        twin.trainer.step(batches, 0.01)
        if replay == 2:
            hooks = [
                parameter.register_hook(lambda gradient: gradient * torch.nan)
                for parameter in trainer.model.parameters()
                if runtime.is_root
            ]
            trainer.step(batches, 0.01)
            for hook in hooks:
                hook.remove()
            assert state.exchanger.last_skipped
        trainer.step(batches, 0.01)
    assert digests(state) == digests(twin)


@law
def a_dead_attack_is_a_skipped_step(runtime: Runtime, folder: Path) -> None:
    """In eval mode statistics are looked at that training itself does not see."""
    state, plan = started(runtime, "compression.max_skipped_in_a_row=3")
    if not runtime.is_root:
        next(state.trainer.model.buffers()).fill_(torch.nan)
    before = digests(state)
    for step in range(3):
        try:
            state.trainer.step(list(plan.step(step)), 0.01)
        except UserError as error:
            assert step == 2 and "3 steps in a row" in str(error)
        else:
            assert step < 2, "trained on against no attack"
            assert digests(state) == before
        assert state.exchanger.skipped == step + 1


@law
def a_run_with_a_skipped_step_ends_well_and_resumes(
    runtime: Runtime, folder: Path
) -> None:
    """Its model is finite, and leaving right after the skipped step changes nothing."""
    good_step = BatchPlan.step

    def with_a_bad_batch(self: BatchPlan, step: int) -> Iterator[Batch]:
        batches = list(good_step(self, step))
        yield from spoilt(batches, runtime) if step == 3 else batches

    overrides = ["train.ema_decay=0.8", "train.overlap=attack", "compression.name=int8"]
    BatchPlan.step = with_a_bad_batch  # type: ignore[method-assign]
    try:
        for name, stops in (("whole", (0,)), ("parts", (4, 0))):
            for stop in stops:
                left = [f"train.max_steps={stop}"]
                config = load_config(None, [*QUICK, *overrides, *left])
                train(config, folder / name, runtime)
    finally:
        BatchPlan.step = good_step  # type: ignore[method-assign]
    if not runtime.is_root:
        return
    results: list[Any] = [read_result(folder / name) for name in ("whole", "parts")]
    for name in ("whole", "parts"):
        rows = read_metrics(folder / name)
        assert [row["skipped_steps"] for row in rows] == 3 * [0] + 5 * [1]
        assert ["loss" in row for row in rows] == [row["step"] != 4 for row in rows]
    whole, parts = results
    for name in ("parameters_sha256", "ema_parameters_sha256", "robust_accuracy"):
        assert whole[name] == parts[name], name
    checkpoint = torch.load(find_checkpoints(folder / "parts")[-1] / "model.pt")
    for value in [*checkpoint["model"].values(), *checkpoint["ema"].values()]:
        assert value.isfinite().all()


class Dropping(nn.Sequential):
    """A network with dropout, which belongs to no sample, and stochastic depth."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__(
            nn.Flatten(),
            StochasticDepth(0.5),
            nn.Dropout(),
            nn.Linear(features, outputs),
        )
        self.seen: list[Tensor] = []
        self[2].register_forward_hook(lambda *call: self.seen.append(call[2]))


def dropping(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    return Dropping(torch.Size(image_shape).numel(), num_classes)


@law
def ranks_draw_their_own_random_numbers(runtime: Runtime, folder: Path) -> None:
    """Each step anew, the same ones when it is repeated, also of equal images."""
    passed: list[list[Tensor]] = []
    for drawn in (0, 5):
        state, plan = started(
            runtime,
            "model.name=tests.parallel.training_worker:dropping",
            "attack.name=none",
        )
        torch.rand(drawn)
        batches = list(plan.step(0))
        batches[0].images.fill_(1.0)
        for step in range(2):
            state.trainer.step(batches, 0.0, (), step_seed(0, step, 0))
        # this file is imported again under its own name: the class is another one
        seen = cast(Dropping, state.trainer.model).seen
        passed.append(seen[1:])  # the first pass only checked its outputs
    masks = torch.stack(passed[0]).ne(0)
    assert torch.equal(torch.stack(passed[1]).ne(0), masks)
    everyone = hvd.allgather(masks[None].to(torch.uint8), name="masks").bool()
    for one, other in ((everyone[0], everyone[1]), (masks[0], masks[2])):
        # of samples that both keep, half of the features differ
        kept = one.any(-1) & other.any(-1)
        assert kept.any() and 0.3 < (one ^ other)[kept].double().mean() < 0.7
        assert bool((one.any(-1) != other.any(-1)).any())


@law
def images_prepared_for_another_step_are_dropped(
    runtime: Runtime, folder: Path
) -> None:
    """Going back to a checkpoint of one worker, as the guard does, cuts anew."""
    state, plan = started(runtime, "train.overlap=attack")
    for step in range(3):
        following = list(plan.step(step + 1))
        state.trainer.step(list(plan.step(step)), 0.01, following)
    assert state.trainer.prepared
    attacked: list[tuple[Tensor, Tensor]] = []
    objective = state.trainer.objective

    class Watched(Objective):
        def __call__(
            self, model: nn.Module, images: Tensor, adversarial: Tensor, *rest: Any
        ) -> Terms:
            attacked.append((images, adversarial))
            return objective(model, images, adversarial, *rest)

    state.trainer.objective = Watched()
    restore(state, find_checkpoints(folder.parent / "one")[-1], runtime)
    assert state.step == 2
    counted = hvd.allreduce(state.trainer.totals.sums[0], op=hvd.Sum, name="counted")
    assert int(counted) == plan.num_images(0) + plan.num_images(1)  # each once
    state.trainer.step(list(plan.step(2)), 0.01)
    ((images, adversarial),) = attacked
    assert float((adversarial - images).abs().max()) < 0.1 + 1e-6


@law
def workers_that_come_apart_are_named_and_nothing_is_saved(
    runtime: Runtime, folder: Path
) -> None:
    """Whether a step's check sees it first, or the one before a checkpoint."""
    good_step = Trainer.step

    def drifting(self: Trainer, *given: Any) -> None:
        good_step(self, *given)
        if runtime.rank == 1:
            weight = next(self.model.parameters()).detach().view(-1)
            weight[3] = torch.nextafter(weight[3], weight[3] + 1)

    for every, checkpoints, found in ((2, 0, 2), (0, 1, 4), (0, 0, 8)):
        settings = [
            f"train.check_every={every}",
            f"train.checkpoint_every={checkpoints}",
        ]
        config = load_config(None, [*QUICK, *settings])
        run = folder / str(found)
        Trainer.step = drifting  # type: ignore[method-assign, assignment]
        try:
            train(config, run, runtime)
        except AgreedError as error:
            assert f"step {found}: workers hold different weights: ranks 0 on" in str(
                error
            )
            assert ", 1 on" in str(error) and "\n" not in str(error)
        else:
            raise AssertionError("went on with different weights")
        finally:
            Trainer.step = good_step  # type: ignore[method-assign]
        assert not find_checkpoints(run) and not (run / "result.json").exists()
        assert not list((run / "checkpoints").glob("*"))


@contextlib.contextmanager
def parts_of(limit: int) -> Iterator[list[int]]:
    """Parts of so many bytes at most; how long each is that is sent within."""
    sent: list[int] = []
    calls = {name: getattr(hvd, name) for name in ("broadcast_", "alltoall")}

    def counted(name: str) -> Callable[..., Any]:
        def call(tensor: Tensor, *rest: Any, **named: Any) -> Any:
            if tensor.dtype == torch.uint8:
                sent.append(tensor.numel())
            return calls[name](tensor, *rest, **named)

        return call

    whole = runtime_module.PART
    runtime_module.PART = limit
    for name in calls:
        setattr(hvd, name, counted(name))
    try:
        yield sent
    finally:
        runtime_module.PART = whole
        for name, call in calls.items():
            setattr(hvd, name, call)


@law
def bytes_of_any_length_travel_in_parts(runtime: Runtime, folder: Path) -> None:
    """No collective is larger than a part, so that none exceeds what MPI can count."""
    assert runtime_module.PART < 2**31
    with parts_of(7) as sent:
        for length, parts in ((0, []), (1, [1]), (14, [7, 7]), (20, [7, 7, 6])):
            data = bytes(range(length)) if runtime.is_root else b"another"
            assert bytes_from_root(data, "parts") == bytes(range(length))
            assert sent == parts, (length, sent)
            sent.clear()


@law
def tensors_of_any_length_travel_in_parts(runtime: Runtime, folder: Path) -> None:
    """A resumed checkpoint and the weights at the start, in any layout and type."""
    values = torch.arange(30, dtype=torch.float64).view(2, 3, 5)
    outer = {
        "rows": values,
        "columns": values.transpose(0, 2),
        "scalar": torch.tensor(3, dtype=torch.int16),
        "none": torch.empty(0),
    }
    lengths = [7] * 34 + [2]  # 240 bytes
    model = nn.Module()
    for name, tensor in outer.items():
        model.register_buffer(name, tensor.clone() if runtime.is_root else tensor * 0)
    with parts_of(7) as sent:
        broadcast_parameters(model)
        assert sent == [*lengths, *lengths, 2], sent
        sent.clear()
        tree = tree_from_root(runtime, dict(outer) if runtime.is_root else {})
        assert sent[-71:] == [*lengths, *lengths, 2][-71:] and max(sent) == 7, sent
    for name, tensor in outer.items():
        for arrived in (model.get_buffer(name), tree[name]):
            assert arrived.dtype == tensor.dtype and torch.equal(arrived, tensor), name
            assert arrived.stride() == tensor.stride(), name


@law
def hot_states_of_any_length_travel_in_parts(runtime: Runtime, folder: Path) -> None:
    """Between hosts, where ranks have states of other lengths."""
    mine = {str(runtime.rank): bytes(range(40 - 15 * runtime.rank)), "empty": b""}
    theirs = {str(1 - runtime.rank): bytes(range(25 + 15 * runtime.rank)), "empty": b""}
    with parts_of(7) as sent:
        assert send_to_partner(mine, runtime.rank, ["here", "there"]) == theirs
        # a line of names, as text, and the bytes
        head = len(json.dumps({name: len(data) for name, data in mine.items()})) + 1
        assert sum(sent) == head + len(mine[str(runtime.rank)]) and max(sent) == 7
        assert sent[0] == 7 and sent == sorted(sent, reverse=True), sent


@law
def images_of_steps_that_were_taken_back_count_in_the_speed(
    runtime: Runtime, folder: Path
) -> None:
    """The last line of a run whose guard went back, after leaving it half-way."""
    overrides = [
        "data.num_train=70", "model.normalization=none", "train.epochs=4",
        "train.guard.action=roll_back", "train.guard.drop=20",
        "train.guard.num_samples=14", "train.guard.max_actions=1",
    ]  # fmt: skip
    good_step, good_look = Trainer.step, Guard.look
    seen: list[int] = []

    def counted(self: Trainer, batches: list[Batch], *rest: Any) -> None:
        seen.append(sum(len(batch.labels) for batch in batches))
        good_step(self, batches, *rest)

    def collapsing(self: Guard, model: nn.Module, step: int) -> bool:
        robust = {0: 0.5, 4: 0.9, 8: 0.9}
        return self.judge(robust.get(step, 0.1), step)

    Trainer.step, Guard.look = counted, collapsing  # type: ignore
    try:
        for stop in (10, 0):
            seen.clear()
            config = load_config(None, [*QUICK, *overrides, f"train.max_steps={stop}"])
            train(config, folder, runtime)
    finally:
        Trainer.step, Guard.look = good_step, good_look  # type: ignore
    images = int(hvd.allreduce(torch.tensor(sum(seen)), op=hvd.Sum, name="images"))
    assert images == 56 * 2 + 8 + 16, images  # epochs 3 (its rest) and twice 4
    if runtime.is_root:
        result: Any = read_result(folder)
        assert len(result["guard"]["collapses"]) >= 1, result["guard"]
        counted_images = result["images_per_second"] * result["train_seconds"]
        assert abs(counted_images - images) < 0.01 * images, (counted_images, images)


@law
def ranks_write_a_part_of_the_optimizer_each(runtime: Runtime, folder: Path) -> None:
    """One writes while training goes on; all is of one step, also for one process."""
    state, plan = started(runtime, "train.ema_decay=0.8", "compression.name=sign")
    for step in range(2):
        state.trainer.step(list(plan.step(step)), 0.01)
    state.step, expected = 2, digests(state)
    kept = copy.deepcopy(state.trainer.optimizer.state_dict()["state"])
    hvd.barrier()
    saver = Saver(state, folder, runtime)
    final = saver.begin()
    votes = 0
    for step in range(2, 500):  # until all have written
        state.trainer.step(list(plan.step(step % 4)), 0.01)
        said = torch.tensor([int(saver.votes()[0])])
        saver.publish_if_written(votes)
        votes = int(hvd.allreduce(said, op=hvd.Sum, name="written"))
        if saver._pending is None:
            break
    assert final.is_dir()
    names = {path.name for path in final.glob("optimizer-*")}
    assert names == {f"optimizer-{rank:05d}.pt" for rank in range(1, runtime.size)}
    whole = load_whole(final / "model.pt")["optimizer"]["state"]
    for place, values in kept.items():
        for name, value in values.items():
            assert torch.equal(
                torch.as_tensor(value), torch.as_tensor(whole[place][name])
            )
    again, _ = started(runtime, "train.ema_decay=0.8", "compression.name=sign")
    restore(again, final, runtime)
    assert digests(again) == expected
    hvd.barrier()
    if runtime.is_root:
        (final / "optimizer-00001.pt").unlink()
    try:
        restore(again, final, runtime)
    except AgreedError as error:
        assert error.unreadable and "optimizer-00001.pt" in str(error), error
    else:
        raise AssertionError("a checkpoint without a part was taken")


@law
def an_estimate_is_the_same_for_any_number_of_workers(
    runtime: Runtime, folder: Path
) -> None:
    """Sums of the same groups; three over two ranks, and over one alone."""
    settings = ["every=1", "num_samples=24", "group_size=8", "num_steps=2"]
    state, plan = started(runtime, *(f"train.stationarity.{s}" for s in settings))
    alone = replace(runtime, rank=0, size=1)
    model, objective = state.published_model(), state.trainer.objective
    before = digests(state)
    ours, theirs = (
        Stationarity(state.config, plan, each)(model, objective)
        for each in (runtime, alone)
    )
    assert ours is not None and theirs is not None and theirs.error > 0
    off = abs(ours.value - theirs.value) + abs(ours.error - theirs.error)
    assert off < 1e-12 * (abs(theirs.value) + theirs.error), (ours, theirs)
    assert digests(state) == before


def main(folder: Path) -> None:
    runtime = start("cpu")
    torch.set_num_threads(1)
    for name, check in LAWS.items():
        began = time.monotonic()
        check(runtime, folder / name)
        if hvd.rank() == 0:
            print(f"held: {name} ({time.monotonic() - began:.2f} s)", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
