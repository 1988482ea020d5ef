"""Laws that every attack keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dathvd.attacks import ATTACKS, PGD, LinfBall, build_attack
from dathvd.attacks.schedules import STEP_SCHEDULES, least_likely_target, random_target
from dathvd.config import AttackConfig, EvaluationConfig
from dathvd.errors import UserError
from dathvd.noise import SampleNoise
from tests.single.small_models import batch, lengths, network, nothing_changes

NAMES = sorted(ATTACKS)
UNION = {"linf": 0.05, "l2": 0.2, "l1": 0.9}
OPTIONS: list[dict[str, Any]] = [
    {"name": name, "norm": norm, "model_mode": mode}
    for name in NAMES
    for norm in ("linf", "l2", "l1")
    for mode in ("eval", "train")
] + [
    {"name": "pgd", "restarts": 3},
    {"name": "pgd", "norm": "l2", "momentum": 0.9, "step_schedule": "cosine"},
    {"name": "pgd", "loss": "margin", "early_stop": True},
    {"name": "pgd", "loss": "kl", "start": "gaussian"},
    {"name": "pgd", "loss": "squared", "norm": "l2"},
    {"name": "pgd", "target": "random", "restarts": 2},
    {"name": "pgd", "target": "least_likely", "model_mode": "train"},
    {"name": "fgsm_rs", "restarts": 2, "norm": "l2"},
    {"name": "apgd", "restarts": 2, "norm": "l2"},
    {"name": "apgd", "loss": "kl"},
    {"name": "pgd", "channels_last": False, "fold_batch_norm": False},
    {"name": "pgd", "balls": UNION, "restarts": 2},
    {"name": "apgd", "balls": UNION, "loss": "kl"},
    {"name": "n_fgsm", "balls": UNION, "combine": "sample"},
    {"name": "pgd", "balls": UNION, "combine": "steps", "momentum": 0.9},
]


def identify(options: dict[str, Any]) -> str:
    return "-".join(str(value) for value in options.values())


@pytest.fixture(params=OPTIONS, ids=identify)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    chosen: dict[str, Any] = request.param
    return chosen


def config(**changes: Any) -> AttackConfig:
    settings = {"epsilon": 0.1, "step_size": 0.04, "num_steps": 3} | changes
    return AttackConfig(**settings)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_result_is_in_the_ball_and_in_the_box(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(*[st.integers(1, 5)] * 3), "shape")
    size = data.draw(st.integers(0, 4), "batch")
    epsilon = data.draw(st.sampled_from([0.0, 1e-6, 8 / 255, 0.5, 3.0, 1e6]), "epsilon")
    name = data.draw(st.sampled_from(NAMES), "name")
    random_start = data.draw(st.booleans(), "random start")
    chosen = config(
        name=name,
        norm=data.draw(st.sampled_from(["linf", "l2", "l1"]), "norm"),
        epsilon=epsilon,
        step_size=epsilon * data.draw(st.sampled_from([0.0, 0.3, 10.0]), "step"),
        num_steps=data.draw(st.integers(0, 3), "steps"),
        random_start=random_start,
        start=data.draw(st.sampled_from(["uniform", "gaussian"]), "start"),
        start_std=0.5,
        restarts=2 if name == "fgsm_rs" or (name == "pgd" and random_start) else 1,
        momentum=data.draw(st.sampled_from([0.0, 1.0]), "momentum"),
        loss=data.draw(st.sampled_from(["cross_entropy", "margin"]), "loss"),
        early_stop=data.draw(st.booleans(), "early stop"),
    )
    images, labels, noise = batch(size, shape)
    model, images = network(shape).float(), images.float()
    attack = build_attack(chosen)
    found = [attack(model, images, labels, noise)]
    if name != "free":
        found.append(attack.worst_case(model, images, labels, noise)[0])
    for result in found:
        assert result.shape == images.shape and result.dtype == images.dtype
        assert bool((result >= 0).all()) and bool((result <= 1).all())
        distance = lengths((result - images).double(), chosen.norm)
        radius = attack.reach * epsilon
        assert bool((distance <= radius * (1 + 1e-6) + 2e-7).all())


@pytest.mark.parametrize("training", [False, True])
def test_attack_changes_nothing(options: dict[str, Any], training: bool) -> None:
    images, labels, noise = batch()
    model = network().train(training)
    model.get_submodule("1").eval()  # a frozen layer keeps its own mode
    next(model.parameters()).requires_grad_(False)
    model(images).sum().backward()
    attack = build_attack(config(**options))
    with nothing_changes(model, images, labels):
        result = attack(model, images, labels, noise)
        if options["name"] != "free":
            assert not result.requires_grad
            attack.worst_case(model, images, labels, noise)


def test_train_mode_uses_the_statistics_of_the_batch() -> None:
    images, labels, noise = batch()
    model = network()
    trained = build_attack(config(model_mode="train"))(model, images, labels, noise)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.add_(100.0)  # type: ignore[union-attr]
    again = build_attack(config(model_mode="train"))(model, images, labels, noise)
    assert torch.equal(trained, again)


class Failing(nn.Module):
    """Fails in the middle of an attack."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 2:
            raise RuntimeError("out of luck")
        logits: Tensor = self.inner(images)
        return logits


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("training", [False, True])
def test_attack_changes_nothing_on_errors(mode: str, training: bool) -> None:
    images, labels, noise = batch()
    model = Failing().train(training)
    as_it_is = dict(channels_last=False, fold_batch_norm=False, winograd=False)
    chosen = config(model_mode=mode, **as_it_is)
    with nothing_changes(model, images, labels):
        with pytest.raises(RuntimeError, match="out of luck"):
            build_attack(chosen)(model, images, labels, noise)


def test_no_hook_of_a_weight_fires(options: dict[str, Any]) -> None:
    images, labels, noise = batch()
    model = network()
    fired: list[Tensor] = []
    accumulators: list[Any] = []
    for weight in model.parameters():
        weight.register_hook(fired.append)
        weight.register_post_accumulate_grad_hook(fired.append)
        node: Any = weight.expand_as(weight).grad_fn
        accumulators.append(node.next_functions[0][0])  # where Horovod 0.28 hooks
        accumulators[-1].register_hook(lambda *_: fired.append(images))
    build_attack(config(**options))(model, images, labels, noise)
    assert not fired
    model(images).sum().backward()
    assert len(fired) == 3 * len(accumulators)


def test_result_is_deterministic(options: dict[str, Any]) -> None:
    images, labels, noise = batch()
    model = network()
    first = build_attack(config(**options))(model, images, labels, noise)
    torch.manual_seed(123)
    second = build_attack(config(**options))(model, images, labels, noise)
    assert torch.equal(first, second)


def test_attack_works_where_gradients_are_off(options: dict[str, Any]) -> None:
    images, labels, noise = batch()
    model = network()
    expected = build_attack(config(**options))(model, images, labels, noise)
    with torch.no_grad():
        found = build_attack(config(**options))(model, images, labels, noise)
        assert not torch.is_grad_enabled()
    assert torch.equal(found, expected)


def test_random_state_of_torch_is_left_alone(options: dict[str, Any]) -> None:
    images, labels, noise = batch()
    before = torch.get_rng_state()
    model = network()
    before = torch.get_rng_state()
    build_attack(config(**options))(model, images, labels, noise)
    assert torch.equal(before, torch.get_rng_state())


# batch norm in train mode mixes the samples of a batch
@pytest.mark.parametrize(
    "options",
    [options for options in OPTIONS if options.get("model_mode") != "train"],
    ids=identify,
)
def test_result_does_not_depend_on_who_shares_the_batch(
    options: dict[str, Any],
) -> None:
    images, labels, _ = batch(8)
    ids = torch.tensor([40, 7, 3, 99, 12, 0, 5, 61])
    model = network()
    attack = build_attack(config(**options))
    whole = attack(model, images, labels, SampleNoise(3, ids))
    for part in (torch.arange(3), torch.tensor([6, 3, 7])):
        noise = SampleNoise(3, ids[part])
        alone = build_attack(config(**options))(
            model, images[part], labels[part], noise
        )
        torch.testing.assert_close(alone, whole[part], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["pgd", "fgsm_rs"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_restarts_never_help_the_model(name: str, norm: str) -> None:
    images, labels, noise = batch(40)
    model = network(seed=5)
    epsilon = 0.05 if norm == "linf" else 0.3
    survivors, losses = [], []
    for restarts in (1, 2, 4):
        attack = build_attack(
            config(name=name, norm=norm, epsilon=epsilon, restarts=restarts)
        )
        survivors.append(attack.worst_case(model, images, labels, noise)[1])
        found = attack(model, images, labels, noise)
        with torch.no_grad():
            logits = model.eval()(found)
        losses.append(nn.functional.cross_entropy(logits, labels, reduction="none"))
    for fewer, more in zip(survivors, survivors[1:]):
        assert bool((more <= fewer).all())
    for lower, higher in zip(losses, losses[1:]):
        assert bool((higher >= lower - 1e-12).all())
    assert bool((losses[2] > losses[0] + 1e-6).any())


def test_worst_case_flags_agree_with_the_model() -> None:
    images, labels, noise = batch(40)
    model = network(seed=5).train()
    attack = build_attack(config(restarts=3, epsilon=0.05))
    found, correct = attack.worst_case(model, images, labels, noise)
    with torch.no_grad():
        right = model.eval()(found).argmax(1) == labels
        clean = model(images).argmax(1) == labels
    assert torch.equal(right, correct)
    assert bool((correct <= clean).all()) and bool((correct < clean).any())
    assert torch.equal(found[~clean], images[~clean])


def test_worst_case_skips_what_is_broken() -> None:
    images, _, noise = batch(40)
    model = network(seed=5).eval()
    labels = model(images).argmax(dim=1)
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    attack = build_attack(config(restarts=6, epsilon=0.02, step_size=0.01, num_steps=1))
    attack.worst_case(model, images, labels, noise)
    assert sizes[0] == 40 and sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) > 3


def test_worst_case_of_an_image_does_not_depend_on_its_batch() -> None:
    images, labels, _ = batch(40)
    model, ids = network(seed=5), torch.arange(40) * 7
    attack = build_attack(
        config(name="fgsm_rs", restarts=3, epsilon=0.02, loss="margin")
    )
    whole, correct = attack.worst_case(model, images, labels, SampleNoise(3, ids))
    assert 0 < int(correct.sum()) < 40
    for sample in range(40):
        own = slice(sample, sample + 1)
        noise = SampleNoise(3, ids[own])
        alone, survived = attack.worst_case(model, images[own], labels[own], noise)
        torch.testing.assert_close(alone, whole[own], rtol=0, atol=1e-9)
        assert torch.equal(survived, correct[own])


def test_more_steps_raise_the_loss() -> None:
    images, labels, noise = batch(30)
    model = network().eval()
    losses = []
    for steps in (0, 1, 3, 10):
        attack = build_attack(config(num_steps=steps, step_size=0.02))
        with torch.no_grad():
            logits = model(attack(model, images, labels, noise))
        losses.append(nn.functional.cross_entropy(logits, labels).item())
    assert losses == sorted(losses) and losses[-1] > losses[0] + 0.1


def test_linear_model_has_a_closed_form() -> None:
    # the worst point of a linear two-class model is x -+ epsilon * sign(w_other - w)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()
    images = 0.3 + 0.4 * torch.rand(5, 3, 2, 2, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1, 1])
    weight = model.get_parameter("1.weight").detach()
    away = (weight[1 - labels] - weight[labels]).sign().view(images.shape)
    noise = SampleNoise(0, torch.arange(5))
    for loss in ("cross_entropy", "margin"):
        attack = build_attack(config(num_steps=10, loss=loss))
        found = attack(model, images, labels, noise)
        torch.testing.assert_close(found, images + 0.1 * away, rtol=0, atol=1e-12)


def test_early_stop_keeps_the_first_wrong_point() -> None:
    images, _, noise = batch(40)
    model = network(seed=5).eval()
    labels = model(images).argmax(dim=1)
    options = {"epsilon": 0.03, "step_size": 0.004, "random_start": False}
    path = [
        build_attack(config(num_steps=steps, **options))(model, images, labels, noise)
        for steps in range(9)
    ]
    stopped = build_attack(config(num_steps=8, early_stop=True, **options))(
        model, images, labels, noise
    )
    with torch.no_grad():
        wrong = torch.stack([model(points).argmax(1) != labels for points in path])
    assert 0 < int(wrong[-1].sum()) < 40
    for sample in range(40):
        hits = wrong[:, sample].nonzero().flatten().tolist()
        step = hits[0] if hits else 8
        torch.testing.assert_close(stopped[sample], path[step][sample])


def test_schedules_start_at_the_full_step_and_shrink() -> None:
    for name, schedule in STEP_SCHEDULES.items():
        factors = [schedule(step / 10) for step in range(10)]
        assert factors[0] == 1.0
        assert factors == sorted(factors, reverse=True) and factors[-1] > 0, name
    assert STEP_SCHEDULES["linear"](0.25) == 0.75
    assert STEP_SCHEDULES["cosine"](0.5) == pytest.approx(0.5)


def test_targets_are_wrong_classes() -> None:
    ids = torch.arange(4000)
    labels = ids % 4
    logits = torch.randn(4000, 4)
    drawn = random_target(logits, labels, SampleNoise(0, ids))
    assert not bool((drawn == labels).any())
    counts = torch.bincount((drawn - labels) % 4, minlength=4)
    assert counts[0] == 0 and bool((counts[1:] > 1200).all())
    least = least_likely_target(logits, labels, SampleNoise(0, ids))
    assert not bool((least == labels).any())
    rows = torch.arange(4000)
    others = logits.scatter(1, labels[:, None], torch.inf)
    assert torch.equal(logits[rows, least], others.amin(dim=1))


def test_targeted_attack_raises_the_target() -> None:
    images, labels, noise = batch(30)
    model = network(seed=5).eval()
    goal = (labels + 1) % 4
    attack = PGD(LinfBall(0.1), step_size=0.02, num_steps=10, target=lambda *_: goal)
    with torch.no_grad():
        before = model(images).log_softmax(1).gather(1, goal[:, None])
        found = attack(model, images, labels, noise)
        after = model(found).log_softmax(1).gather(1, goal[:, None])
    assert bool((after > before).all())


def test_free_attack_steps_along_the_training_gradient() -> None:
    images, labels, noise = batch()
    model = network()
    attack = build_attack(config(name="free", replays=3))
    assert attack.replays == 3
    first = attack(model, images, labels, noise)
    assert lengths(first.detach() - images, "linf").max() > 0.05
    loss = nn.functional.cross_entropy(model(first), labels)
    (gradient,) = torch.autograd.grad(loss, first, retain_graph=True)
    loss.backward()
    second = attack(model, images, labels, noise)
    moved = first.detach() + 0.1 * gradient.sign()
    expected = (images + (moved - images).clamp(-0.1, 0.1)).clamp(0, 1)
    torch.testing.assert_close(second.detach(), expected)
    other = images.clone()
    assert torch.equal(attack(model, other, labels, noise), first)
    with pytest.raises(UserError, match="training only"):
        attack.worst_case(model, images, labels, noise)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "kl", "random_start": False}, "random_start"),
        ({"loss": "kl", "name": "fgsm"}, "random_start"),
        ({"restarts": 2, "random_start": False}, "random start"),
        ({"loss": "kl", "target": "random"}, "target"),
        ({"replays": 4}, "free"),
        ({"restarts": 2, "name": "free"}, "free"),
        ({"epsilon": -0.1}, "greater than or equal to 0"),
        ({"name": "pdg"}, "pgd"),
    ],
)
def test_impossible_options_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_free_is_refused_where_nothing_is_trained() -> None:
    with pytest.raises(ValueError, match="training only"):
        EvaluationConfig.model_validate({"attack": {"name": "free", "restarts": 1}})


class Flat(nn.Module):
    """A linear network whose gradient in the images is not finite in one sample."""

    def forward(self, images: Tensor) -> Tensor:
        logits = images.flatten(1)[:, :3] * 1.0
        zero = (images.flatten(1)[:, :1] * 0.0)[:1]
        broken = torch.cat([zero.sqrt() * zero, torch.zeros(len(images) - 1, 1)])
        return logits + broken


@pytest.mark.parametrize(
    "options",
    [{"name": "pgd"}, {"name": "pgd", "restarts": 2}, {"name": "fgsm"}]
    + [{"name": "pgd", "norm": "l2", "momentum": 0.9}],
)
def test_a_gradient_that_is_not_finite_is_no_step_of_length_zero(
    options: dict[str, Any],
) -> None:
    """Training sees it; an evaluation stays where the last good step was."""
    images, labels, noise = batch()
    attack = build_attack(config(**options))
    assert attack(Flat(), images, labels % 3, noise).isnan().all()
    worst, _ = attack.worst_case(Flat(), images, labels % 3, noise)
    if options.get("norm") != "l2":
        assert worst.isfinite().all()


def test_auto_pgd_aims_at_no_class() -> None:
    with pytest.raises(UserError, match="attack apgd: aims at no class"):
        build_attack(config(name="apgd", target="random"))


def test_auto_pgd_keeps_its_highest_loss_and_more_restarts_raise_it() -> None:
    model = network()
    images, labels, noise = batch(32)

    def loss(**changes: Any) -> Tensor:
        attack = build_attack(config(name="apgd", num_steps=12, **changes))
        points = attack(model, images, labels, noise)
        with torch.no_grad():
            return F.cross_entropy(model.eval()(points), labels, reduction="none")

    one, three = loss(), loss(restarts=3)
    assert (three >= one - 1e-6).all() and three.sum() > one.sum()
    fixed = build_attack(config(step_size=0.1, num_steps=12))
    points = fixed(model, images, labels, noise)
    plain = F.cross_entropy(model.eval()(points), labels, reduction="none")
    assert one.mean() >= plain.mean()
