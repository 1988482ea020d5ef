"""The grid of an evaluation: its cells and laws, and going on when interrupted."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from dathvd.attacks.probes import Probe, right_on_clean, survives
from dathvd.commands.evaluate import command
from dathvd.config import Config
from dathvd.config.evaluation import EvaluationAttackConfig
from dathvd.data.sets import TensorImages
from dathvd.errors import UserError
from dathvd.evaluation import Request, evaluate_checkpoint
from dathvd.evaluation.grid import Cell, Grid
from dathvd.evaluation.identity import identify
from dathvd.evaluation.judge import CLEAN, Judge, regrouped
from dathvd.evaluation.random_points import RandomPoints
from dathvd.evaluation.results import Results
from dathvd.evaluation.store import Store
from dathvd.noise import SampleNoise
from dathvd.report.evaluation import plot_grid
from dathvd.runtime import Runtime
from tests.saved_network import save_network
from tests.single.small_models import batch, lengths, network, nothing_changes

UNION = {"l2": 1.0, "l1": 12.0}
OWN = EvaluationAttackConfig()
ALONE = Runtime(0, 1, 0, 1, torch.device("cpu"), "mpi", 1)
GRID = Grid(("fgsm", "pgd", "pgd-margin"), (0.0, 0.02, 0.05), (1, 4), restarts=2)


def some_images(count: int = 21) -> TensorImages:
    """Images whose labels a network of ours mostly gets right."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 6, 5), generator=generator)
    labels = network()(images.double() / 255).argmax(dim=1)
    labels[::7] = (labels[::7] + 1) % 4
    return TensorImages(images.byte(), labels)


IMAGES = some_images()
MODEL = network().float()


def probes(cells: list[Cell]) -> dict[str, Probe]:
    found: dict[str, Probe] = {CLEAN: right_on_clean}
    return found | {cell.key: survives(cell.build(4)) for cell in cells}


def judge(
    max_samples: int = 0,
    store: Store | None = None,
    only_survivors: bool = False,
    on_part: Callable[[int, int], None] | None = None,
) -> Judge:
    return Judge(IMAGES, ALONE, 8, 3, max_samples, store, only_survivors, on_part)


def results(only_survivors: bool = False) -> Results:
    cells = GRID.cells(OWN)
    flags = judge(only_survivors=only_survivors)(MODEL, probes(cells))
    return Results(cells, flags[0], flags[1:], IMAGES.labels, only_survivors)


def test_without_options_the_only_cell_is_the_runs_own_attack() -> None:
    own = EvaluationAttackConfig(num_steps=7, step_size=0.4, restarts=3, momentum=0.5)
    assert Grid().cells(own) == [Cell("pgd", own)]


def test_a_grid_has_every_combination_once_and_smaller_radii_first() -> None:
    cells = GRID.cells(OWN)
    places = [(c.settings.epsilon, c.attack, c.settings.num_steps) for c in cells]
    assert places == [(0.0, "none", 1)] + [
        (epsilon, attack, steps)
        for epsilon in (0.02, 0.05)
        for attack, counts in (("fgsm", [1]), ("pgd", [1, 4]), ("pgd-margin", [1, 4]))
        for steps in counts
    ]
    assert len({cell.key for cell in cells}) == len(cells)
    assert {c.settings.loss for c in cells if c.attack == "pgd-margin"} == {"margin"}


def test_steps_keep_the_runs_share_of_epsilon_and_reach_across_the_ball() -> None:
    own = EvaluationAttackConfig(epsilon=0.1, step_size=0.03, num_steps=20)
    sizes = [
        Grid(("pgd",), (0.2,), (steps,)).cells(own)[0].settings.step_size
        for steps in (5, 20)
    ]
    assert sizes == pytest.approx([2.5 * 0.2 / 5, 0.3 * 0.2])
    given = Grid(("pgd",), (0.2,), (5,), step_size=0.01).cells(own)
    assert given[0].settings.step_size == 0.01


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (Grid(("pdg",)), r"--attack: unknown 'pdg' \(did you mean 'pgd'\?\)"),
        (Grid(epsilons=(-0.1,)), "evaluate: epsilon: input should be greater"),
        (Grid(norm="l3"), "evaluate: norm: input should be 'linf', 'l2' or 'l1'"),
        (Grid(("pgd",), restarts=0), "evaluate: restarts: input should be greater"),
        (Grid(norm="l2"), "--epsilon: must be given, as norm l2 is another one"),
        (Grid(norm="l2", balls=UNION), "--norm: the balls of --balls have norms"),
        (Grid(epsilons=(0.1,), balls=UNION), "--epsilon: the balls of --balls have"),
        (Grid(("pgd",), step_size=0.1, balls=UNION), "--step-size: in a union steps"),
    ],
)
def test_bad_grids_are_refused(grid: Grid, message: str) -> None:
    with pytest.raises(UserError, match=message):
        grid.cells(OWN)


def in_union(**fields: int) -> EvaluationAttackConfig:
    tree = {"balls": UNION, "combine": "steps", **fields}
    return EvaluationAttackConfig.model_validate(tree)


def test_a_run_in_a_union_is_judged_in_one_of_its_balls_or_in_another_one() -> None:
    own = in_union(num_steps=5)
    for norm, epsilon in UNION.items():
        one = Grid(("pgd",), norm=norm).cells(own)[0].settings
        assert (one.threat, one.step_size) == ({norm: epsilon}, 2.5 * epsilon / 5)
    other = Grid(("pgd",), (0.3,), norm="linf").cells(own)[0].settings
    assert other.threat == {"linf": 0.3}
    with pytest.raises(UserError, match="--norm: must be given, as norm linf is anoth"):
        Grid(("pgd",), (0.3,)).cells(own)
    assert Grid(epsilons=(0.0,)).cells(own)[0].attack == "none"


def test_other_attacks_than_pgd_take_the_worst_ball_of_a_union() -> None:
    own = in_union()
    assert Grid(("pgd",)).cells(own)[0].settings.combine == "steps"
    cells = Grid(("apgd", "fgsm")).cells(own)
    assert [cell.settings.combine for cell in cells] == ["max", "max"]


def test_a_union_is_attacked_also_where_the_run_is_judged_at_radius_0() -> None:
    own = EvaluationAttackConfig(epsilon=0.0)
    assert Grid(("pgd",), balls=UNION).cells(own)[0].attack == "pgd"


def test_no_attack_helps_and_the_worst_case_counts_all_within_its_radius() -> None:
    found = results()
    assert (found.right & ~found.clean).sum() == 0
    worst = {row["epsilon"]: row["robust_accuracy"] for row in found.worst_case()}
    by_hand = found.clean & found.right.all(dim=0)
    assert worst[0.05] == int(by_hand.sum()) / len(IMAGES)
    assert worst[0.0] == int(found.clean.sum()) / len(IMAGES)
    assert worst[0.0] > worst[0.02] > worst[0.05]  # else the laws hold trivially
    assert found.as_json()["robust_accuracy"] == worst[0.05]


def test_what_is_broken_already_is_left_out_without_changing_the_worst_case() -> None:
    seen = []

    def counting(probe: Probe) -> Probe:
        def counted(
            model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
        ) -> Tensor:
            seen.append(len(images))
            return probe(model, images, labels, noise)

        return counted

    cells = GRID.cells(OWN)
    counted = {key: counting(probe) for key, probe in probes(cells).items()}
    flags = judge(only_survivors=True)(MODEL, counted)
    quick = Results(cells, flags[0], flags[1:], IMAGES.labels, True)
    assert quick.worst_case() == results().worst_case()
    assert sum(seen) < len(IMAGES) * len(counted)


def test_an_interrupted_evaluation_goes_on_and_equals_one_never_stopped(
    tmp_path: Path,
) -> None:
    cells = GRID.cells(OWN)
    whole = judge()(MODEL, probes(cells))
    store = Store(tmp_path / "out", identify(MODEL, IMAGES, Config()))

    def stop(done: int, total: int) -> None:
        if done == 14:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge(store=store, on_part=stop)(MODEL, probes(cells))
    counts: list[int] = []
    again = judge(store=store, on_part=lambda done, total: counts.append(total))
    assert torch.equal(again(MODEL, probes(cells)), whole)
    assert counts[0] == 3 * len(probes(cells)) - 14

    more = Grid(("fgsm",), (0.1,)).cells(OWN)  # another attack, and no work for these
    counts.clear()
    assert torch.equal(again(MODEL, probes(cells + more))[:-1], whole)
    assert counts == [3, 3, 3]


def test_more_samples_may_follow(tmp_path: Path) -> None:
    store = Store(tmp_path, identify(MODEL, IMAGES, Config()))
    chosen = probes(Grid(("fgsm",), (0.05,)).cells(OWN))
    judge(max_samples=10, store=store)(MODEL, chosen)
    counts: list[int] = []
    more = judge(store=store, on_part=lambda done, total: counts.append(total))
    assert torch.equal(more(MODEL, chosen), judge()(MODEL, chosen))
    assert counts == [4] * 4  # the first part of 8 is kept, the cut one made anew


def test_a_folder_goes_on_in_its_own_parts_under_auto_attack(tmp_path: Path) -> None:
    """Its larger parts depend on the number of samples, which may be raised."""
    run = save_network(tmp_path / "run", (1, 8, 8), 10, "model.name=mlp")

    def evaluate(attack: str, samples: int, size: int | None = None) -> int:
        request = Request(
            Grid((attack,), (0.001,)), size, samples, output=tmp_path / "out"
        )
        evaluate_checkpoint(str(run), request, ALONE)
        named = json.loads((tmp_path / "out" / "evaluation.json").read_text())
        return int(named["batch_size"])

    assert evaluate("fgsm", 70) == evaluate("autoattack", 280) == 64
    with pytest.raises(UserError, match="another batch_size .64 there, 32 here."):
        evaluate("fgsm", 70, 32)


def test_results_that_cannot_be_written_are_refused_before_anything_is_judged(
    tmp_path: Path,
) -> None:
    run = save_network(tmp_path / "run", (1, 8, 8), 10, "model.name=mlp")
    out = tmp_path / "out"
    for file, problem in (tmp_path, "is a folder"), (
        tmp_path / "no" / "x",
        "no folder",
    ):
        request = Request(output=out, json_file=file)
        with pytest.raises(UserError, match=f"--json {file}: {problem}"):
            evaluate_checkpoint(str(run), request, ALONE)
    assert not out.exists()
    inside = Request(max_samples=4, output=out, json_file=out / "own.json")
    evaluate_checkpoint(str(run), inside, ALONE)
    assert inside.json_file is not None and inside.json_file.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--balls", "linf="], "--balls: expected NAME=NUMBER, got 'linf='"),
        (["--step-size", "0.1,0.2"], "--step-size: expected one number"),
    ],
)
def test_half_an_option_or_two_are_refused(options: list[str], message: str) -> None:
    told = CliRunner().invoke(command, ["RUN", *options])
    assert message in f"{told.output} {told.exception}"


def test_what_is_left_is_regrouped_into_equal_parts_of_any_number() -> None:
    alive = torch.zeros(1000, dtype=torch.bool)
    alive[torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:330]] = True
    ranges = regrouped(alive, 100)
    counts = [int(alive[start:stop].sum()) for start, stop in ranges]
    assert sum(counts) == 330 and len(counts) == 4
    assert max(counts) - min(counts) <= 1
    assert regrouped(torch.zeros(9, dtype=torch.bool), 4) == []
    assert regrouped(alive, 400) == [(ranges[0][0], ranges[-1][1])]


def test_a_stage_sees_only_what_those_before_it_left_in_its_own_attack() -> None:
    """Stages of two attacks side by side; parts of stages are kept as well."""
    seen: dict[str, int] = dict.fromkeys(["a", "b", "alone"], 0)

    def failing(name: str, every: int) -> Probe:
        def probe(
            model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
        ) -> Tensor:
            seen[name] += len(images)
            return labels % every != 0

        return probe

    chosen = {"a": failing("a", 2), "b": failing("b", 3), "alone": failing("alone", 4)}
    a, b, alone = judge()(MODEL, chosen, after={"b": "a"})
    labels = IMAGES.labels
    assert torch.equal(a, labels % 2 != 0)
    assert torch.equal(b, a & (labels % 3 != 0))
    assert torch.equal(alone, labels % 4 != 0)
    assert seen == {"a": len(labels), "b": int(a.sum()), "alone": len(labels)}


@pytest.mark.parametrize("size", [1, 2, 4])
def test_workers_have_equal_shares_of_ten_thousand_images(size: int) -> None:
    """A simulation: calls are counted, nothing is attacked."""
    flags = torch.rand(4, 10_000, generator=torch.Generator().manual_seed(0)) < 0.7
    alive = torch.ones(10_000, dtype=torch.bool)
    shares = torch.zeros(size)
    for held in flags:
        alive = alive & held
        for place, (start, stop) in enumerate(regrouped(alive, 512)):
            shares[place % size] += int(alive[start:stop].sum())
    assert shares.max() / shares.mean() <= 1.01


def test_samples_of_another_network_or_seed_are_not_mixed_in(tmp_path: Path) -> None:
    Store(tmp_path, identify(MODEL, IMAGES, Config())).open()
    other = network(seed=5).float()
    for store, name in (
        (Store(tmp_path, identify(other, IMAGES, Config())), "parameters_sha256"),
        (Store(tmp_path, identify(MODEL, IMAGES, Config(seed=1))), "seed"),
        (Store(tmp_path, identify(MODEL, some_images(20), Config())), "data_sha256"),
        (
            Store(tmp_path, identify(MODEL, IMAGES, Config(), only_survivors=["a"])),
            "only_survivors",
        ),
    ):
        with pytest.raises(UserError, match=f"with another {name}.*another --output"):
            store.open()
    Store(tmp_path, identify(MODEL, IMAGES, Config())).open()


@pytest.mark.parametrize("text", ["", "[]", '{"start": 0, "stop": 8}', "\xff", "{"])
def test_a_damaged_part_is_named(tmp_path: Path, text: str) -> None:
    store = Store(tmp_path, {})
    store.open()
    (tmp_path / "parts" / "00000000-00000008.json").write_text(text, encoding="latin-1")
    with pytest.raises(
        UserError, match="00000000-00000008.json: not a .*of an evaluation"
    ):
        store.read()


def test_tables_and_curves_are_written(tmp_path: Path) -> None:
    found = results()
    plot_grid(found.as_json(), tmp_path / "accuracy.png")
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    json.dumps(found.as_json())
    samples = found.samples_csv().splitlines()
    assert len(samples) == 1 + len(IMAGES)
    clean = [line.split(",")[2] for line in samples[1:]]
    assert clean == [str(int(flag)) for flag in found.clean]
    assert len(found.cells_csv().splitlines()) == 1 + len(found.cells)


def test_a_table_has_its_columns_beside_a_union_too() -> None:
    cells = Grid(("none", "pgd")).cells(in_union(num_steps=5))
    right = torch.ones(len(cells), len(IMAGES), dtype=torch.bool)
    found = Results(cells, right[0], right, IMAGES.labels)
    none, union = csv.DictReader(found.cells_csv().splitlines())
    assert (none["balls"], none["num_steps"], none["robust_accuracy"]) == (
        "",
        "",
        "1.0",
    )
    assert json.loads(union["balls"].replace("'", '"')) == UNION
    assert (union["num_steps"], union["step_size"]) == ("5", "")
    assert found.as_json()["attack"] == "worst of 2 attacks in a union of balls"


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_points_lie_in_the_ball_and_only_those_that_fool_count(
    norm: str,
) -> None:
    model = network()
    images, labels, noise = batch(32)
    attack = RandomPoints(norm, 0.4, draws=6)
    with nothing_changes(model, images):
        points, correct = attack.worst_case(model, images, labels, noise)
    assert lengths(points - images, norm).max() <= 0.4 + 1e-6
    assert 0 <= points.min() and points.max() <= 1
    model.eval()
    assert torch.equal(model(points).argmax(dim=1) == labels, correct)
    none = RandomPoints(norm, 0.4, draws=0).worst_case(model, images, labels, noise)
    assert torch.equal(none[0], images) and none[1].sum() > correct.sum()


def test_a_network_that_says_nothing_is_never_right() -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)[:, :3] * torch.nan

    images, labels = torch.rand(4, 1, 2, 2), torch.tensor([0, 1, 2, 0])
    noise = SampleNoise(0, torch.arange(4))
    for cell in GRID.cells(OWN):
        probe = survives(cell.build(3))
        assert not probe(Broken().eval(), images, labels, noise).any(), cell.describe()


def test_a_result_names_the_checkpoint_that_was_judged(tmp_path: Path) -> None:
    alone = save_network(tmp_path / "step-00000003", (1, 8, 8), 10, "model.name=mlp")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    shutil.copytree(alone, tmp_path / "run" / "checkpoints" / alone.name)
    for place, name in (alone, alone.name), (tmp_path / "run", "last"):
        file = tmp_path / "result.json"
        evaluate_checkpoint(str(place), Request(max_samples=2, json_file=file), ALONE)
        assert json.loads(file.read_text())["checkpoint"] == name
