"""Pseudo-labels: the model's own argmax, in a file that training takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn

from dathvd import checkpoint
from dathvd.cli import cli
from dathvd.config import Config, load_config
from dathvd.data import load_dataset
from dathvd.errors import UserError
from dathvd.models import build_model
from dathvd.pseudo_labels import pseudo_label
from dathvd.runtime import Runtime
from dathvd.training.pretrained import initialise

ALONE = Runtime(0, 1, 0, 1, torch.device("cpu"), "mpi", 1)
SYNTHETIC = ["data.name=synthetic", "data.image_size=8", "model.width=2"]
PIXELS = np.random.default_rng(1).integers(256, size=(11, 8, 8, 3), dtype=np.uint8)


def save_run(folder: Path, *settings: str, classes: int = 10) -> nn.Module:
    """A run folder with a random network, as training would leave it."""
    config = load_config(None, [*SYNTHETIC, *settings])
    shape = (3, config.data.crop_size or 8, config.data.crop_size or 8)
    torch.manual_seed(0)
    model = build_model(config.model, shape, classes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)  # so that classes differ between images
    place = checkpoint.checkpoint_folder(folder, 1)
    place.mkdir(parents=True)
    state = {
        "format": checkpoint.FORMAT,
        "config": config.model_dump_json(),
        "image_shape": list(shape),
        "num_classes": classes,
        "model": model.state_dict(),
    }
    checkpoint.save_file(place / "model.pt", state)
    return model


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    folder = tmp_path_factory.mktemp("run")
    return folder, save_run(folder)


def probabilities(model: nn.Module, pixels: Any = PIXELS) -> torch.Tensor:
    with torch.no_grad():
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        likely: torch.Tensor = model(images).softmax(1)
    return likely


def label(folder: Path, source: Path, output: Path, **options: Any) -> dict[str, Any]:
    pseudo_label(str(folder), source, output, ALONE, batch_size=4, **options)
    with np.load(output, allow_pickle=False) as content:
        return dict(content)


@pytest.mark.parametrize("kind", ["npy", "npz", "x_train", "image", "folder"])
def test_labels_are_the_models_argmax(
    run: tuple[Path, nn.Module], kind: str, tmp_path: Path
) -> None:
    folder, model = run
    source = tmp_path / f"images.{kind}"
    if kind == "npy":
        np.save(source, PIXELS)
    elif kind == "folder":
        for number, pixels in enumerate(PIXELS):
            place = source / str(number // 5)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{number:02}.png")
    else:
        source = tmp_path / "images.npz"
        name = "pictures" if kind == "npz" else kind
        content: dict[str, Any] = {name: PIXELS.transpose(0, 3, 1, 2)}
        if kind != "npz":  # the only array may have any name
            content["other"] = np.zeros(11, dtype=np.int64)
        np.savez(source, **content)
    labelled = label(folder, source, tmp_path / "extra.npz")
    expected = probabilities(model)
    assert len(expected.argmax(1).unique()) > 1
    assert labelled["y_train"].tolist() == expected.argmax(1).tolist()
    np.testing.assert_allclose(labelled["probabilities"], expected, atol=1e-5)
    np.testing.assert_allclose(labelled["confidence"], expected.amax(1), atol=1e-5)
    assert np.array_equal(labelled["x_train"], PIXELS.transpose(0, 3, 1, 2))
    assert not list(tmp_path.glob(".extra*"))


def test_images_below_the_confidence_are_left_out_and_training_takes_the_rest(
    run: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    folder, model = run
    np.save(tmp_path / "images.npy", PIXELS)
    confidence, labels = probabilities(model).max(1)
    border = float(confidence.median())
    output = tmp_path / "extra.npz"
    content = label(folder, tmp_path / "images.npy", output, min_confidence=border)
    kept = (confidence >= border).nonzero().flatten()
    assert 0 < len(kept) < len(PIXELS)
    assert content["place"].tolist() == kept.tolist()
    settings = ["data.num_train=3", f"data.extra={output}", "data.extra_ratio=0.5"]
    dataset = load_dataset(load_config(None, [*SYNTHETIC, *settings]).data)
    assert dataset.train.labels[3:].tolist() == labels[kept].tolist()
    last = dataset.train.batch(torch.tensor([len(dataset.train) - 1]))
    assert np.array_equal(last[0].permute(1, 2, 0), PIXELS[kept[-1]])


def test_the_images_are_not_written_over(
    run: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    source = tmp_path / "images.npz"
    np.savez(source, x=PIXELS)
    with pytest.raises(UserError, match="holds the images; name another file"):
        label(run[0], source, source)
    assert np.array_equal(np.load(source)["x"], PIXELS)


def test_a_cropped_networks_images_stay_whole(tmp_path: Path) -> None:
    model = save_run(tmp_path / "run", "data.crop_size=6")
    np.save(tmp_path / "images.npy", PIXELS)
    content = label(tmp_path / "run", tmp_path / "images.npy", tmp_path / "extra.npz")
    expected = probabilities(model, PIXELS[:, 1:7, 1:7])
    assert content["y_train"].tolist() == expected.argmax(1).tolist()
    assert content["x_train"].shape == (11, 3, 8, 8)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("other.npy", PIXELS[:, :5], r"images of \[3, 5, 8\], the run's data set of"),
        ("floats.npy", PIXELS / 255, "must be uint8"),
        ("objects.npy", np.array([{}]), "cannot be read as .npy"),
        ("empty.npy", PIXELS[:0], "holds no images"),
        ("nothing.npy", None, "No such file"),
        ("words.txt", b"hello", "neither a folder nor"),
        ("broken.npz", b"hello", "cannot be read as .npz"),
        ("folder", None, "holds no image files"),
    ],
)
def test_images_that_do_not_fit_are_named(
    run: tuple[Path, nn.Module], name: str, content: Any, message: str, tmp_path: Path
) -> None:
    source = tmp_path / name
    if name == "folder":
        source.mkdir()
    elif isinstance(content, bytes):
        source.write_bytes(content)
    elif content is not None:
        np.save(source, content, allow_pickle=True)
    with pytest.raises(UserError, match=message) as caught:
        label(run[0], source, tmp_path / "extra.npz")
    assert str(caught.value).startswith("images: ") and name in str(caught.value)
    assert "data.root" not in str(caught.value)
    assert not (tmp_path / "extra.npz").exists()


def test_other_bad_input_is_refused(
    run: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    images = tmp_path / "images.npy"
    np.save(images, PIXELS)
    for output, message in (
        (tmp_path / "extra.npy", "must end in .npz"),
        (tmp_path / "nowhere" / "extra.npz", "no folder to write in"),
    ):
        with pytest.raises(UserError, match=message):
            label(run[0], images, output)
    with pytest.raises(UserError, match="no image reaches it; the highest"):
        label(run[0], images, tmp_path / "extra.npz", min_confidence=1.0)
    save_run(tmp_path / "pretrained", "objective.name=rotation", classes=4)
    with pytest.raises(UserError, match="pre-trained by rotation, it knows no classes"):
        label(tmp_path / "pretrained", images, tmp_path / "extra.npz")
    arguments = ["pseudo-label", str(tmp_path), str(images), "--output", "x.npz"]
    done = CliRunner().invoke(cli, [*arguments, "--min-confidence", "2"])
    assert done.exit_code == 2 and "2.0 is not in the range" in done.output


def test_training_starts_from_a_trunk_that_fits(
    run: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    def start(*settings: str, classes: int = 10) -> tuple[nn.Module, str]:
        whole = [*SYNTHETIC, f"model.init={run[0]}", *settings]
        config: Config = load_config(None, whole)
        torch.manual_seed(5)
        model = build_model(config.model, (3, 8, 8), classes)
        said = initialise(model, config.model, ALONE)
        assert said is not None
        return model, said

    model, said = start()
    assert said.startswith("starting from all weights")
    for name, value in run[1].state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    other, said = start(classes=7)
    assert "the trunk, with a new head," in said
    first = next(iter(run[1].parameters()))
    assert torch.equal(next(iter(other.parameters())), first)
    for setting, message in (
        ("model.width=3", "has model.width 2, this run 3"),
        ("model.activation=silu", "has model.activation None, this run 'silu'"),
        ("model.init=/nowhere", "no such folder"),
    ):
        with pytest.raises(UserError, match=message):
            start(setting)


def with_averages(run: Path, folder: Path) -> dict[str, Tensor]:
    """The same run in ``folder``, with averages of minus half the weights."""
    [place] = checkpoint.find_checkpoints(run)
    state = checkpoint.load_file(place / "model.pt")
    state["ema"] = {name: -0.5 * value for name, value in state["model"].items()}
    copied = checkpoint.checkpoint_folder(folder, 1)
    copied.mkdir(parents=True)
    checkpoint.save_file(copied / "model.pt", state)
    averages: dict[str, Tensor] = state["ema"]
    return averages


def test_averaged_weights_label_and_are_started_from(
    run: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    averages = with_averages(run[0], tmp_path / "run")
    np.save(tmp_path / "images.npy", PIXELS)
    model = checkpoint.load_model(tmp_path / "run", "ema")
    content = label(
        tmp_path / "run", tmp_path / "images.npy", tmp_path / "a.npz", weights="ema"
    )
    np.testing.assert_allclose(content["probabilities"], probabilities(model), 1e-4)
    raw = label(tmp_path / "run", tmp_path / "images.npy", tmp_path / "b.npz")
    assert not np.allclose(raw["probabilities"], content["probabilities"], 1e-2)
    init = [f"model.init={tmp_path / 'run'}", "model.init_weights=ema"]
    config = load_config(None, [*SYNTHETIC, *init])
    started = build_model(config.model, (3, 8, 8), 10)
    said = initialise(started, config.model, ALONE)
    assert said is not None and "all averaged weights" in said
    for name, value in started.state_dict().items():
        assert torch.equal(value, averages[name])


def test_averages_that_are_not_there_are_refused(
    run: tuple[Path, nn.Module], tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", PIXELS)
    with pytest.raises(UserError, match="holds no moving average"):
        label(run[0], tmp_path / "images.npy", tmp_path / "a.npz", weights="ema")
    init = [f"model.init={run[0]}", "model.init_weights=ema"]
    config = load_config(None, [*SYNTHETIC, *init])
    with pytest.raises(UserError, match="holds no moving average"):
        initialise(build_model(config.model, (3, 8, 8), 10), config.model, ALONE)
    with pytest.raises(UserError, match="init_weights ema are another run's"):
        load_config(None, ["model.init_weights=ema"])
