"""``dathvd benchmark-compression``: its rows, its files, its refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from dathvd.benchmark.codecs.gradient import random_gradient, training_gradient
from dathvd.benchmark.codecs.timing import measure_codecs
from dathvd.cli import cli
from dathvd.compression import COMPRESSORS, Compression
from dathvd.config import load_config
from tests.single.compression_inputs import decoded, encoded


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["benchmark-compression", *arguments])


def test_rows_and_files(tmp_path: Path) -> None:
    lines, picture = tmp_path / "rows.jsonl", tmp_path / "rows.png"
    options = ["--source", "random", "--num-values", "30000", "--rounds", "3"]
    result = run(*options, "--json", str(lines), "--png", str(picture))
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [row["codec"] for row in rows] == list(COMPRESSORS)
    for row in rows:
        assert row["num_values"] == 30000 and row["threads"] == 1
        assert min(row["memcpy_ms"], row["encode_ms"], row["decode_ms"]) > 0
        assert row["memcpy_ms"] == rows[0]["memcpy_ms"]  # all are held against one copy
        assert row["ratio"] > 0 and row["spread"] >= 0
        assert row["gradient"] == "random normal values"
        assert row["codec"] in result.output
    by_name = {row["codec"]: row for row in rows}
    assert by_name["none"]["error_energy"] == 0
    assert by_name["none"]["bytes"] == 120_000
    assert by_name["sign"]["bytes"] == Compression.sign().payload_bytes(30000)
    # of a normal variable: 1 - 2 / pi
    assert by_name["sign"]["error_energy"] == pytest.approx(1 - 2 / torch.pi, abs=0.02)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_error_energy_is_that_of_the_payload() -> None:
    gradient = random_gradient(5000, seed=3)
    codec = Compression.topk(density=0.05)
    (row,) = measure_codecs([codec], gradient, 2)
    ours = decoded(codec, encoded(codec, gradient.values)[0], 5000) - gradient.values
    expected = ours.square().sum() / gradient.values.square().sum()
    assert row.error_energy == pytest.approx(float(expected), rel=1e-5)


def test_the_gradient_is_one_of_adversarial_training() -> None:
    config = load_config(None, ["train.batch_size=8", "attack.num_steps=1"])
    gradient = training_gradient(config, 2)
    assert gradient.previous is not None and gradient.values.any()
    assert gradient.values.numel() == sum(r * c for r, c in gradient.shapes)
    assert not torch.equal(gradient.values, gradient.previous)
    assert "pgd-1 training, gradient of step 2" in gradient.description
    again = training_gradient(config, 2)
    assert torch.equal(gradient.values, again.values)


def test_saved_gradients(tmp_path: Path) -> None:
    values = torch.randn(40, 50)
    np.save(tmp_path / "g.npy", values.numpy())
    torch.save(values, tmp_path / "g.pt")
    energies = []
    for name in ("g.npy", "g.pt"):
        out = tmp_path / "rows.jsonl"
        options = ["--gradient", str(tmp_path / name), "--rounds", "2"]
        assert run(*options, "--json", str(out)).exit_code == 0
        rows = [json.loads(line) for line in out.read_text().splitlines()]
        energies.append([row["error_energy"] for row in rows])
    assert energies[0] == energies[1]


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("a file was executed",))


@pytest.mark.parametrize(
    "make,message",
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_bytes(b"nonsense"), "not a saved array"),
        (lambda path: torch.save(Harmful(), path), "not a saved array"),
        (
            lambda path: torch.save(torch.arange(3), path),
            "expected one array of floats",
        ),
        (lambda path: torch.save(torch.full((3,), torch.nan), path), "NaN"),
        (lambda path: torch.save(torch.zeros(0), path), "empty"),
    ],
)
def test_bad_files_are_refused_in_one_line(
    tmp_path: Path, make: object, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "g.pt"
    make(path)  # type: ignore[operator]
    error = run("--gradient", str(path)).exception
    assert message in str(error) and "\n" not in str(error)
    assert getattr(error, "exit_code", None) == 2
    assert "executed" not in capsys.readouterr().out


def test_num_values_belong_to_random_values() -> None:
    error = run("--num-values", "100").exception
    assert "only with --source random" in str(error)
