"""The L1 ball against its closed forms and published code, and unions of balls."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from dathvd.attacks import BALLS, L1Ball, build_attack
from dathvd.attacks.apgd import APGD
from dathvd.attacks.balls import onto_l1
from dathvd.attacks.climb import SparseClimb
from dathvd.attacks.losses import cross_entropy
from dathvd.config import AttackConfig, EvaluationConfig, load_config
from dathvd.config.attack import Norm
from dathvd.config.evaluation import EvaluationAttackConfig
from dathvd.errors import UserError
from dathvd.evaluation.autoattack import AutoAttack
from dathvd.evaluation.grid import Grid
from dathvd.noise import SampleNoise
from dathvd.objectives import Adversarial, Averaged
from tests.single.small_models import batch, lengths, network

UNION: dict[Norm, float] = {"linf": 0.05, "l1": 1.5}


def points_around() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    images = torch.rand(40, 3, 6, 6).double()
    images[:, 0] = 0.0
    return images, images + 0.7 * torch.randn_like(images)


@pytest.mark.parametrize("epsilon", [0.0, 1e-3, 1.0, 5.0, 1e3])
def test_the_way_into_ball_and_box_is_the_published_one(epsilon: float) -> None:
    base = pytest.importorskip("pyautoattack.autopgd_base")
    images, points = points_around()
    found = L1Ball(epsilon).project(points, images)
    assert float(lengths(found - images, "l1").max()) <= epsilon + 1e-12
    expected = points + base.L1_projection(images, points - images, epsilon)
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-5)  # theirs: float32


def test_what_is_cut_off_is_the_same_of_all_values() -> None:
    change = torch.tensor([[3.0, -2.0, 0.5], [0.1, 0.2, 0.0], [-1.0, -1.0, 1.0]])
    expected = torch.tensor(
        [[1.5, -0.5, 0.0], [0.1, 0.2, 0.0], [-2 / 3, -2 / 3, 2 / 3]]
    )
    torch.testing.assert_close(onto_l1(change, 2.0, None), expected)
    room = torch.tensor([[1.0, 5.0, 5.0], [0.0, 5.0, 5.0], [0.1, 5.0, 5.0]])
    expected = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.2, 0.0], [-0.1, -0.95, 0.95]])
    torch.testing.assert_close(onto_l1(change, 2.0, room), expected)


def test_sparse_steps_change_the_largest_gradients_that_can_move() -> None:
    ball = L1Ball(1.0, density=0.5)
    gradient = torch.tensor([[4.0, -3.0, 2.0, -1.0], [0.0, 0.0, 0.0, 0.0]])
    half = torch.tensor([[0.5, -0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(ball.direction(gradient), half)
    points = torch.tensor([[1.0, 0.5, 0.5, 0.0], [0.5, 0.5, 0.5, 0.5]])
    moves = torch.tensor([[0.0, -0.5, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(ball.ascent(gradient, points), moves)


def test_starts_are_uniform_in_the_ball() -> None:
    """In n dimensions |r| has the mean n / (n + 1), a value E|x| = 1 / (n + 1)."""
    images = torch.zeros(20_000, 3)
    draw = L1Ball(2.0).uniform(images, SampleNoise(0, torch.arange(20_000)), 0) / 2
    assert float(draw.mean(dim=0).abs().max()) < 0.01
    torch.testing.assert_close(
        draw.abs().mean(dim=0), torch.full((3,), 0.25), atol=0.005, rtol=0
    )
    # x ranges over [-1, 1] with density 3/2 (1 - |x|)²
    share = (draw[:, 0].abs() < 0.5).float().mean()
    assert float(share) == pytest.approx(1 - 0.5**3, abs=0.01)


def task() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 6)
    return nn.Sequential(*layers).double(), torch.rand(40, 1, 8, 8).double()


def test_auto_pgd_climbs_as_the_published_code_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = pytest.importorskip("pyautoattack.autopgd_base")
    # rounding in the published projection leaves what it cut off a little above 0
    monkeypatch.setattr(
        base, "L0_norm", lambda x: (x.abs() > 1e-6).flatten(1).sum(dim=1)
    )
    model, images = task()
    labels, epsilon = model(images).argmax(dim=1), 1.5
    steps = 12
    theirs = base.APGDAttack(model, n_iter=steps, norm="L1", eps=epsilon, device="cpu")
    theirs.init_hyperparam(images)
    torch.manual_seed(1)
    start = torch.randn(images.shape)
    start = (images + start + base.L1_projection(images, start, epsilon)).clamp(0, 1)
    torch.manual_seed(1)
    best, _, highest, _ = theirs.attack_single_run(images, labels)
    own = APGD(BALLS["l1"](epsilon), num_steps=steps, loss=cross_entropy)
    climb = own.begin(model, images, labels, None, start.double())
    assert isinstance(climb, SparseClimb)
    for window in climb.windows(steps):
        climb.step(model)
        if window:
            climb.check(window, own.rho)
    # where a change of about 1e-6 is counted by one of them, the ways part
    apart = (climb.best - best).abs().flatten(1).amax(dim=1)
    assert int((apart <= 1e-5).sum()) >= 35
    assert float((climb.best_loss - highest).abs()[apart <= 1e-5].max()) <= 1e-5
    assert float((climb.best_loss.mean() - highest.mean()).abs()) <= 1e-3


def test_the_worst_ball_is_the_one_of_highest_loss() -> None:
    images, labels, noise = batch(24)
    model = network().eval()
    config = AttackConfig(num_steps=4, balls=UNION)
    worst = build_attack(config)(model, images, labels, noise)
    alone = [
        build_attack(config.in_ball(*ball))(model, images, labels, noise)
        for ball in config.balls.items()
    ]
    losses = torch.stack([cross_entropy(model(x), labels, None) for x in alone])
    chosen = losses.argmax(dim=0)
    assert 0 < int(chosen.sum()) < len(images)
    assert torch.equal(worst, torch.stack(alone)[chosen, torch.arange(len(images))])
    assert config.in_ball("l1", 1.5).step_size == 2.5 * 1.5 / 4


def test_each_step_is_at_least_as_high_as_each_balls_own() -> None:
    """One step of steepest descent in several balls is the best of the single steps."""
    images, labels, noise = batch(24)
    model = network().eval()
    union = AttackConfig(balls=UNION, combine="steps", num_steps=1, random_start=False)
    found = build_attack(union)(model, images, labels, noise)
    gain = cross_entropy(model(found), labels, None)
    single = [
        build_attack(union.in_ball(*ball))(model, images, labels, noise)
        for ball in UNION.items()
    ]
    losses = torch.stack([cross_entropy(model(x), labels, None) for x in single])
    torch.testing.assert_close(gain, losses.amax(dim=0))


def test_one_ball_an_image_is_drawn_by_the_image_alone() -> None:
    images, labels, noise = batch(24)
    model = network().eval()
    config = AttackConfig(num_steps=2, balls=UNION, combine="sample")
    whole = build_attack(config)(model, images, labels, noise)
    halves = [
        build_attack(config)(model, images[p], labels[p], noise.select(p))
        for p in torch.arange(24).split([7, 17])
    ]
    torch.testing.assert_close(whole, torch.cat(halves))
    change = whole - images
    in_linf = lengths(change, "linf") <= 0.05 + 1e-9
    assert 4 < int(in_linf.sum()) < 20
    assert bool((lengths(change, "l1")[~in_linf] <= 1.5 + 1e-9).all())


def test_the_mean_over_all_balls_is_trained_on() -> None:
    images, labels, noise = batch(6)
    model = network().eval()
    config = AttackConfig(num_steps=2, balls=UNION, combine="average")
    attack = build_attack(config)
    found = attack(model, images, labels, noise)
    assert attack.variants == 2 and len(found) == 12
    objective = Adversarial(clean_weight=0.5)
    terms = Averaged(objective, 2)(model, images, found, labels)
    each = [objective(model, images, part, labels).loss for part in found.split(6)]
    torch.testing.assert_close(terms.loss, (each[0] + each[1]) / 2)
    logits = torch.stack([model(part) for part in found.split(6)])
    worst = cross_entropy(logits.flatten(0, 1), labels.repeat(2), None).view(2, 6)
    assert terms.adversarial_logits is not None
    torch.testing.assert_close(
        cross_entropy(terms.adversarial_logits, labels, None), worst.amax(dim=0)
    )


def test_an_evaluation_takes_the_worst_of_all_balls() -> None:
    images, labels, noise = batch(40)
    model = network().eval()
    settings = EvaluationAttackConfig(num_steps=5, restarts=1)
    cell = Grid(("pgd",), balls=dict(UNION.items())).cells(settings)[0]
    _, held = cell.build(4).worst_case(model, images, labels, noise)
    expected = torch.ones(40, dtype=torch.bool)
    for norm, epsilon in UNION.items():
        one = Grid(("pgd",), (epsilon,), norm=norm, step_size=epsilon / 2)
        attack = one.cells(settings)[0].build(4)
        expected &= attack.worst_case(model, images, labels, noise)[1]
    assert torch.equal(held, expected) and 0 < int(held.sum()) < 40
    assert cell.threat() == {"norm": "union", "epsilon": 1.5, "balls": UNION}
    assert list(cell.build(4).stages) == ["linf", "l1"]
    trained = settings.model_copy(update={"balls": UNION})
    spatial, none = Grid(("spatial", "none")).cells(trained)
    assert not spatial.settings.balls and not none.settings.balls


def test_the_evaluation_follows_the_balls_of_training() -> None:
    balls = "attack.balls={linf: 8/255, l2: 0.5}"
    config = load_config(None, [balls])
    assert config.evaluation.attack.balls == {"linf": 8 / 255, "l2": 0.5}
    one = load_config(None, [balls, "evaluation.attack.epsilon=0.1"])
    assert one.evaluation.attack.threat == {"linf": 0.1}
    own = Grid(("pgd",), norm="l2").cells(config.evaluation.attack)[0].settings
    assert own.threat.keys() == {"l2"}
    l1 = load_config(None, ["attack.norm=l1", "attack.epsilon=12"])
    assert l1.evaluation.attack.threat == {"l1": 12.0}


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["attack.combine=average"], "combine is of a union: set balls"),
        (["attack.balls={l1: 12}"], "one ball is no union"),
        (["attack.balls={l1: 12, l3: 1}"], "l3"),
        (["attack.name=free", "attack.balls={l1: 12, l2: 1}"], "free knows no union"),
        (
            [
                "attack.name=apgd",
                "attack.balls={l1: 12, l2: 1}",
                "attack.combine=steps",
            ],
            "combine steps is for pgd",
        ),
    ],
)
def test_what_no_union_is(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(None, overrides)
    with pytest.raises(ValueError, match="combine average is of training"):
        attack = EvaluationAttackConfig(balls=UNION, combine="average")
        EvaluationConfig(attack=attack)


def test_auto_attack_in_an_l1_ball_has_the_published_settings() -> None:
    cell = Grid(("autoattack",), (12.0,), norm="l1").cells(EvaluationAttackConfig())[0]
    attack = cell.build(10)
    assert isinstance(attack, AutoAttack)
    assert attack.ball.epsilon == 12.0
    assert (attack.runs.starts, attack.runs.targets) == (5, 5)
    assert attack.runs.phases == ((3, 30), (2, 30), (1, 40))


def test_auto_pgd_uses_what_the_ball_holds() -> None:
    model, images = task()
    labels = model(images).argmax(dim=1)
    noise = SampleNoise(0, torch.arange(len(images)))
    attack = APGD(L1Ball(1.5), num_steps=20)
    found = attack(model, images, labels, noise)
    length = lengths(found - images, "l1")
    assert bool((length <= 1.5 + 1e-9).all()) and float(length.mean()) > 1.4
    few = (found != images).flatten(1).sum(dim=1).double().mean()
    assert float(few) < math.prod(images.shape[1:]) / 2
