"""Checkpoints: restored exactly, refused when wrong, never executed."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

import dathvd
from dathvd import checkpoint
from dathvd.config import ModelConfig, load_config
from dathvd.errors import UserError
from dathvd.hashing import parameters_sha256
from dathvd.models import build_model


def saved(run: Path, step: int = 3, **changes: Any) -> Path:
    """A checkpoint of a fresh small network."""
    torch.manual_seed(step)
    config = load_config()
    model = build_model(config.model, image_shape=(1, 8, 8), num_classes=10)
    shared = {
        "step": step,
        "num_workers": 1,
        "config": config.model_dump_json(),
        "image_shape": [1, 8, 8],
        "num_classes": 10,
        "model": model.state_dict(),
        "optimizer": {},
        **changes,
    }
    final = checkpoint.checkpoint_folder(run, step)
    checkpoint.write_rank_files(final, shared, {"x": torch.ones(2)}, 0)
    checkpoint.publish(final, keep=2)
    return final


def test_load_model_gives_the_network_of_the_newest_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    final = saved(tmp_path, 12)
    model = dathvd.load_model(tmp_path)
    assert not model.training
    assert model(torch.rand(5, 1, 8, 8)).shape == (5, 10)
    expected = checkpoint.load_file(final / "model.pt")["model"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name])


def test_only_the_newest_checkpoints_are_kept_and_nothing_is_staged(
    tmp_path: Path,
) -> None:
    for step in (1, 2, 3, 4):
        saved(tmp_path, step)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == [
        "step-00000003",
        "step-00000004",
    ]


def test_a_spared_checkpoint_stays_and_later_ones_can_be_dropped(
    tmp_path: Path,
) -> None:
    old, good = saved(tmp_path, 1), saved(tmp_path, 2)
    final = checkpoint.checkpoint_folder(tmp_path, 3)
    checkpoint.write_rank_files(final, {"step": 3}, {}, 0)
    checkpoint.publish(final, keep=1, spare=[2])
    assert checkpoint.find_checkpoints(tmp_path) == [good, final]
    checkpoint.discard_after(good)
    assert checkpoint.find_checkpoints(tmp_path) == [good] and not old.exists()


def test_an_unfinished_checkpoint_does_not_count(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    checkpoint.write_rank_files(
        checkpoint.checkpoint_folder(tmp_path, 9), {"step": 9}, {}, 0
    )
    assert checkpoint.resolve(tmp_path).name == "step-00000003"


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_checkpoint_never_executes_code(
    tmp_path: Path, writer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = io.BytesIO()
    if writer == "pickle":
        pickle.dump({"format": 1, "x": Evil()}, data)
    else:
        torch.save({"format": 1, "x": Evil()}, data)
    with pytest.raises(UserError, match="corrupted, or not a checkpoint"):
        checkpoint.load_bytes(data.getvalue(), "evil.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_checkpoint_is_one_line(tmp_path: Path, keep: float) -> None:
    file = saved(tmp_path) / "model.pt"
    data = file.read_bytes()
    file.write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    with pytest.raises(UserError, match="model.pt: corrupted"):
        dathvd.load_model(tmp_path)


@pytest.mark.parametrize("where", ["middle", "method"])
def test_flipped_bits_are_noticed(tmp_path: Path, where: str) -> None:
    file = saved(tmp_path) / "model.pt"
    data = bytearray(file.read_bytes())
    if where == "middle":
        data[len(data) // 2] ^= 0xFF
    else:  # the table of contents calls a plain entry a compressed one
        data[data.find(b"PK\x01\x02") + 10] ^= 8
    file.write_bytes(bytes(data))
    with pytest.raises(UserError, match="model.pt: corrupted"):
        dathvd.load_model(tmp_path)


def test_another_models_checkpoint_names_the_difference(tmp_path: Path) -> None:
    other = build_model(ModelConfig(width=7), image_shape=(1, 8, 8), num_classes=10)
    saved(tmp_path, model=other.state_dict())
    with pytest.raises(UserError, match=r"of another model: '.*' has shape"):
        dathvd.load_model(tmp_path)


def test_the_moving_average_is_there_where_it_was_saved(tmp_path: Path) -> None:
    final = saved(tmp_path, 3)
    with pytest.raises(UserError, match="no moving average .* take the raw weights"):
        dathvd.load_model(final, weights="ema")
    weights = checkpoint.load_file(final / "model.pt")["model"]
    averages = {name: value + 1 for name, value in weights.items()}
    final = saved(tmp_path, 4, model=weights, ema=averages)
    for kind, expected in (("raw", weights), ("ema", averages)):
        found = dathvd.load_model(final, weights=kind)
        for name, value in found.state_dict().items():
            assert torch.equal(value, expected[name])


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_a_run_without_checkpoint_is_one_line(tmp_path: Path, kind: str) -> None:
    run = tmp_path / "run"
    if kind == "empty":
        run.mkdir()
    message = "no such folder" if kind == "missing" else "holds no checkpoint"
    with pytest.raises(UserError, match=message):
        dathvd.load_model(run)


def test_the_hash_sees_every_bit() -> None:
    model = build_model(ModelConfig(), image_shape=(1, 8, 8), num_classes=10)
    before = parameters_sha256(model)
    assert before == parameters_sha256(model)
    with torch.no_grad():
        parameter = next(model.parameters())
        parameter.view(torch.int32).view(-1)[3] ^= 1
    assert parameters_sha256(model) != before
