"""A checkpoint never has code outside of dathvd imported, unless it is trusted."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import dathvd
from dathvd import checkpoint, run_folder
from dathvd.config import dump_config, load_config
from dathvd.errors import UserError
from dathvd.evaluation import (
    Grid,
    Request,
    SanityRequest,
    check_sanity,
    evaluate_checkpoint,
)
from dathvd.models import build_model
from dathvd.pseudo_labels import pseudo_label
from dathvd.registry.places import import_component
from dathvd.runtime import Runtime
from dathvd.training.pretrained import initialise
from tests.own_package import write_package

ALONE = Runtime(0, 1, 0, 1, torch.device("cpu"), "mpi", 1)
NETWORK = "outside.hostile:make_network"
NAMED = [f"model.name={NETWORK}", "evaluation.max_samples=8"]


@pytest.fixture(autouse=True)
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that the hostile module writes when it is imported."""
    monkeypatch.setenv("TRACE", str(tmp_path / "trace"))
    monkeypatch.syspath_prepend(str(write_package(tmp_path / "lib")))
    yield tmp_path / "trace"
    for name in [name for name in sys.modules if name.split(".")[0] == "outside"]:
        del sys.modules[name]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose checkpoint names the hostile module; it was made without it."""
    return save(tmp_path / "run", same_network(), NAMED)


def save(run: Path, network: nn.Module, overrides: list[str]) -> Path:
    """A run folder of a network for digits."""
    config = load_config(None, overrides)
    shared = {
        "step": 1,
        "num_workers": 1,
        "config": config.model_dump_json(),
        "image_shape": [1, 8, 8],
        "num_classes": 10,
        "model": network.state_dict(),
        "optimizer": {},
    }
    final = checkpoint.checkpoint_folder(run, 1)
    checkpoint.write_rank_files(final, shared, {}, 0)
    checkpoint.publish(final, keep=1)
    (run / "config.yaml").write_text(dump_config(config))
    return run


def same_network() -> nn.Module:
    """A network with the names and shapes of the hostile module's."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def label(run: Path, trust: bool) -> None:
    images = run.parent / "images.npy"
    np.save(images, np.zeros((4, 8, 8), dtype=np.uint8))
    pseudo_label(str(run), images, run.parent / "labels.npz", ALONE, trust=trust)


def judge(run: Path, trust: bool) -> None:
    request = Request(Grid(("none",)), trust=trust)
    evaluate_checkpoint(str(run), request, ALONE)


def check(run: Path, trust: bool) -> None:
    sizes = Request(trust=trust, batch_size=8)
    check_sanity(str(run), SanityRequest(num_steps=1, evaluation=sizes), ALONE)


def check_with_surrogate(run: Path, trust: bool) -> None:
    small = ["model.name=mlp", "model.width=1"]
    network = build_model(load_config(None, small).model, (1, 8, 8), 10)
    good = save(run.parent / "good", network, small)
    sizes = Request(trust=trust, batch_size=8, max_samples=8)
    request = SanityRequest(num_steps=1, surrogate=str(run), evaluation=sizes)
    check_sanity(str(good), request, ALONE)


@pytest.mark.parametrize(
    "use", [judge, check, check_with_surrogate, label], ids=lambda use: use.__name__
)
def test_a_command_on_a_run_imports_what_it_names_only_if_trusted(
    run: Path, trace: Path, use: Callable[[Path, bool], None]
) -> None:
    with pytest.raises(UserError) as caught:
        use(run, False)
    message = str(caught.value)
    assert f"model.name {NETWORK}" in message and "--trust" in message
    assert not trace.exists()
    use(run, True)
    assert trace.read_text() == "imported"


def test_loading_a_network_imports_nothing_and_takes_one_given(
    run: Path, trace: Path
) -> None:
    with pytest.raises(UserError, match=r"load_model\(run, network=...\)"):
        dathvd.load_model(run)
    fresh = same_network()
    nn.init.zeros_(next(fresh.parameters()))
    loaded = dathvd.load_model(run, network=fresh)
    assert not loaded.training
    for name, value in same_network().state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    with pytest.raises(UserError, match="of another model"):
        dathvd.load_model(run, network=nn.Linear(64, 10))
    assert not trace.exists()


def test_a_given_network_gets_the_runs_first_layer_and_head(tmp_path: Path) -> None:
    overrides = ["model.name=mlp", "model.width=2", "model.mean=[0.5]"]
    config = load_config(None, [*overrides, "model.head=projection"])
    whole = build_model(config.model, (1, 8, 8), 10)
    bare = build_model(load_config(None, overrides[:2]).model, (1, 8, 8), 10)
    state = {
        "config": config.model_dump_json(),
        "image_shape": [1, 8, 8],
        "num_classes": 10,
        "model": whole.state_dict(),
    }
    loaded, _ = checkpoint.restore_model(state, "a file", network=bare)
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded(images), whole.eval()(images))


def test_a_run_folder_of_another_configuration_is_refused_unread(
    run: Path, trace: Path
) -> None:
    """Resuming goes by the command line: what is stored is compared, and no more."""
    with pytest.raises(UserError, match=f"model.name: '{NETWORK}' there, 'small_cnn'"):
        run_folder.prepare(run, load_config())
    assert not trace.exists()


def test_a_trunk_is_taken_without_what_its_run_names(run: Path, trace: Path) -> None:
    config = load_config(None, [*NAMED, f"model.init={run}"])
    network = same_network()
    nn.init.zeros_(next(network.parameters()))
    assert "all weights" in (initialise(network, config.model, ALONE) or "")
    assert torch.equal(next(network.parameters()), next(same_network().parameters()))
    assert not trace.exists()


def test_trust_may_be_for_some_places_alone(run: Path, trace: Path) -> None:
    state = checkpoint.load_file(checkpoint.resolve(run) / "model.pt")
    with pytest.raises(UserError, match="names code outside of dathvd"):
        checkpoint.restore_model(state, "a file", trust=["outside.nets:make_network"])
    assert not trace.exists()
    checkpoint.restore_model(state, "a file", trust=[NETWORK])
    assert trace.exists()


def test_a_stored_component_that_is_unknown_here_is_one_line(run: Path) -> None:
    state = checkpoint.load_file(checkpoint.resolve(run) / "model.pt")
    state["config"] = state["config"].replace(NETWORK, "small_cnm")
    with pytest.raises(UserError) as caught:
        checkpoint.restore_model(state, "a file")
    assert str(caught.value).startswith("checkpoint a file: model.name: unknown (did")


def test_the_module_does_leave_its_trace(trace: Path) -> None:
    """What the tests above look for happens when it is imported."""
    import_component("model.name", NETWORK)
    assert trace.exists()


def test_stored_configurations_are_read_in_one_place() -> None:
    """So that no new command forgets to ask for trust."""
    root = Path(dathvd.__file__).parent
    readers = [
        f"{path.relative_to(root)}"
        for path in sorted(root.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and node.attr == "model_validate_json"
        and isinstance(node.value, ast.Name)
        and node.value.id == "Config"
    ]
    assert readers == ["checkpoint/networks.py"]
