"""The attacks of AutoAttack: the same images fall as to its authors' code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from dathvd.attacks.apgd import APGD, fallen, surface_point
from dathvd.attacks.balls import BALLS
from dathvd.attacks.climb import Climb
from dathvd.attacks.losses import cross_entropy, dlr_to_target
from dathvd.evaluation.autoattack import AutoAttack
from dathvd.evaluation.autoattack.fab import fab
from dathvd.evaluation.autoattack.hyperplane import onto_plane
from dathvd.evaluation.autoattack.square import (
    _L1Squares,
    _L2Squares,
    _LinfSquares,
    share_of,
    square,
)
from dathvd.noise import SampleNoise, hash_word
from tests.single.small_models import lengths

theirs = pytest.importorskip("pyautoattack", reason="the published code is the test's")

COUNT, CLASSES, SIDE = 40, 6, 8
RADII = {"linf": 0.02, "l2": 0.3, "l1": 1.0}
NAMES = {"linf": "Linf", "l2": "L2", "l1": "L1"}
NOISE = SampleNoise(0, torch.arange(COUNT))


def task(
    channels: int = 1, dtype: torch.dtype = torch.float64
) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    size = channels * SIDE**2
    layers = nn.Flatten(), nn.Linear(size, 32), nn.Tanh(), nn.Linear(32, CLASSES)
    images = torch.rand(COUNT, channels, SIDE, SIDE, dtype=dtype)
    images[:, :, 0] = 0.0  # some pixels lie on a face of the box
    return nn.Sequential(*layers).to(dtype), images


def seconds(model: nn.Module, images: Tensor) -> Tensor:
    """The class that comes second."""
    order: Tensor = model(images).argsort(dim=1, descending=True)
    return order[:, 1]


@pytest.mark.parametrize("norm", RADII)
def test_the_way_onto_a_plane_is_the_published_one_without_its_sorting(
    norm: str,
) -> None:
    from pyautoattack import fab_projections

    torch.manual_seed(0)
    points, normal = torch.rand(200, 30).double(), torch.randn(200, 30).double()
    points[:, :3], points[:, 3], normal[:, 5] = 0.0, 1.0, 0.0
    offset = 3 * torch.randn(200).double()
    offset[:3] = 100.0  # the box ends before these planes
    normal[4] = 0.0
    expected = getattr(fab_projections, f"projection_{norm}")(points, normal, offset)
    gap = (normal * points).sum(dim=1) - offset
    steps = onto_plane(points, normal, gap, BALLS[norm].order)
    assert torch.allclose(steps, expected, atol=1e-9)
    assert not steps[4].any()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("aimed", [False, True])
def test_auto_pgd_fools_where_the_published_code_does(norm: str, aimed: bool) -> None:
    from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted

    model, images = task()
    labels, ball = model(images).argmax(dim=1), BALLS[norm](RADII[norm])
    aims = seconds(model, images) if aimed else None
    start = surface_point(ball, images, NOISE, 5)
    kind = APGDAttack_targeted if aimed else APGDAttack
    loss = dlr_to_target if aimed else cross_entropy

    def run_published(steps: int) -> tuple[Tensor, ...]:
        attack = kind(
            model, n_iter=steps, norm=NAMES[norm], eps=RADII[norm], device="cpu"
        )
        attack.init_hyperparam(images)
        attack.y_target = aims
        found: tuple[Tensor, ...] = attack.attack_single_run(
            images, labels, x_init=start
        )
        return found

    own = APGD(ball, num_steps=100, loss=loss)
    down = torch.zeros(COUNT, dtype=torch.bool)
    for places, points in fallen(model, images, labels, aims, start, own):
        down[places] = True
        assert (model(points).argmax(dim=1) != labels[places]).all()
        assert lengths(points - images[places], norm).max() <= RADII[norm] + 1e-9
    assert torch.equal(down, run_published(100)[1] == 0)
    assert 4 < down.sum() < COUNT - 4

    best, _, highest, _ = run_published(8)  # rounding grows with more of them
    own = APGD(ball, num_steps=8, loss=loss)
    climb = own.begin(model, images, labels, aims, start)
    for window in climb.windows(own.num_steps):
        climb.step(model)
        if window:
            climb.check(window, own.rho)
    assert (climb.best_loss - highest).abs().max() <= 1e-5
    assert (climb.best - best).abs().max() <= 1e-5


@pytest.mark.parametrize("norm", RADII)
def test_fab_finds_in_the_ball_what_the_published_code_finds(norm: str) -> None:
    from pyautoattack.fab_pt import FABAttack_PT

    model, images = task(dtype=torch.float32)
    labels, aims = model(images).argmax(dim=1), seconds(model, images)
    published = FABAttack_PT(model, norm=NAMES[norm], eps=RADII[norm], device="cpu")
    published.target_class = 2
    found = published.attack_single_run(images, labels, is_targeted=True)
    near = lengths(found - images, norm) <= RADII[norm]
    expected = near & (model(found).argmax(dim=1) != labels)
    down = torch.zeros(COUNT, dtype=torch.bool)
    for places, points in fab(model, images, labels, aims, BALLS[norm](RADII[norm])):
        down[places] = True
        assert lengths(points - images[places], norm).max() <= RADII[norm]
    assert torch.equal(down, expected)
    assert 4 < down.sum() < COUNT - 4


def test_square_takes_the_published_way_and_asks_less() -> None:
    """With the same draws, square by square; the published code asks every query."""
    from pyautoattack.square import SquareAttack

    model, images = task(channels=3, dtype=torch.float32)
    labels, epsilon, queries = model(images).argmax(dim=1), 0.03, 300
    ball = BALLS["linf"](epsilon)
    draws = _LinfSquares(images, ball, NOISE, 7)

    class Published(SquareAttack):  # type: ignore[misc]
        calls = 0

        def random_int(
            self, low: int = 0, high: int = 1, shape: object = None
        ) -> Tensor:
            query, place = divmod(self.calls, 2)
            self.calls += 1
            return torch.tensor([draws._below(high, query, place)])

        def random_choice(self, shape: list[int]) -> Tensor:
            if len(shape) == 4:
                return draws._signs((COUNT, 3, 1, SIDE), -1)
            query = self.calls // 2 - 1
            bits = [hash_word(draws._seed, query, 2, place) & 1 for place in range(3)]
            return torch.tensor(bits).float().mul(2).sub(1).view(3, 1, 1)

    published = Published(
        model, eps=epsilon, n_queries=queries, resc_schedule=False, device="cpu"
    )
    published.init_hyperparam(images)
    asked_there, best = published.attack_single_run(images, labels)
    asked = 0

    def network(points: Tensor) -> Tensor:
        nonlocal asked
        asked += len(points)
        logits: Tensor = model(points)
        return logits

    down = torch.zeros(COUNT, dtype=torch.bool)
    for places, points in square(
        network, images, labels, ball, NOISE, 7, num_queries=queries
    ):
        down[places] = True
        assert torch.allclose(points, best[places], atol=1e-6)
    assert torch.equal(down, model(best).argmax(dim=1) != labels)
    assert 4 < down.sum() < COUNT - 4
    assert asked < asked_there.sum()


@pytest.mark.slow
@pytest.mark.parametrize("norm, kind", [("l2", _L2Squares), ("l1", _L1Squares)])
def test_windows_of_square_take_the_published_way(
    norm: str, kind: type[_L2Squares]
) -> None:
    """Each image by itself, as the published code draws for those that are left."""
    from pyautoattack.square import SquareAttack

    model, images = task(channels=3, dtype=torch.float32)
    labels, queries = model(images).argmax(dim=1), 60
    ball = BALLS[norm](1.5 * RADII[norm])
    fell = 0
    for place in range(12):
        own = NOISE.select(torch.tensor([place]))
        batch = images[place : place + 1], labels[place : place + 1]
        draws = kind(batch[0], ball, own, 7)

        class Published(SquareAttack):  # type: ignore[misc]
            numbers = patterns = 0
            query: tuple[int, ...] = ()

            def random_int(self, low: int = 0, high: int = 1) -> Tensor:
                query, number = divmod(self.numbers, 4)
                self.numbers += 1
                which = (0, 2, 1, 3)[number]  # rows and columns take turns there
                return torch.tensor([draws._below(high, query, which)])

            def eta(self, side: int) -> Tensor:
                query = self.patterns - SIDE**2  # the first ones are tiles of a pixel
                self.patterns += 1
                self.query = (query,) if query >= 0 else (-1, self.patterns - 1)
                return draws._pattern(side, *self.query)

            def random_choice(self, shape: list[int]) -> Tensor:
                query, *tile = self.query
                return draws._signs((1, 3, 1, 1), -2 - tile[0] if tile else query)

        published = Published(
            model,
            norm=NAMES[norm],
            eps=ball.epsilon,
            n_queries=queries,
            resc_schedule=False,
            device="cpu",
        )
        published.init_hyperparam(images)
        _, best = published.attack_single_run(*batch)
        down = False
        for _, points in square(model, *batch, ball, own, 7, num_queries=queries):
            down = True
            assert torch.allclose(points, best, atol=1e-5)
        assert down == bool(model(best).argmax() != batch[1])
        fell += down
    assert 2 < fell < 10


@pytest.mark.parametrize("aimed", [False, True])
def test_auto_pgd_nears_an_l1_ball_from_larger_ones_as_published(
    monkeypatch: pytest.MonkeyPatch, aimed: bool
) -> None:
    """With our projection, as the published one rounds to float32 and leaves what it
    cut off a little above 0, which then counts as changed."""
    from pyautoattack import autopgd_base as base

    monkeypatch.setattr(
        base,
        "L1_projection",
        lambda images, change, epsilon: BALLS["l1"](epsilon).project(
            images + change, images
        )
        - images
        - change,
    )
    monkeypatch.setattr(
        base, "L0_norm", lambda x: (x.abs() > 1e-9).flatten(1).sum(dim=1)
    )
    model, images = task()
    labels = model(images).argmax(dim=1)
    aims = seconds(model, images) if aimed else None
    own = AutoAttack("l1", RADII["l1"], num_classes=CLASSES)
    kind = base.APGDAttack_targeted if aimed else base.APGDAttack
    attack = kind(model, n_iter=100, norm="L1", eps=RADII["l1"], device="cpu")
    attack.init_hyperparam(images)
    attack.y_target = aims
    times, steps = zip(*own.runs.phases)
    radii = [factor * RADII["l1"] for factor in times]
    draw = NOISE.normal(images.shape, 5).to(images.dtype)
    monkeypatch.setattr(torch, "randn_like", lambda like: draw.clone())
    _, robust, _, _ = attack.decr_eps_pgd(images, labels, radii, steps)
    down = torch.zeros(COUNT, dtype=torch.bool)
    for places, points in own._apgd(model, images, labels, aims, NOISE, 5):
        down[places] = True
        assert lengths(points - images[places], "l1").max() <= RADII["l1"] + 1e-9
    assert torch.equal(down, robust == 0)
    assert 4 < down.sum() < COUNT - 4


def test_squares_of_l2_have_the_published_pattern_and_stay_on_the_sphere() -> None:
    from pyautoattack.square import SquareAttack

    model, images = task(channels=3, dtype=torch.float32)
    ball = BALLS["l2"](0.4)
    draws = _L2Squares(images, ball, NOISE, 7)
    published = SquareAttack(model, norm="L2", eps=0.4, device="cpu")
    for side in (1, 2, 3, 5, 8):
        expected, pattern = published.eta(side), draws._pattern(side, 0)
        assert torch.allclose(expected, pattern, atol=1e-6) or torch.allclose(
            expected, pattern.T, atol=1e-6
        )
    inside = torch.full_like(images, 0.5)
    draws = _L2Squares(inside, ball, NOISE, 7)
    points = draws.first()
    for query in (0, 100, 3000):
        _, points = draws.next(points, query)
        length = lengths(points - inside, "l2")
        assert torch.allclose(length, torch.full_like(length, 0.4), atol=1e-5)


def test_squares_shrink_as_published() -> None:
    model, _ = task(channels=3)
    published = theirs.square.SquareAttack(model, eps=0.1, resc_schedule=False)
    for query in (0, 10, 11, 50, 51, 200, 501, 1001, 2001, 4001, 4999, 8001):
        assert share_of(query) == pytest.approx(published.p_selection(query))


@pytest.mark.parametrize("norm", RADII)
def test_starts_of_auto_pgd_lie_on_the_surface(norm: str) -> None:
    images = torch.full((COUNT, 1, SIDE, SIDE), 0.5).double()
    length = lengths(surface_point(BALLS[norm](0.3), images, NOISE, 5) - images, norm)
    assert torch.allclose(length, torch.full_like(length, 0.3))


def test_windows_of_auto_pgd_end_where_the_paper_says() -> None:
    ends = [step for step, window in enumerate(Climb.windows(100), start=1) if window]
    assert ends[:7] == [22, 41, 57, 70, 80, 87, 93]


@pytest.mark.parametrize("norm", RADII)
def test_an_image_falls_the_same_in_any_company(norm: str) -> None:
    model, images = task(dtype=torch.float32)
    labels, aims = model(images).argmax(dim=1), seconds(model, images)
    ball = BALLS[norm](RADII[norm])
    some = torch.tensor([3, 17, 30])

    def found(places: Tensor) -> list[bool]:
        down = torch.zeros(COUNT, dtype=torch.bool)
        own = NOISE.select(places)
        args = model, images[places], labels[places]
        attack = APGD(ball, num_steps=20)
        start = surface_point(ball, images[places], own, 5)
        for at, _ in fallen(*args, None, start, attack):
            down[places[at]] = True
        for at, _ in square(*args, ball, own, 7, num_queries=60):
            down[places[at]] = True
        for at, _ in fab(*args, aims[places], ball, num_steps=10):
            down[places[at]] = True
        return down[some].tolist()

    assert found(some) == found(torch.arange(COUNT))
