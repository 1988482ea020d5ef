"""An attack is judged by its own settings and under its own name, or is refused."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import dathvd.components
from dathvd.attacks import ATTACKS, Attack, describe_attack
from dathvd.attacks.attack import correct_on
from dathvd.commands.evaluate import command
from dathvd.config import AttackConfig, Config
from dathvd.config.evaluation import EvaluationAttackConfig
from dathvd.data import Dataset
from dathvd.data.sets import TensorImages
from dathvd.errors import UserError
from dathvd.evaluation import EVALUATION_ATTACKS, EvaluationAttack, Grid, Request
from dathvd.evaluation.attack_kind import GRID_OPTIONS, place
from dathvd.evaluation.grid import Cell
from dathvd.evaluation.requests import evaluate_cells
from dathvd.noise import SampleNoise
from dathvd.report.evaluation import print_grid
from dathvd.runtime import Runtime

ALONE = Runtime(0, 1, 0, 1, torch.device("cpu"), "mpi", 1)
OWN = EvaluationAttackConfig(num_steps=3, restarts=2, momentum=0.5)


class Bleach(Attack):
    """Makes images white where the radius allows it, in any number of rounds."""

    def __init__(self, epsilon: float, rounds: int) -> None:
        self.epsilon, self.rounds = epsilon, rounds

    def __repr__(self) -> str:
        return f"Bleach({self.epsilon}, rounds={self.rounds})"

    def __call__(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> Tensor:
        return (images + self.epsilon).clamp_(max=1.0)

    def worst_case(
        self, model: nn.Module, images: Tensor, labels: Tensor, noise: SampleNoise
    ) -> tuple[Tensor, Tensor]:
        white = self(model, images, labels, noise)
        clean = correct_on(model, images, labels)
        return white, clean & correct_on(model, white, labels)


def three_rounds(config: AttackConfig) -> Bleach:
    """What the configuration's registry is to hold for a test."""
    return Bleach(0.5, rounds=3)


BLEACH = EvaluationAttack(
    build=lambda settings, num_classes: Bleach(settings.epsilon, settings.num_steps),
    describe=lambda settings: f"bleach {place(settings)}, {settings.num_steps} rounds",
    options=frozenset({"num_steps"}),
    fixed={"restarts": 1},
)


class Brightness(nn.Module):
    """Tells dark images (class 0) from bright ones (class 1)."""

    def forward(self, images: Tensor) -> Tensor:
        bright = images.mean(dim=(1, 2, 3)) - 0.5
        return torch.stack([-bright, bright], dim=1)


@pytest.fixture
def bleach(monkeypatch: pytest.MonkeyPatch) -> None:
    table = dathvd.components.EVALUATION_ATTACKS.places
    monkeypatch.setitem(table, "bleach", f"{__name__}:BLEACH")


def shades() -> Dataset:
    """Images of one shade each, from black to white, with Brightness's own labels."""
    levels = torch.arange(0, 256, 15, dtype=torch.uint8)
    images = levels.view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    test = TensorImages(images, (levels > 127).long())
    return Dataset(test, test, ("dark", "bright"), (1, 2, 2))


@pytest.mark.usefixtures("bleach")
def test_a_registered_attack_runs_with_its_settings_and_under_its_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    cells = Grid(("bleach", "pgd"), (0.2,), (4, 7), restarts=3).cells(OWN)
    results = evaluate_cells(
        Brightness(), shades(), Config(), cells, Request(), ALONE
    ).as_json()
    rows = {row["description"]: row for row in results["cells"]}
    assert list(rows)[:2] == [
        "bleach linf epsilon 0.2, 4 rounds",
        "bleach linf epsilon 0.2, 7 rounds",
    ]
    # shades 90, 105 and 120 of 255 become bright, and only they
    expected = pytest.approx(15 / 18)
    for steps in (4, 7):
        row = rows[f"bleach linf epsilon 0.2, {steps} rounds"]
        assert row["robust_accuracy"] == expected
        assert (row["num_steps"], row["step_size"], row["restarts"]) == (steps, None, 1)
    print_grid(results, title="a run")
    assert capsys.readouterr().out.count("bleach") == 2


@pytest.mark.usefixtures("bleach")
def test_a_registered_attack_does_not_inherit_what_it_does_not_take() -> None:
    (cell,) = Grid(("bleach",), (0.2,), (4,)).cells(OWN)
    assert cell.settings == EvaluationAttackConfig(epsilon=0.2, num_steps=4, restarts=1)
    (pgd,) = Grid(("pgd",), (OWN.epsilon,)).cells(OWN)
    assert pgd.settings == OWN


@pytest.mark.parametrize("name", ["square", "bleach", "free"])
def test_a_name_without_an_entry_is_refused_and_never_becomes_pgd(name: str) -> None:
    with pytest.raises(UserError, match=f"--attack: unknown '{name}'"):
        Grid((name,), (0.1,)).cells(OWN)
    cell = Cell(name, OWN)
    for use in (cell.describe, lambda: cell.build(10), lambda: cell.takes("restarts")):
        with pytest.raises(UserError, match=f"--attack: unknown '{name}'"):
            use()
    with pytest.raises(UserError, match="attack.name: unknown 'square'"):
        describe_attack(AttackConfig().model_copy(update={"name": "square"}))


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (Grid(("autoattack",), num_steps=(50,)), "--num-steps: autoattack has none"),
        (Grid(("fgsm", "noise"), step_size=0.1), "--step-size: fgsm, noise has none"),
        (
            Grid(("fgsm",), restarts=5),
            "--restarts: fgsm has none; .* add one of fgsm_rs",
        ),
    ],
)
def test_options_that_no_attack_of_the_grid_takes_are_refused(
    grid: Grid, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        grid.cells(OWN)


@pytest.mark.parametrize("name", sorted(EVALUATION_ATTACKS))
def test_every_entry_makes_a_cell_that_says_its_radius_and_its_options(
    name: str,
) -> None:
    kind = EVALUATION_ATTACKS[name]
    assert kind.options <= set(GRID_OPTIONS)
    assert not kind.options & (kind.fixed.keys() - {"restarts"})
    grid = Grid((name,), (0.0625,), (13,) if "num_steps" in kind.options else ())
    (cell,) = grid.cells(OWN)
    text = cell.describe()
    if name == "none":
        assert text == "none"
    elif name == "spatial":  # it has a reach of its own
        assert "30°" in text
    else:
        assert "linf epsilon 0.0625" in text
        assert ("13" in text) == ("num_steps" in kind.options)
        assert ("restart" in text) <= (name != "autoattack")


def test_no_two_attacks_share_a_description() -> None:
    cells = Grid(tuple(EVALUATION_ATTACKS), (0.1,)).cells(OWN)
    assert len({cell.describe() for cell in cells}) == len(EVALUATION_ATTACKS)


def test_every_attack_of_training_is_described_by_its_own_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = {describe_attack(AttackConfig(name=name)) for name in ATTACKS}
    assert len(lines) == len(ATTACKS)
    assert describe_attack(AttackConfig(loss="kl")).startswith("PGD-KL-5 linf")
    place = f"{__name__}:three_rounds"
    monkeypatch.setitem(dathvd.components.ATTACKS.places, "bleach", place)
    own = EvaluationAttackConfig().model_copy(update={"name": "bleach"})
    assert describe_attack(own) == "Bleach(0.5, rounds=3)"
    cell = Cell("bleach", own)
    assert cell.describe() == "Bleach(0.5, rounds=3)"
    assert isinstance(cell.build(2), Bleach)


def test_the_help_names_every_attack() -> None:
    text = CliRunner().invoke(command, ["--help"]).output
    assert [name for name in EVALUATION_ATTACKS if name not in text] == []
