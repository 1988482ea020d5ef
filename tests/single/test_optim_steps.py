"""Optimizers against their formulas, an independent library, and torch's laws."""

import copy
import io
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from dathvd import components
from dathvd.config import OptimizerConfig
from dathvd.optim import (
    LAMB,
    LARS,
    OPTIMIZERS,
    build_optimizer,
    named_trust_ratios,
)
from tests.processes import run

STEPS = 5


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(27, 4)]
    return nn.Sequential(*layers)


def set_gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for weight in model.parameters():
        weight.grad = torch.randn(weight.shape, generator=generator)


def advance(model: nn.Module, optimizer: Optimizer, steps: int = STEPS) -> None:
    for step in range(steps):
        set_gradients(model, step)
        optimizer.step()


def same_weights(
    left: nn.Module, right: nn.Module, rtol: float = 0.0, atol: float = 0.0
) -> None:
    for one, other in zip(left.parameters(), right.parameters()):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def lamb_of_the_paper(weights: list[Tensor], lr: float, beta1: float = 0.9) -> None:
    """DAT's LALR, tensor by tensor, as its formulas are printed."""
    first = [torch.zeros_like(weight) for weight in weights]
    second = [torch.zeros_like(weight) for weight in weights]
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        for weight, m, v in zip(weights, first, second):
            gradient = torch.randn(weight.shape, generator=generator)
            m.copy_(beta1 * m + (1 - beta1) * gradient)
            v.copy_(0.999 * v + 0.001 * gradient**2)
            update = m / (v.sqrt() + 1e-6) + 1e-4 * weight
            length, size = weight.norm().clamp(0, 10), update.norm()
            ratio = float(length / size) if length > 0 and size > 0 else 1.0
            weight -= lr * ratio * update


@torch.no_grad()
def test_lamb_is_the_papers_variant_by_default() -> None:
    model, expected = network(), network()
    model.get_parameter("3.weight").mul_(20)  # longer than 10: the bound is in force
    expected.get_parameter("3.weight").mul_(20)
    assert model.get_parameter("3.weight").norm() > 10
    advance(model, LAMB(model.parameters()))
    lamb_of_the_paper([weight.data for weight in expected.parameters()], lr=0.01)
    same_weights(model, expected, rtol=1e-5, atol=1e-7)


def test_lamb_agrees_with_an_independent_one() -> None:
    from pytorch_optimizer import Lamb

    model, expected = network(), network()
    options: dict[str, Any] = dict(lr=0.02, weight_decay=0.1, eps=1e-8)
    advance(model, LAMB(model.parameters(), **options))
    # without its correction of the learning rate, and with decay inside the update
    groups = [{"params": list(expected.parameters()), "adam_debias": True}]
    advance(expected, Lamb(groups, weight_decouple=False, max_grad_norm=0.0, **options))
    same_weights(model, expected, rtol=1e-5, atol=1e-6)


def test_lars_agrees_with_an_independent_one() -> None:
    """That one adapts and decays matrices only."""
    from pytorch_optimizer import LARS as Other

    model, expected = network(), network()
    config = OptimizerConfig(
        name="lars",
        lr=0.7,
        weight_decay=0.01,
        max_weight_norm=None,
        adapt_vectors=False,
        decay_vectors=False,
    )
    advance(model, build_optimizer(config, model.named_parameters()))
    options = dict(momentum=0.9, dampening=0.0, trust_coefficient=0.001)
    advance(
        expected, Other(expected.parameters(), lr=0.7, weight_decay=0.01, **options)
    )
    same_weights(model, expected, rtol=1e-5, atol=1e-6)


def test_bias_correction_makes_lambs_first_direction_the_sign() -> None:
    """At step 1 m and sqrt(v) are |g| after the correction, so u = sign(g)."""
    weight = nn.Parameter(torch.full((2, 8), 3.0))
    optimizer = LAMB([weight], lr=0.1, eps=0.0, weight_decay=0.0, bias_correction=True)
    weight.grad = torch.randn(2, 8)
    optimizer.step()
    ratio = 10.0 / 4.0  # |w| = 12, bounded to 10; |sign| = 4
    torch.testing.assert_close(weight.data, 3.0 - 0.1 * ratio * weight.grad.sign())


def test_without_adaptation_lars_is_sgd_and_lamb_is_adamw() -> None:
    for ours, theirs in (
        (
            lambda p: LARS(p, lr=0.1, momentum=0.9, weight_decay=0.01),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
        ),
        (
            lambda p: LAMB(p, lr=0.01, weight_decay=0.2, bias_correction=True),
            lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.2, eps=1e-6),
        ),
    ):
        model, expected = network(), network()
        advance(model, ours([{"params": list(model.parameters()), "adapt": False}]))
        advance(expected, theirs(expected.parameters()))
        same_weights(model, expected, rtol=1e-5, atol=1e-6)


def configured(name: Any, model: nn.Module, **fields: Any) -> Optimizer:
    config = OptimizerConfig.model_validate({"name": name, "lr": 0.02, **fields})
    return build_optimizer(config, model.named_parameters())


@pytest.fixture(params=sorted(OPTIMIZERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_saved_state_goes_on_bit_for_bit(name: str) -> None:
    model = network()
    optimizer = configured(name, model)
    advance(model, optimizer)
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    resumed = network(seed=1)
    resumed.load_state_dict(weights)
    other = configured(name, resumed, lr=0.9)  # the saved groups replace it
    other.load_state_dict(state)
    advance(model, optimizer)
    advance(resumed, other)
    same_weights(model, resumed)


def test_an_optimizer_is_rebuilt_from_its_groups(name: str) -> None:
    """Horovod's DistributedOptimizer calls the class with the groups alone."""
    for fields in ({}, {"adapt_vectors": False, "decay_vectors": False}):
        model, expected = network(), network()
        original = configured(name, model, weight_decay=0.03, **fields)
        rebuild: Callable[..., Optimizer] = type(original)
        advance(model, rebuild(original.param_groups))
        advance(expected, configured(name, expected, weight_decay=0.03, **fields))
        same_weights(model, expected)


def test_parameters_without_gradient_stay(name: str) -> None:
    model = network()
    optimizer = configured(name, model)
    before = copy.deepcopy(model)
    optimizer.step()
    same_weights(model, before)
    set_gradients(model, 0)
    model.get_parameter("0.weight").grad = None
    optimizer.step()
    assert torch.equal(
        model.get_parameter("0.weight"), before.get_parameter("0.weight")
    )
    assert not torch.equal(
        model.get_parameter("3.weight"), before.get_parameter("3.weight")
    )


class NoSynchronisation(TorchDispatchMode):
    """Fails where a tensor's value is asked for by Python."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        assert "_local_scalar_dense" not in str(func), "a value was asked for"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("layerwise", ["lamb", "lars"])
def test_a_step_asks_for_no_value(layerwise: str) -> None:
    model = network()
    optimizer = configured(layerwise, model)
    advance(model, optimizer, steps=1)
    set_gradients(model, 1)
    with NoSynchronisation():
        optimizer.step()
    with pytest.raises(AssertionError), NoSynchronisation():
        model.get_parameter("0.weight").sum().item()


def test_excluded_vectors_are_neither_adapted_nor_decayed() -> None:
    model = network()
    optimizer = configured("lamb", model, adapt_vectors=False, decay_vectors=False)
    advance(model, optimizer, steps=1)
    assert set(named_trust_ratios(optimizer, model.named_parameters())) == {
        "0.weight",
        "3.weight",
    }
    decays = {group["params"][0].ndim > 1: group for group in optimizer.param_groups}
    assert decays[True]["weight_decay"] == 1e-4
    assert decays[False]["weight_decay"] == 0


def test_logged_trust_ratios_are_those_of_the_step() -> None:
    model = network()
    before = copy.deepcopy(model)
    optimizer = configured("lars", model, momentum=0.0, weight_decay=0.0, lr=1.0)
    advance(model, optimizer, steps=1)
    ratios = named_trust_ratios(optimizer, model.named_parameters())
    for (name, old), new in zip(before.named_parameters(), model.parameters()):
        assert new.grad is not None
        norm = float(old.detach().norm())
        expected = 0.001 * norm / float(new.grad.norm()) if norm else 1.0
        assert ratios[name] == pytest.approx(expected, rel=1e-5)
    assert named_trust_ratios(configured("sgd", model), model.named_parameters()) == {}


def test_every_optimizer_lowers_a_quadratic(name: str) -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 4))
    rates = {"lamb": 0.02, "lars": 5.0, "sgd": 0.05, "adamw": 0.05}
    optimizer = build_optimizer(
        OptimizerConfig.model_validate({"name": name, "lr": rates.get(name, 0.05)}),
        [("weight", weight)],
    )
    start = float(weight.detach().square().sum())
    for _ in range(60):
        optimizer.zero_grad()
        weight.square().sum().backward()
        optimizer.step()
    assert float(weight.detach().square().sum()) < 0.2 * start


def lars_of_the_paper(weights: list[Tensor], lr: float) -> None:
    """Algorithm 1 of LARS, tensor by tensor: eta 0.001, momentum 0.9, decay 5e-4."""
    moments = [torch.zeros_like(weight) for weight in weights]
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        for weight, moment in zip(weights, moments):
            gradient = torch.randn(weight.shape, generator=generator)
            length, size = weight.norm(), gradient.norm()
            ratio = 0.001 * length / (size + 5e-4 * length) if length > 0 else 1.0
            moment.copy_(0.9 * moment + ratio * (gradient + 5e-4 * weight))
            weight -= lr * moment


def by_torch(
    make: Callable[..., Optimizer], **options: Any
) -> Callable[[nn.Module, float], None]:
    return lambda model, lr: advance(model, make(model.parameters(), lr=lr, **options))


def by_formula(
    formula: Callable[..., None], **options: Any
) -> Callable[[nn.Module, float], None]:
    return lambda model, lr: formula(
        [weight.data for weight in model.parameters()], lr, **options
    )


PUBLISHED: dict[str, Callable[[nn.Module, float], None]] = {
    "sgd": by_torch(torch.optim.SGD, momentum=0.9, weight_decay=1e-4),
    "adamw": by_torch(torch.optim.AdamW),
    "lamb": by_formula(lamb_of_the_paper, beta1=0.7),  # ours; all else is the paper's
    "lars": by_formula(lars_of_the_paper),
}
"""Every optimizer's reference: torch's with its defaults, or the printed formula."""


def test_every_optimizer_of_ours_has_a_reference() -> None:
    places = components.OPTIMIZERS.places
    ours = {each for each in places if places[each].startswith("dathvd.optim.")}
    assert ours == set(PUBLISHED)


@pytest.mark.parametrize("published", PUBLISHED)
@torch.no_grad()
def test_every_optimizer_is_the_published_one_by_default(published: str) -> None:
    """With a name and a rate alone, also for a layer of norm 32."""
    name: Any = published
    model, expected = network(), network()
    for weights in (model, expected):
        layer = weights.get_parameter("3.weight")
        layer.mul_(32 / layer.norm())
    config = OptimizerConfig.model_validate({"name": name, "lr": 0.02})
    advance(model, build_optimizer(config, model.named_parameters()))
    PUBLISHED[name](expected, 0.02)
    same_weights(model, expected, rtol=1e-5, atol=1e-6)


def test_default_configurations_are_the_classes_defaults() -> None:
    """lamb's beta1 apart, every group is as if the class had been called alone."""
    classes = {"lamb": LAMB, "lars": LARS, "adamw": torch.optim.AdamW}
    for kind, make in classes.items():
        model = network()
        config = OptimizerConfig.model_validate({"name": kind})
        (group,) = build_optimizer(config, model.named_parameters()).param_groups
        (plain,) = make(model.parameters()).param_groups
        different = {key for key in plain if group[key] != plain[key]}
        allowed = {"params", "lr", "foreach"} | ({"betas"} if kind == "lamb" else set())
        assert different <= allowed


def test_a_field_that_is_set_stays() -> None:
    for kind in sorted(OPTIMIZERS):
        tree = {"name": kind, "max_weight_norm": 10.0, "eps": 1e-3, "beta1": 0.5}
        config = OptimizerConfig.model_validate(tree)
        assert (config.max_weight_norm, config.eps, config.beta1) == (10.0, 1e-3, 0.5)
        again = OptimizerConfig.model_validate(config.model_dump())
        assert again == config


@pytest.mark.slow
def test_layerwise_optimizers_do_without_torchs_compiler() -> None:
    """Its import would take a second of every rank's start."""
    script = (
        "import sys, torch\n"
        "from dathvd.config import OptimizerConfig\n"
        "from dathvd.optim import build_optimizer\n"
        "for name in ('lamb', 'lars'):\n"
        "    weight = torch.nn.Parameter(torch.ones(2, 2))\n"
        "    config = OptimizerConfig(name=name)\n"
        "    optimizer = build_optimizer(config, [('weight', weight)])\n"
        "    weight.square().sum().backward()\n"
        "    optimizer.step()\n"
        "    optimizer.zero_grad()\n"
        "    optimizer.load_state_dict(optimizer.state_dict())\n"
        "print('torch._dynamo' in sys.modules, bool((weight < 1).all()))"
    )
    done = run([sys.executable, "-c", script])
    assert done.stdout == "False True\n", done.output
