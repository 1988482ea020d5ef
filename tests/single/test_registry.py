"""Components by name: all there, called by their signatures, refused in one line."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dathvd
from dathvd.attacks import BALLS, LOSSES, build_attack
from dathvd.attacks.schedules import STEP_SCHEDULES, TARGETS
from dathvd.components import REGISTRIES
from dathvd.compression import build_compressor
from dathvd.compression.base import HIERARCHICAL
from dathvd.config import (
    AttackConfig,
    CompressionConfig,
    Config,
    ModelConfig,
    Section,
    TrainConfig,
    dump_config,
    load_config,
)
from dathvd.data import load_dataset
from dathvd.distributed import PUBLISHED_BATCH_NORM
from dathvd.distributed.exchange_choice import EXCHANGES
from dathvd.errors import UserError
from dathvd.models import build_model
from dathvd.models.layers import ACTIVATIONS, NORMALIZATIONS
from dathvd.objectives import build_objective
from dathvd.optim import build_optimizer
from dathvd.registry import Registry, is_foreign
from dathvd.service.engines import ENGINES as SERVICE_ENGINES
from dathvd.service.engines import build_engine
from dathvd.service.engines.base import Engine
from dathvd.training.components import check_components, ignored_options
from tests.own_package import settings, write_package
from tests.processes import run

ENTRIES = [(registry, name) for registry in REGISTRIES for name in registry]


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package of one component of each kind, on the path while a test runs."""
    folder = write_package(tmp_path_factory.mktemp("own"))
    (folder / "broken.py").write_text("1 / 0\n")
    (folder / "lacking.py").write_text("import nowhere_at_all\n")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.split(".")[0] == "outside"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "registry, name", ENTRIES, ids=[f"{r.section}-{n}" for r, n in ENTRIES]
)
def test_every_entry_is_there_and_takes_what_the_program_offers(
    registry: Registry[Any], name: str
) -> None:
    """Its own parameters have defaults; those of a field's name agree with the field's
    default, so that a component made in Python is that of a configuration."""
    component = registry[name]
    tree: dict[str, Any] = {registry.section: {"name": name}}
    if name == "hat":
        tree[registry.section]["helper"] = "a run"
    if registry.section == "objective":  # some exclude the default attack
        tree["attack"] = {"name": "none"}
    section = getattr(Config.model_validate(tree), registry.section)
    registry.check(section)
    fields = type(section).model_fields
    for parameter in inspect.signature(component).parameters.values():
        own = parameter.name not in registry.offers and parameter.name in fields
        if own and parameter.default is not parameter.empty:
            assert parameter.default == fields[parameter.name].default


def test_every_name_is_valid_in_a_configuration_and_no_other() -> None:
    for registry in REGISTRIES:
        for name in registry:
            assert registry.problem(name) is None
        assert "unknown" in (registry.problem("no such name") or "")
        assert registry.problem("some.package:thing.of_it") is None


def test_reading_a_configuration_imports_neither_torch_nor_what_it_names(
    package: Path,
) -> None:
    script = (
        "import sys\n"
        "from dathvd.config import dump_config, load_config\n"
        "config = load_config(None, sys.argv[1:])\n"
        "dump_config(config)\n"
        "assert len(config.foreign()) == 7\n"
        "print({'torch', 'outside'} & set(sys.modules))"
    )
    done = run([sys.executable, "-c", script, *settings()])
    assert done.stdout == "set()\n", done.output


def test_a_configuration_of_ones_own_components_builds_them() -> None:
    config = load_config(None, settings())
    check_components(config)
    dataset = load_dataset(config.data)
    assert (len(dataset.train), dataset.image_shape) == (48, (1, 6, 6))
    network = build_model(config.model, dataset.image_shape, 3)
    assert [tuple(p.shape) for p in network.parameters()][0] == (40, 36)
    assert network.training
    built = {
        "Corner": build_attack(config.attack).stream,  # type: ignore[attr-defined]
        "Focal": build_objective(config.objective).gamma,  # type: ignore[attr-defined]
        "Shortened": build_compressor(
            config.compression
        ).dropped,  # type: ignore[attr-defined]
    }
    assert built == {"Corner": 3, "Focal": 1.5, "Shortened": 12}
    optimizer = build_optimizer(config.optimizer, network.named_parameters())
    assert optimizer.defaults == {"lr": 0.003, "decay": 0.25}


def test_options_survive_a_dump_and_are_not_there_without_any(tmp_path: Path) -> None:
    config = load_config(None, settings())
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config))
    assert load_config(file) == config
    assert "options" not in dump_config(load_config())
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_a_class_of_torch_is_an_optimizer_as_it_is() -> None:
    config = load_config(
        None, ["optimizer.name=torch.optim:NAdam", "optimizer.options.betas=[0.5, 0.9]"]
    )
    check_components(config)
    weight = nn.Parameter(torch.ones(3))
    optimizer = build_optimizer(config.optimizer, [("weight", weight)])
    assert isinstance(optimizer, torch.optim.NAdam)
    assert optimizer.defaults["betas"] == (0.5, 0.9)
    assert optimizer.defaults["lr"] == config.optimizer.lr


REFUSALS = {
    "model.name=nowhere.nets:make": "model.name: nowhere.nets:make: no module named "
    "'nowhere' (install its package, or put its folder on PYTHONPATH",
    "model.name=outside.net:make": "no module named 'outside.net'",
    "model.name=lacking:make": "lacking failed: ModuleNotFoundError: No module named "
    "'nowhere_at_all'",
    "model.name=broken:make": "importing broken failed: ZeroDivisionError: division",
    "model.name=outside.nets:make_netwrk": "outside.nets has no attribute "
    "'make_netwrk' (did you mean 'make_network'?)",
    "model.name=outside:__doc__": "a str cannot be called",
    "model.options.hiden=3": "model.options: unknown option 'hiden' (did you mean "
    "'hidden'?)",
    "model.options.hidden=3.5": "model.options.hidden: input should be a valid "
    "integer, got 3.5",
    "model.options.num_classes=3": "model.options.num_classes: 'num_classes' is no "
    "option but given",
    "model={name: 'os:system'}": "model.options: 'command' is needed: set "
    "model.options.command",
    "optimizer.options.lr=3": "optimizer.options.lr: 'lr' is no option but given from "
    "optimizer.lr",
    "compression.options={density: 1}": "unknown option 'density' (choices: dropped)",
    "evaluation.attack.options.steam=1": "attack.options: unknown option 'steam' (did "
    "you mean 'stream'?)",
}


@pytest.mark.parametrize("override", REFUSALS, ids=lambda text: text)
def test_what_cannot_be_called_is_refused_before_a_run(override: str) -> None:
    config = load_config(None, [*settings(), override])
    with pytest.raises(UserError) as caught:
        check_components(config)
    assert REFUSALS[override] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_option_of_dathvds_own_component_is_checked_too() -> None:
    section = load_config(None, ["model.name=preact_resnet18"]).model
    section = section.model_copy(update={"options": {"widths": [4, 4, 8, 8]}})
    with torch.device("meta"):
        network = build_model(section, (3, 8, 8), 10)
    assert next(network.parameters()).shape[0] == 4
    for options, message in (
        ({"widhts": [1]}, "unknown option 'widhts' (did you mean 'widths'?)"),
        ({"width": 3}, "'width' is no option but given from model.width"),
    ):
        with pytest.raises(UserError) as caught:
            build_model(section.model_copy(update={"options": options}), (3, 8, 8), 10)
        assert message in str(caught.value)


@pytest.mark.parametrize(
    "overrides, build, message",
    [
        (
            ["attack.name=outside.attacks:no_attack"],
            lambda config: build_attack(config.attack),
            "no_attack gave Tensor, expected dathvd.attacks.attack.Attack",
        ),
        (
            ["optimizer.name=outside.updates:NeedsRate"],
            lambda config: build_optimizer(
                config.optimizer, [("w", nn.Parameter(torch.ones(2)))]
            ),
            "cannot be made from parameter groups alone",
        ),
        (
            ["optimizer.name=torch.optim:LBFGS"],
            lambda config: build_optimizer(
                config.optimizer, [("w", nn.Parameter(torch.ones(2)))]
            ),
            "needs a closure to step",
        ),
        (
            ["model.name=torch.nn:Identity"],
            lambda config: build_model(config.model, (1, 6, 6), 3),
            "torch.nn:Identity gives outputs (2, 1, 6, 6) for 2 images, expected "
            "(2, 3): does it take num_classes?",
        ),
        (
            ["model.name=torch.nn:Linear", "model.options={in_features: 9, "
             "out_features: 3}"],
            lambda config: build_model(config.model, (1, 6, 6), 3),
            "does not run on images (2, 1, 6, 6): RuntimeError:",
        ),
    ],
    ids=["attack", "groups", "closure", "outputs", "inputs"],
)  # fmt: skip
def test_what_is_made_must_be_of_its_kind(
    overrides: list[str], build: Any, message: str
) -> None:
    config = load_config(None, overrides)
    with pytest.raises(UserError) as caught:
        build(config)
    assert message in str(caught.value)


def test_a_changed_field_of_another_component_is_warned_of() -> None:
    config = load_config(None, ["compression.density=0.5", "objective.beta=3"])
    assert list(ignored_options(config)) == [
        "warning: compression.density 0.5 is for topk; none does not take it",
        "warning: objective.beta 3.0 is for trades, mart, score, ikl and hat; "
        "adversarial does not take it",
    ]
    config = load_config(None, ["optimizer.name=sgd", "optimizer.beta1=0.9"])
    assert list(ignored_options(config)) == [
        "warning: optimizer.beta1 0.9 is for lamb and adamw; sgd does not take it"
    ]
    config = load_config(None, ["compression.name=topk", "compression.density=0.5"])
    assert list(ignored_options(config)) == []
    assert list(ignored_options(load_config(None, settings()))) == []
    erased = ["objective.name=contrastive", "data.erase=cutout"]
    assert list(ignored_options(load_config(None, erased))) == [
        "warning: data.erase cutout changes nothing: contrastive makes views of whole "
        "images"
    ]


@pytest.mark.parametrize("name", SERVICE_ENGINES)
def test_every_engine_of_the_service_does_the_five_things(name: str) -> None:
    engine = build_engine(name)
    assert engine.name == name
    for option, line in engine.option_names.items():
        assert option.isidentifier() and line
    for thing in ("submit", "find", "view_all", "stop", "resume"):
        asked = list(inspect.signature(getattr(Engine, thing)).parameters)
        taken = list(inspect.signature(getattr(type(engine), thing)).parameters)
        assert taken == asked, thing


def test_no_shipped_configuration_has_a_field_that_is_ignored() -> None:
    folder = Path(dathvd.__file__).parent / "configs"
    files = sorted(folder.rglob("*.yaml"))
    assert files
    for file in files:
        assert list(ignored_options(load_config(file))) == [], file


LITERALS: list[tuple[type[Section], str, set[str]]] = [
    (AttackConfig, "norm", set(BALLS)),
    (AttackConfig, "loss", set(LOSSES)),
    (AttackConfig, "target", set(TARGETS)),
    (AttackConfig, "step_schedule", set(STEP_SCHEDULES)),
    (CompressionConfig, "exchange", {"auto", *EXCHANGES, HIERARCHICAL}),
    (ModelConfig, "normalization", {None, *NORMALIZATIONS}),  # type: ignore[arg-type]
    (ModelConfig, "activation", {None, *ACTIVATIONS}),  # type: ignore[arg-type]
    (TrainConfig, "batch_norm", set(PUBLISHED_BATCH_NORM)),
]


@pytest.mark.parametrize(
    "section, field, names", LITERALS, ids=[field for _, field, _ in LITERALS]
)
def test_the_other_names_of_a_configuration_are_those_of_their_tables(
    section: type[Section], field: str, names: set[str]
) -> None:
    annotation = section.model_fields[field].annotation
    words: set[Any] = set()
    for part in typing.get_args(annotation):
        words |= set(typing.get_args(part)) or {None if part is type(None) else part}
    assert words == names


def test_a_name_with_a_colon_lies_outside() -> None:
    assert is_foreign("a.b:c") and not is_foreign("pgd")
    assert load_config().foreign() == {}
