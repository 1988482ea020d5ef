"""Exports: the network's own function in each form, and no code of strangers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click import ClickException
from click.testing import CliRunner
from torch import Tensor, nn

from dathvd import checkpoint, load_model
from dathvd.commands.export import command
from dathvd.config import load_config
from dathvd.errors import UserError
from dathvd.evaluation import Grid, Request, evaluate_checkpoint
from dathvd.export import FORMATS, ExportRequest, export_run, load_safetensors
from dathvd.export.check import Difference, compare
from dathvd.export.judged import Judged, find_judged
from dathvd.export.robustbench import model_info, radius, safe_name
from dathvd.export.source import Chosen, load_trained
from dathvd.hashing import parameters_sha256
from dathvd.models import build_model
from dathvd.runtime import Runtime
from tests.own_package import write_package

NUM_TEST = 359
"""Test images of the digits."""
NORMALISED = ["model.mean=[0.3]", "model.std=[0.4]"]
SMALL = ("small_cnn", "mlp", "small_resnet")
LARGE = ("preact_resnet18", "resnet18", "convnext_tiny")
"""One of each family; the others differ from these in depth and width."""


def save_run(
    run: Path,
    overrides: list[str],
    step: int = 3,
    shape: tuple[int, int, int] = (1, 8, 8),
    model: nn.Module | None = None,
) -> Path:
    """A run folder with the checkpoint of a fresh network and of another as average."""
    config = load_config(None, overrides)
    networks = []
    for seed in (step, step + 100):
        torch.manual_seed(seed)
        network = model or build_model(config.model, shape, num_classes=10)
        for name, buffer in network.named_buffers():
            # statistics that are not the initial ones, and let features through
            if "running_mean" in name:
                buffer.normal_(0.0, 0.02)
            if "running_var" in name:
                buffer.uniform_(0.3, 1.0)
        networks.append(network.state_dict())
    shared = {
        "step": step,
        "num_workers": 1,
        "config": config.model_dump_json(),
        "image_shape": list(shape),
        "num_classes": 10,
        "model": networks[0],
        "ema": networks[1],
        "optimizer": {},
    }
    final = checkpoint.checkpoint_folder(run, step)
    checkpoint.write_rank_files(final, shared, {}, 0)
    checkpoint.publish(final, keep=9)
    return run


def export(run: Path, form: str, **fields: Any) -> Difference:
    difference = export_run(run, ExportRequest(form, check=True, **fields))
    assert difference is not None
    return difference


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("name", SMALL)
def test_every_form_is_the_same_function(tmp_path: Path, form: str, name: str) -> None:
    """On 64 test images of [0, 1]: the normalisation is in it, and any batch fits."""
    run = save_run(tmp_path / "run", [f"model.name={name}", *NORMALISED])
    found = export(run, form)
    assert found.num_images == found.same_class == 64
    assert found.largest <= 1e-5 * max(1.0, found.scale) and found.scale > 1e-3
    # the tolerance tells the network without its normalisation from the network
    trained = load_trained(run)
    assert isinstance(trained.model, nn.Sequential)
    bare = trained.model[1]
    assert not compare(trained, bare).is_small


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_a_network_of_each_family_is_written_in_every_form(
    tmp_path: Path, name: str
) -> None:
    channels = ["data.name=synthetic", "data.channels=3", "data.image_size=32"]
    channels += ["data.num_test=16", "data.num_train=16"]
    normalised = ["model.mean=[0.3,0.4,0.5]", "model.std=[0.2,0.3,0.4]"]
    overrides = [f"model.name={name}", *channels, *normalised]
    run = save_run(tmp_path / "run", overrides, shape=(3, 32, 32))
    for form in ("torch", "onnx", "safetensors"):
        found = export(run, form)
        assert found.is_small and found.same_class == 16
    images = torch.rand(4, 3, 32, 32)
    logits = load_trained(run).model(images)
    assert logits.std(dim=0).max() > 1e-3, "the logits do not tell images apart"


def test_a_checkpoint_and_weights_are_chosen(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", [], step=3)
    save_run(run, [], step=7)
    choices: list[tuple[Chosen, checkpoint.Weights]]
    choices = [(3, "raw"), (7, "ema"), ("last", "raw")]
    for which, weights in choices:
        file = tmp_path / f"{which}-{weights}.safetensors"
        request = ExportRequest("safetensors", file, which, weights)
        export_run(run, request)
        folder = checkpoint.checkpoint_folder(
            run, which if isinstance(which, int) else 7
        )
        expected = load_model(folder, weights)
        found = load_safetensors(file)
        assert parameters_sha256(found) == parameters_sha256(expected)
        # a checkpoint folder is one choice too
        export_run(folder, ExportRequest("safetensors", file, weights=weights))
        assert parameters_sha256(load_safetensors(file)) == parameters_sha256(expected)
    with pytest.raises(UserError, match=r"--checkpoint 5: .*there are: 3, 7"):
        load_trained(run, 5)
    assert load_trained(checkpoint.checkpoint_folder(run, 3)).run == run
    with pytest.raises(UserError, match="has no best checkpoint"):
        load_trained(run, "best")
    output = str(tmp_path / "three.safetensors")
    words = [str(run), "--to", "safetensors", "--output", output, "--checkpoint"]
    assert "small_cnn after 3 steps (raw)" in invoke(*words, "3")[1]
    code, text = invoke(*words, "newest")
    assert code == 2 and "expected last, best, or a number of steps" in text


@pytest.mark.slow
def test_onnx_says_its_names_and_a_free_batch(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    run = save_run(tmp_path / "run", NORMALISED)
    export_run(run, ExportRequest("onnx"))
    graph = onnx.load(run / "exported" / "model.onnx").graph
    (images,), (logits,) = graph.input, graph.output
    sizes = [d.dim_param or d.dim_value for d in images.type.tensor_type.shape.dim]
    assert (images.name, sizes) == ("images", ["batch", 1, 8, 8])
    assert logits.name == "logits"
    assert not list((run / "exported").glob("*.data"))  # the weights are in the file


# the command


def invoke(*words: str | Path) -> tuple[int, str]:
    """The command's exit code and what it said, as ``dathvd`` would have it."""
    given = [str(word) for word in words]
    done = CliRunner().invoke(command, given, standalone_mode=False)
    if isinstance(done.exception, (UserError, ClickException)):
        return 2, str(done.exception)
    if done.exception is not None:
        raise done.exception
    return done.return_value, done.output


def test_the_command_says_what_it_wrote_and_how_far_it_is_off(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", NORMALISED)
    output = tmp_path / "deep" / "mine.pt2"
    code, text = invoke(run, "--to", "torch", "--output", output, "--check")
    assert code == 0 and output.is_file()
    assert "images [batch, 1, 8, 8] in [0, 1] to 10 logits" in text
    assert "largest difference on 64 test images: " in text
    assert "64 of 64 in the same class" in text
    program = torch.export.load(str(output)).module()
    images = torch.rand(5, 1, 8, 8)
    assert torch.allclose(program(images), load_model(run)(images), atol=1e-6)


def test_an_export_that_differs_is_said_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = save_run(tmp_path / "run", [])
    for wrong in (1.001, float("nan")):

        def read(self: object, place: Path, trained: Any, factor: float = wrong) -> Any:
            return lambda images: 100 * factor * trained.model(images)

        monkeypatch.setattr("dathvd.export.program.Program.read", read)
        assert not export(run, "torch").is_small


def test_a_missing_run_form_and_package_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = save_run(tmp_path / "run", [])
    monkeypatch.setenv("DATHVD_DATABASE", f"sqlite:///{tmp_path / 'runs.sqlite'}")
    code, text = invoke(tmp_path / "none", "--to", "torch")
    assert code == 2 and "none" in text and "\n" not in text.strip()
    assert invoke(run, "--to", "tensorflow")[0] == 2
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    code, text = invoke(run, "--to", "onnx")
    assert code == 2 and "pip install 'dathvd[export]'" in text
    assert not list(run.rglob("*.onnx"))


# strangers' files


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that a hostile module writes when it is imported."""
    monkeypatch.setenv("TRACE", str(tmp_path / "trace"))
    monkeypatch.syspath_prepend(str(write_package(tmp_path / "lib")))
    yield tmp_path / "trace"
    for name in [name for name in sys.modules if name.split(".")[0] == "outside"]:
        del sys.modules[name]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_a_strangers_run_is_exported_without_its_code(
    tmp_path: Path, trace: Path, form: str
) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    place = "outside.hostile:make_network"
    run = save_run(tmp_path / "run", [f"model.name={place}"], model=network)
    with pytest.raises(UserError, match="--trust"):
        export(run, form)
    assert not trace.exists() and not (run / "exported").exists()
    assert export(run, form, trust=True).is_small
    assert trace.exists()


def test_a_strangers_safetensors_run_no_code(tmp_path: Path, trace: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    place = "outside.hostile:make_network"
    run = save_run(tmp_path / "run", [f"model.name={place}"], model=network)
    export_run(run, ExportRequest("safetensors", trust=True))
    file = run / "exported" / "model.safetensors"
    trace.unlink()
    for name in [name for name in sys.modules if name.split(".")[0] == "outside"]:
        del sys.modules[name]
    with pytest.raises(UserError, match="--trust"):
        load_safetensors(file)
    assert not trace.exists()
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(load_safetensors(file, network=other)(images), network(images))
    damaged = tmp_path / "damaged.safetensors"
    for data in (b"", b"\x80\x04cos\nsystem\n.", file.read_bytes()[:100]):
        damaged.write_bytes(data)
        with pytest.raises(UserError, match="damaged"):
            load_safetensors(damaged)


def test_what_a_checkpoint_says_stays_a_value_in_the_loader(tmp_path: Path) -> None:
    """Names of data and options are written into source and paths: never as code."""
    run = save_run(tmp_path / 'a"""; import os', NORMALISED)
    export_run(run, ExportRequest("robustbench"))
    folder = run / "exported" / "robustbench"
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    name = "a_import_os"
    assert names == [
        f"{name}.pt",
        "loader.py",
        f"model_info/digits/Linf/{name}.json",
    ]
    assert (
        safe_name("../../etc/passwd") == "etc_passwd" and safe_name("..") == "network"
    )


# RobustBench


def judge(trained: Any, **changes: Any) -> dict[str, Any]:
    """What ``dathvd evaluate --attack autoattack`` writes of these weights."""
    config = trained.config
    cell = {"attack": "autoattack", "norm": config.attack.norm}
    cell |= {"epsilon": config.attack.epsilon, "robust_accuracy": 0.5}
    result = {
        "clean_accuracy": 0.75,
        "robust_accuracy": 0.4,
        "num_samples": NUM_TEST,
        "only_survivors": False,
        "cells": [cell],
        "parameters_sha256": parameters_sha256(trained.model),
    }
    return {**result, **changes}


def test_accuracies_are_claimed_only_where_all_samples_were_judged(
    tmp_path: Path,
) -> None:
    run = save_run(tmp_path / "run", [])
    trained = load_trained(run)
    assert find_judged(trained, NUM_TEST) == Judged()
    (run / "grid").mkdir()
    file = run / "grid" / "result.json"

    def known(**changes: Any) -> tuple[float | None, float | None]:
        file.write_text(json.dumps(judge(trained, **changes)))
        found = find_judged(trained, NUM_TEST)
        return found.clean, found.autoattack

    cell = judge(trained)["cells"][0]
    assert known() == (0.75, 0.5)
    assert known(num_samples=358) == (None, None)
    assert known(parameters_sha256="other") == (None, None)
    assert known(cells=[{**cell, "attack": "pgd"}]) == (0.75, None)
    assert known(cells=[{**cell, "epsilon": 0.01}]) == (0.75, None)
    assert known(cells=[{**cell, "norm": "l2"}]) == (0.75, None)
    # what only saw the survivors of another attack is not AutoAttack's accuracy
    two = [{**cell, "attack": "pgd"}, cell]
    assert known(cells=two, only_survivors=True) == (0.75, None)
    assert known(cells=two) == (0.75, 0.5)
    file.write_text("no JSON")
    assert find_judged(trained, NUM_TEST) == Judged()
    # the run's own result, of raw weights and of averaged ones
    own: dict[str, Any] = {
        "clean_accuracy": 0.9,
        "robust_accuracy": 0.8,
        "num_samples": NUM_TEST,
    }
    own |= {"ema_clean_accuracy": 0.7, "ema_robust_accuracy": 0.6}
    average = load_trained(run, weights="ema")
    own |= {"parameters_sha256": parameters_sha256(trained.model)}
    own |= {"ema_parameters_sha256": parameters_sha256(average.model)}
    (run / "result.json").write_text(json.dumps(own))
    # the digits are judged in another ball than the one of training, eps
    assert find_judged(trained, NUM_TEST) == Judged(0.9)
    save_run(run, ["attack.epsilon=0.1"])
    trained, average = load_trained(run), load_trained(run, weights="ema")
    assert find_judged(trained, NUM_TEST) == Judged(0.9, 0.8)
    assert find_judged(average, NUM_TEST) == Judged(0.7, 0.6)
    (run / "result.json").write_text(json.dumps({**own, "attack": "PGD-1"}))
    assert find_judged(trained, NUM_TEST) == Judged(0.9)


def test_robustbench_gets_its_entry(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", ["attack.epsilon=8/255", *NORMALISED])
    trained = load_trained(run)
    elsewhere = tmp_path / "judged.json"
    elsewhere.write_text(json.dumps(judge(trained)))
    output = tmp_path / "out"
    found = export(run, "robustbench", output=output, evaluations=(elsewhere,))
    assert found.is_small
    entry = json.loads((output / "model_info/digits/Linf/run.json").read_text())
    assert entry["eps"] == "8/255" and entry["architecture"] == "small_cnn"
    assert (entry["clean_acc"], entry["autoattack_acc"]) == ("75.00", "50.00")
    assert "reported" not in entry and entry["additional_data"] is False
    state = torch.load(output / "run.pt", weights_only=True)
    assert state.keys() == trained.model.state_dict().keys()
    assert "autoattack_acc" not in model_info(trained, Judged(0.5))
    elsewhere.write_text("[]")
    with pytest.raises(UserError, match="not a result of dathvd evaluate"):
        find_judged(trained, NUM_TEST, [elsewhere])


def test_extra_images_are_needed_by_training_alone(tmp_path: Path) -> None:
    gone = ["data.extra=gone.npz", "data.extra_ratio=0.5", "attack.epsilon=0.1"]
    run = save_run(tmp_path / "run", gone)
    result = judge(load_trained(run))
    del result["cells"], result["only_survivors"]
    (run / "result.json").write_text(json.dumps(result))
    assert export(run, "robustbench").is_small
    info = run / "exported/robustbench/model_info/digits/Linf/run.json"
    assert json.loads(info.read_text())["reported"] == "40.00"
    file = tmp_path / "judged.json"
    alone = Runtime(0, 1, 0, 1, torch.device("cpu"), "mpi", 1)
    request = Request(Grid(("none",)), max_samples=8, json_file=file)
    evaluate_checkpoint(str(run), request, alone)
    assert json.loads(file.read_text())["num_samples"] == 8


def test_gradients_flow_through_robustbenchs_loader(tmp_path: Path) -> None:
    """Its attacks differentiate with respect to the images."""
    run = save_run(tmp_path / "run", NORMALISED)
    export_run(run, ExportRequest("robustbench"))
    space: dict[str, Any] = {}
    file = run / "exported" / "robustbench" / "loader.py"
    space["__file__"] = str(file)
    exec(compile(file.read_text(), str(file), "exec"), space)
    images = torch.rand(2, 1, 8, 8, requires_grad=True)
    logits: Tensor = space["load_model"]()(images)
    logits.sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_the_loader_needs_nothing_of_where_training_began(tmp_path: Path) -> None:
    began = ["model.init=w.pt", "model.init_partial=true", "model.init_keys={a: b}"]
    run = save_run(tmp_path / "run", [*began, "model.init_mode=linear"])
    assert export(run, "robustbench").is_small
    info = model_info(load_trained(run), Judged())
    assert info["additional_data"] is None, "its weights may have seen any data"


def test_radii_are_written_as_robustbench_writes_them() -> None:
    assert [radius(e) for e in (8 / 255, 0.5, 0.15, 0.0)] == [
        "8/255",
        "0.5",
        "0.15",
        "0",
    ]


def test_the_commands_forms_are_the_products() -> None:
    (choice,) = [p for p in command.params if p.name == "form"]
    assert list(choice.type.choices) == list(FORMATS)  # type: ignore[attr-defined]
