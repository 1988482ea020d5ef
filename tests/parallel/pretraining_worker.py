"""Two ranks: gathered negatives, runs that follow one another, labels of images."""

from __future__ import annotations

import sys
from pathlib import Path

import horovod.torch as hvd
import torch

from dathvd.config import ObjectiveConfig, load_config
from dathvd.distributed import gather_rows
from dathvd.objectives import build_objective
from dathvd.pseudo_labels import pseudo_label
from dathvd.runtime import AgreedError, guard, start
from dathvd.training.run import train

QUICK = [
    "data.name=synthetic", "data.image_size=8", "data.num_train=64",
    "data.num_test=16", "data.flip=false", "model.name=small_resnet", "model.width=4",
    "attack.num_steps=2", "attack.epsilon=0.05", "train.batch_size=32",
    "train.epochs=3", "train.checkpoint_every=0",
    "evaluation.batch_size=8", "evaluation.attack.num_steps=2",
    "evaluation.attack.restarts=1",
]  # fmt: skip


def unlabelled(folder: Path) -> Path:
    """The unlabelled images that the test has written."""
    return folder / "unlabelled.npy"


SIZES = (2, 4)  # views of each rank: shares of the batch may differ


def network() -> torch.nn.Module:
    """The same weights on every rank, in float64."""
    torch.manual_seed(0)
    layers = (torch.nn.Flatten(), torch.nn.Linear(12, 8), torch.nn.SiLU())
    return torch.nn.Sequential(*layers, torch.nn.Linear(8, 5)).double()


def gradient_of_contrastive() -> None:
    """The mean of the ranks' gradients is the gradient in one process."""
    torch.manual_seed(1)
    images = torch.rand(2, 6, 3, 2, 2, dtype=torch.float64)  # clean and attacked
    partners = torch.arange(6).bitwise_xor_(1)
    config = ObjectiveConfig(name="contrastive", temperature=0.3, clean_weight=0.5)
    alone = network()
    whole = build_objective(config)(alone, images[0], images[1], partners)
    whole.loss.backward()
    start, count = sum(SIZES[: hvd.rank()]), SIZES[hvd.rank()]
    clean, attacked = images[:, start : start + count]
    model = network()
    terms = build_objective(config, gather_rows)(
        model, clean, attacked, partners[:count]
    )
    share = count * hvd.size() / 6
    (terms.loss * share).backward()
    loss = hvd.allreduce(terms.loss.detach() * share, op=hvd.Average, name="loss")
    torch.testing.assert_close(loss, whole.loss.detach())
    pairs = zip(model.named_parameters(), alone.parameters(), strict=True)
    for (name, ours), theirs in pairs:
        assert ours.grad is not None and theirs.grad is not None
        mean = hvd.allreduce(ours.grad, op=hvd.Average, name=name)
        torch.testing.assert_close(mean, theirs.grad)
        assert float(theirs.grad.abs().max()) > 1e-4
    assert terms.adversarial_logits is not None
    assert terms.adversarial_logits.shape == (count, 6)


def rows_are_the_own_ones_first() -> None:
    """Then the others' by rank; the gradient is summed over what all made of it."""
    rank = hvd.rank()
    mine = torch.full((rank + 1, 2), float(rank), requires_grad=True)
    everyone = gather_rows(mine)
    expected = [0.0, 1.0, 1.0] if rank == 0 else [1.0, 1.0, 0.0]
    assert everyone[:, 0].tolist() == expected
    # rank r counts a row of rank s by (r + 1) * 10 ** s
    weights = torch.where(everyone.detach() == 0, 1.0, 10.0) * (rank + 1)
    (everyone * weights).sum().backward()
    assert mine.grad is not None
    assert torch.equal(mine.grad, torch.full_like(mine, 3.0 * 10.0**rank))


def runs_that_follow_one_another(folder: Path) -> None:
    """Two pre-trainings, what is trained from them, and labels by the result."""
    start_from = "model.init={}".format
    chain = {
        "rotation": ["objective.name=rotation"],
        "full": [start_from(folder / "rotation"), "evaluation.pictures=false"],
        "contrastive": ["objective.name=contrastive", "model.head=projection"],
        "linear": [
            start_from(folder / "contrastive"),
            "model.init_mode=linear",
            "compression.name=int8",
            "train.max_steps=4",
            "evaluation.pictures=false",
        ],
    }
    runtime = start("cpu")
    with guard(runtime):
        for name, settings in chain.items():
            config = load_config(None, [*QUICK, *settings])
            train(config, folder / name, runtime)
        resumed = [setting for setting in chain["linear"] if "max_steps" not in setting]
        train(load_config(None, [*QUICK, *resumed]), folder / "linear", runtime)
        for run in ("full", "linear"):
            output = folder / f"labelled-by-{run}.npz"
            pseudo_label(
                str(folder / run), unlabelled(folder), output, runtime, batch_size=7
            )


def a_worker_without_images_is_refused(folder: Path) -> None:
    """All ranks raise one line before any step."""
    runtime = start("cpu")
    settings = ["objective.name=contrastive", "data.num_train=33"]
    try:
        train(load_config(None, [*QUICK, *settings]), folder / "refused", runtime)
    except AgreedError as error:
        assert "the last step of an epoch has 1 images" in str(error)
    else:
        raise AssertionError("trained with an empty worker")


if __name__ == "__main__":
    hvd.init()
    assert hvd.size() == 2
    torch.set_num_threads(1)
    rows_are_the_own_ones_first()
    gradient_of_contrastive()
    a_worker_without_images_is_refused(Path(sys.argv[1]))
    runs_that_follow_one_another(Path(sys.argv[1]))
    print("all done", flush=True)
