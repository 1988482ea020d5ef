"""Weights from other programs: read safely, matched by name, refused in one line."""

from __future__ import annotations

import argparse
import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from dathvd import checkpoint, stop, weight_files
from dathvd.config import load_config
from dathvd.errors import UserError
from dathvd.models import build_model
from dathvd.run_folder import read_result
from dathvd.runtime import Runtime, start
from dathvd.training.pretrained import initialise
from dathvd.training.run import train

ALONE = Runtime(0, 1, 0, 1, torch.device("cpu"), "mpi", 1)
SHAPE = (3, 8, 8)
NETWORK = ["model.name=small_resnet", "model.width=4"]
NORMALISED = ["model.mean=[0.5,0.5,0.5]", "model.std=[0.2,0.2,0.2]"]


def network(*settings: str, seed: int = 0, classes: int = 10) -> nn.Module:
    torch.manual_seed(seed)
    config = load_config(None, [*NETWORK, *settings])
    return build_model(config.model, SHAPE, classes)


def started(
    file: Path | str, *settings: str, classes: int = 10
) -> tuple[nn.Module, str]:
    """A fresh network, and what it says when it is filled from a file."""
    config = load_config(None, [*NETWORK, f"model.init={file}", *settings])
    torch.manual_seed(1)
    model = build_model(config.model, SHAPE, classes)
    said = initialise(model, config.model, ALONE)
    assert said is not None
    return model, said


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for a, b in zip(one.values(), other.values(), strict=True)
    )


def wrapped(tree: dict[str, Tensor], beginning: str) -> dict[str, Tensor]:
    return {beginning + name: value for name, value in tree.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tree: tree,
        lambda tree: {"epoch": 3, "state_dict": tree, "optimizer": {"lr": 0.1}},
        lambda tree: {"model": wrapped(tree, "module."), "best": torch.tensor(0.5)},
        lambda tree: {"model": tree, "rng_state": torch.get_rng_state()},
        lambda tree: wrapped(tree, "module.1."),
        lambda tree: {"n_averaged": torch.tensor(2), **wrapped(tree, "module.")},
    ],
    ids=["plain", "entry", "parallel", "resumable", "normalised", "averaged"],
)
@pytest.mark.parametrize("first_layer", [[], NORMALISED], ids=["bare", "normalise"])
def test_whatever_wraps_them_all_weights_arrive(
    wrap: Any, first_layer: list[str], tmp_path: Path
) -> None:
    source = network().state_dict()
    torch.save(wrap(dict(source)), tmp_path / "w.pt")
    model, said = started(tmp_path / "w.pt", *first_layer)
    assert f"{len(source)} of {len(source)} tensors" in said
    assert "all are trained" in said
    assert equal(weight_files.learnt(model), dict(source))


def test_safetensors_and_a_runs_own_file(tmp_path: Path) -> None:
    source = network().state_dict()
    tensors = {name: value.contiguous() for name, value in source.items()}
    safetensors.torch.save_file(tensors, tmp_path / "w.safetensors")
    model, _ = started(tmp_path / "w.safetensors")
    assert equal(dict(model.state_dict()), dict(source))
    checkpoint.save_file(tmp_path / "model.pt", {"format": 1, "model": dict(source)})
    model, _ = started(tmp_path / "model.pt")
    assert equal(dict(model.state_dict()), dict(source))


def test_another_head_is_begun_anew_and_said(tmp_path: Path) -> None:
    source = network(classes=7).state_dict()
    torch.save({**source, "extra.bias": torch.ones(3)}, tmp_path / "w.pt")
    model, said = started(tmp_path / "w.pt")
    fresh = network(seed=1).state_dict()
    for name, value in model.state_dict().items():
        head = value.shape != source[name].shape
        assert torch.equal(value, fresh[name] if head else source[name]), name
    assert "of another shape" in said and "[7, " in said and "[10, " in said
    assert "not in the network: extra.bias" in said


@pytest.mark.parametrize(
    "other, words",
    [
        (lambda value: value.to(torch.int8), "torch.int8, here torch.float32"),
        (lambda value: value.to_sparse(), "torch.sparse_coo, here torch.strided"),
    ],
    ids=["integers", "sparse"],
)
def test_numbers_that_are_no_weights_do_not_fit(
    other: Any, words: str, tmp_path: Path
) -> None:
    source = dict(network().state_dict())
    torch.save({**source, "0.weight": other(source["0.weight"])}, tmp_path / "w.pt")
    with pytest.raises(UserError, match=f"another shape or type: 0.weight .{words}"):
        started(tmp_path / "w.pt")
    halves = {name: value.bfloat16() for name, value in source.items()}
    torch.save(halves, tmp_path / "w.pt")
    assert "46 of 46" in started(tmp_path / "w.pt")[1]


def test_names_are_mapped_by_their_beginning(tmp_path: Path) -> None:
    source = dict(network().state_dict())
    names = {name: name.replace("0.", "stem.", 1) if name[:2] == "0." else name
             for name in source}  # fmt: skip
    assert list(names.values()) != list(source)
    torch.save(
        {names[name]: value for name, value in source.items()}, tmp_path / "w.pt"
    )
    with pytest.raises(UserError, match="does not fill .*trunk.*model.init_keys"):
        started(tmp_path / "w.pt")
    model, said = started(tmp_path / "w.pt", 'model.init_keys={"stem.": "0."}')
    assert equal(dict(model.state_dict()), source)
    _, said = started(tmp_path / "w.pt", "model.init_partial=true")
    assert "not in the file: 0." in said and "not in the network: stem." in said


def test_averages_of_another_program(tmp_path: Path) -> None:
    raw, mean = dict(network().state_dict()), dict(network(seed=2).state_dict())
    torch.save({"state_dict": raw, "state_dict_ema": mean}, tmp_path / "w.pt")
    model, said = started(tmp_path / "w.pt", "model.init_weights=ema")
    assert equal(dict(model.state_dict()), mean) and "averages, " in said
    torch.save({"state_dict": raw}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="no moving average.*only 'state_dict'"):
        started(tmp_path / "w.pt", "model.init_weights=ema")


def test_torchvisions_names_stand_for_files_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    name = "ResNet18_Weights.IMAGENET1K_V1"
    with pytest.raises(UserError, match="no file .*resnet18-f37072fd.pth; put what is"):
        weight_files.find(name, "model.init")
    with pytest.raises(UserError, match="did you mean 'ResNet18_Weights.IMAGENET1K_V1"):
        weight_files.find("ResNet18_Weights.IMAGENET_V1", "model.init")
    (tmp_path / "checkpoints").mkdir()
    file = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
    torch.save(network().state_dict(), file)
    assert weight_files.find(name, "model.init") == file
    with pytest.raises(UserError, match="its SHA-256 is not f37072fd"):
        started(name)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    assert weight_files.read(file.read_bytes(), f"net-{digest}.pth", digest=True)


@pytest.mark.parametrize("name", ["net-20260115.pth", "step-00001000.pth"])
def test_a_date_or_a_step_in_a_files_name_is_no_digest(
    name: str, tmp_path: Path
) -> None:
    torch.save(network().state_dict(), tmp_path / name)
    assert "starting from" in started(tmp_path / name)[1]


def test_what_is_no_file_of_weights_is_refused_in_a_line(tmp_path: Path) -> None:
    file = tmp_path / "w.pt"
    torch.save({"state_dict": {}, "args": argparse.Namespace(lr=1)}, file)
    with pytest.raises(UserError, match="could run code when read"):
        started(file)
    torch.save(network().state_dict(), file)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(UserError, match="damaged, or not a file of torch.save"):
        started(file)
    file.write_bytes(b"nothing")
    with pytest.raises(UserError, match="damaged, or not a file"):
        started(file)
    plain = io.BytesIO()
    torch.save({"w": torch.ones(3)}, plain, _use_new_zipfile_serialization=False)
    for place in range(0, len(plain.getvalue()), 7):
        data = bytearray(plain.getvalue())
        data[place] ^= 0xFF
        try:
            weight_files.read(bytes(data), "w.pt")
        except UserError:
            continue
    torch.save({0: torch.ones(3), 1: torch.ones(4)}, file)
    with pytest.raises(UserError, match="does not fill"):
        started(file)
    torch.save({"epoch": 3}, file)
    with pytest.raises(UserError, match="no state_dict, only 'epoch'"):
        started(file)
    torch.save([torch.ones(3)], file)
    with pytest.raises(UserError, match="expected a state_dict, got a list"):
        started(file)
    with pytest.raises(UserError, match="cannot read .*nowhere.pt"):
        started(tmp_path / "nowhere.pt")
    (tmp_path / "w.pkl").write_bytes(b"nothing")
    with pytest.raises(UserError, match="w.pkl is a file, and ends with none of .pt"):
        started(tmp_path / "w.pkl")
    for setting in ("model.init_partial=true", "model.init_keys={a: b}"):
        with pytest.raises(UserError, match="is a run: leave them out"):
            started(tmp_path, setting)
    (tmp_path / "w.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="no safetensors"):
        started(tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="belong to a file: set init"):
        load_config(None, ["model.init_partial=true"])


def test_a_run_goes_on_without_the_file_that_it_started_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop, "listen", lambda: None)
    monkeypatch.setattr(stop, "leave_when_asked", lambda: None)
    runtime = start("cpu")
    file = tmp_path / "w.pt"
    torch.save(network().state_dict(), file)
    settings = [
        *NETWORK, f"model.init={file}", "data.name=synthetic", "data.image_size=8",
        "data.num_train=32", "data.num_test=16", "train.batch_size=16",
        "train.epochs=1", "train.device=cpu", "attack.num_steps=1",
        "evaluation.attack.num_steps=1", "evaluation.pictures=false",
    ]  # fmt: skip
    config = load_config(None, settings)
    train(config, tmp_path / "whole", runtime)
    train(load_config(None, [*settings, "train.max_steps=1"]), tmp_path / "r", runtime)
    file.unlink()
    train(config, tmp_path / "r", runtime)
    train(config, tmp_path / "r", runtime)  # it says its result
    whole, left = (read_result(tmp_path / name) or {} for name in ("whole", "r"))
    assert whole["parameters_sha256"] == left["parameters_sha256"]
    with pytest.raises(UserError, match="cannot read .*w.pt"):
        train(config, tmp_path / "new", runtime)
