"""Networks that are no run's: judged, checked and asked for labels like a run's."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.nn import functional

from dathvd.checkpoint import save_file
from dathvd.cli import cli
from dathvd.config import load_config
from dathvd.data import load_dataset
from dathvd.errors import UserError
from dathvd.evaluation import (
    Grid,
    Request,
    SanityRequest,
    check_sanity,
    evaluate_checkpoint,
)
from dathvd.files import make_folder
from dathvd.foreign import foreign_config, foreign_network
from dathvd.hashing import parameters_sha256
from dathvd.models import build_model
from dathvd.runtime import Runtime
from tests.own_package import write_package

ALONE = Runtime(0, 1, 0, 1, torch.device("cpu"), "mpi", 1)
PLACE = "outside.nets:make_network"
MORE = ["model.options.hidden=24", "evaluation.max_samples=40"]


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(write_package(tmp_path / "lib")))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "outside"]:
        del sys.modules[name]


@pytest.fixture
def trained(tmp_path: Path) -> nn.Module:
    """A network that reads most digits, whose weights lie in ``w.pt``."""
    config = load_config(None, [f"model.name={PLACE}", *MORE])
    dataset = load_dataset(config.data)
    torch.manual_seed(0)
    model = build_model(config.model, dataset.image_shape, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    images = dataset.train.batch(torch.arange(512)).float() / 255
    for _ in range(60):
        loss = functional.cross_entropy(model(images), dataset.train.labels[:512])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save({"state_dict": model.state_dict()}, tmp_path / "w.pt")
    return model.eval()


def judged(tmp_path: Path, run: str, **more: Any) -> dict[str, Any]:
    grid = Grid(("fgsm", "pgd"), (0.05,), num_steps=(3,))
    request = Request(grid, json_file=tmp_path / "out.json", trust=True, **more)
    evaluate_checkpoint(run, request, ALONE)
    found = dict(json.loads((tmp_path / "out.json").read_text()))
    return {name: found[name] for name in found if not name.endswith("seconds")}


def test_it_is_judged_like_the_run_of_the_same_weights(
    trained: nn.Module, tmp_path: Path
) -> None:
    config = load_config(None, [f"model.name={PLACE}", *MORE])
    state = {
        "format": 1, "step": 1, "num_workers": 1, "config": config.model_dump_json(),
        "image_shape": [1, 8, 8], "num_classes": 10, "model": trained.state_dict(),
    }  # fmt: skip
    folder = tmp_path / "run" / "checkpoints" / "step-00000001"
    make_folder(folder)
    save_file(folder / "model.pt", state)
    expected = judged(tmp_path, str(tmp_path / "run"))
    foreign = foreign_config(PLACE, "digits", str(tmp_path / "w.pt"), MORE, trust=True)
    assert expected.pop("checkpoint") == "last"
    found = judged(tmp_path, PLACE, foreign=foreign)
    assert found.pop("checkpoint") is None and found == expected
    assert expected["clean_accuracy"] > 0.8


def test_a_shipped_configuration_gives_data_and_evaluation_alone() -> None:
    found = foreign_config(PLACE, "cifar10/fast", None, ["data.root=/d"], trust=True)
    assert found.data.name == "cifar10" and found.data.root == "/d"
    assert found.evaluation.batch_size == 500
    assert found.model.name == PLACE and found.model.options == {}


def test_commands_take_it_in_place_of_a_run(trained: nn.Module, tmp_path: Path) -> None:
    whole = [
        "--model", PLACE, "--weights", str(tmp_path / "w.pt"), "--data", "digits",
        "--set", "model.options.hidden=24", "--trust",
    ]  # fmt: skip
    pixels = np.random.default_rng(0).integers(256, size=(6, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    output = str(tmp_path / "labels.npz")
    given = ["pseudo-label", str(tmp_path / "images.npy"), "--output", output, *whole]
    done = CliRunner().invoke(cli, given)
    assert done.exit_code == 0, done.output
    expected = trained(torch.from_numpy(pixels)[:, None].float() / 255).argmax(dim=1)
    assert np.load(output)["y_train"].tolist() == expected.tolist()
    sizes = ["--max-samples", "16", "--epsilon", "0.1", "--num-steps", "2"]
    done = CliRunner().invoke(cli, ["evaluate", *whole, *sizes])
    assert done.exit_code == 0 and "fill" not in done.output, done.output
    assert "4 of 4 tensors" in done.output
    done = CliRunner().invoke(cli, ["sanity", *whole, *sizes, "--surrogate-steps", "2"])
    assert done.exit_code in (0, 1) and "restarts" in done.output, done.output


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "either RUN or --model"),
        (["RUN", "--model", PLACE], "either RUN or --model"),
        (["--model", PLACE, "--trust"], "--model needs --data"),
        (["RUN", "--data", "digits"], "belong to --model"),
        (["--model", PLACE, "--checkpoint", "best"], "--checkpoint belongs to RUN"),
        (["RUN", "--weights", "w.pt"], "a file of weights needs --model"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    arguments: list[str], message: str
) -> None:
    done = CliRunner().invoke(cli, ["evaluate", *arguments])
    assert done.exit_code == 2 and message in done.output


def test_nothing_is_imported_without_trust() -> None:
    with pytest.raises(UserError, match="--model outside.nets.*say --trust"):
        foreign_config(PLACE, "digits", None, trust=False)
    assert "outside.nets" not in sys.modules
    with pytest.raises(UserError, match="expected package.module:function"):
        foreign_config("resnet18", "digits", None, trust=True)
    with pytest.raises(UserError, match="--weights w.txt: expected a file of weights"):
        foreign_config(PLACE, "digits", "w.txt", trust=True)


@pytest.mark.usefixtures("trained")
def test_weights_that_do_not_fill_it_are_refused(tmp_path: Path) -> None:
    config = foreign_config(PLACE, "digits", str(tmp_path / "w.pt"), trust=True)
    dataset = load_dataset(config.data)
    with pytest.raises(
        UserError, match=r"do not fill the network: 1 of 4 .*\[24, 64\]"
    ):
        foreign_network(config, dataset, ALONE)


@pytest.mark.parametrize(
    "arguments",
    [
        ["evaluate", "--attack", "pgd"],
        ["evaluate", "--attack", "autoattack"],
    ],
)
def test_a_network_without_gradients_is_judged_by_attacks_that_need_none(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nn.Linear, "forward", torch.no_grad()(nn.Linear.forward))
    given = ["--model", PLACE, "--data", "digits", "--max-samples", "4", "--trust"]
    told = CliRunner().invoke(cli, [*arguments, *given])
    assert isinstance(told.exception, UserError)
    assert "the network gives no gradient for its images" in str(told.exception)
    told = CliRunner().invoke(cli, ["evaluate", "--attack", "noise,spatial", *given])
    assert told.exit_code == 0


def test_what_the_function_draws_is_the_same_on_every_rank_and_again() -> None:
    """A network that is judged on its first weights, or draws a part of itself."""
    config = foreign_config(PLACE, "digits", None, MORE, trust=True)
    dataset = load_dataset(config.data)
    one, other = (foreign_network(config, dataset, ALONE) for _ in range(2))
    assert parameters_sha256(one) == parameters_sha256(other)


def test_a_result_that_could_not_be_kept_is_refused_before_any_work(
    tmp_path: Path,
) -> None:
    foreign = foreign_config(PLACE, "digits", None, MORE, trust=True)
    for file, message in (
        (tmp_path / "none" / "out.json", "no folder to write in"),
        (tmp_path, "is a folder; name a file in it"),
    ):
        request = Request(foreign=foreign, trust=True, json_file=file)
        with pytest.raises(UserError, match=f"--json .*{message}"):
            evaluate_checkpoint(PLACE, request, ALONE)
        with pytest.raises(UserError, match=f"--json .*{message}"):
            check_sanity(PLACE, SanityRequest(evaluation=request), ALONE)
    assert "outside.nets" not in sys.modules
