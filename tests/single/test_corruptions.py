"""Common corruptions against closed forms, and the folders in which they are
published; the spatial attack."""

from __future__ import annotations

import colorsys
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor, nn

from dathvd.components import CORRUPTIONS
from dathvd.errors import UserError
from dathvd.evaluation import Grid, Request, evaluate_checkpoint
from dathvd.evaluation.corruptions import CorruptionRequest, corrupt
from dathvd.evaluation.corruptions.blur import disk
from dathvd.evaluation.corruptions.light import plasma
from dathvd.evaluation.spatial import Spatial, moved, places
from dathvd.noise import SampleNoise
from dathvd.runtime import Runtime
from tests.saved_network import save_network

ALONE = Runtime(0, 1, 0, 1, torch.device("cpu"), "mpi", 1)


def pictures(count: int = 4, channels: int = 3, side: int = 32) -> Tensor:
    """Smooth images on the grid of bytes."""
    torch.manual_seed(0)
    small = torch.rand(count, channels, 4, 4)
    large = nn.functional.interpolate(small, (side, side), mode="bicubic")
    return large.clamp(0, 1).mul(255).round().div(255)


def noise_of(count: int) -> SampleNoise:
    return SampleNoise(3, torch.arange(count))


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("channels, side", [(3, 32), (1, 8), (3, 70)])
def test_a_sample_is_corrupted_alike_in_any_batch(
    name: str, channels: int, side: int
) -> None:
    images, noise = pictures(4, channels, side), noise_of(4)
    whole = corrupt(name, 3, images, noise)
    assert whole.shape == images.shape and whole.dtype == torch.float32
    assert bool((whole * 255 - (whole * 255).round()).abs().max() < 1e-3)
    assert bool((whole >= 0).all()) and bool((whole <= 1).all())
    parts = [
        corrupt(name, 3, images[p], noise.select(p))
        for p in torch.arange(4).split([1, 3])
    ]
    assert float((whole - torch.cat(parts)).abs().max()) <= 1.01 / 255
    assert corrupt(name, 3, images[:0], noise_of(0)).shape == images[:0].shape


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - {"saturate"}))
def test_severities_grow(name: str) -> None:
    for side in (32, 96):
        images, noise = pictures(8, 3, side), noise_of(8)
        far = [
            float((corrupt(name, s, images, noise) - images).square().mean())
            for s in (1, 3, 5)
        ]
        assert far == sorted(far) and far[2] > 1.2 * far[0]


def test_noise_has_its_law() -> None:
    images = torch.full((64, 1, 32, 32), 102 / 255)
    noise = noise_of(64)
    value = 102 / 255
    for name, deviation in (
        ("gaussian_noise", 0.06),
        ("speckle_noise", 0.1 * value),
        ("shot_noise", (value / 250) ** 0.5),
    ):
        found = corrupt(name, 2, images, noise)
        assert float(found.mean()) == pytest.approx(value - 0.5 / 255, abs=1e-3)
        assert float(found.std()) == pytest.approx(deviation, rel=0.03)
    found = corrupt("impulse_noise", 5, images, noise)
    for extreme in (0.0, 1.0):
        assert float((found == extreme).float().mean()) == pytest.approx(0.035, rel=0.1)


def test_blurs_are_convolutions() -> None:
    images = pictures(2)
    found = corrupt("gaussian_blur", 5, images, noise_of(2))
    expected = ndimage.gaussian_filter(
        images.double().numpy(), (0, 0, 1.0, 1.0), mode="nearest"
    )
    assert float(np.abs(found.numpy() - expected).max()) <= 1.1 / 255
    kernel = disk(1.5, 0.1)
    assert kernel.shape == (3, 3) and kernel.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(kernel, 1 / 9, atol=1e-9)
    assert disk(10, 0.5).shape == (21, 21)
    found = corrupt("defocus_blur", 5, images, noise_of(2))
    mirrored = ndimage.uniform_filter(
        images.double().numpy(), (0, 0, 3, 3), mode="mirror"
    )
    assert float(np.abs(found.numpy() - mirrored).max()) <= 1.1 / 255
    flat = torch.full((1, 3, 32, 32), 0.4)
    for name in ("gaussian_blur", "defocus_blur", "zoom_blur", "contrast", "pixelate"):
        same = corrupt(name, 5, flat, noise_of(1))
        assert float((same - 0.4).abs().max()) <= 1.1 / 255, name


@pytest.mark.parametrize("name", ["brightness", "saturate"])
def test_light_changes_one_part_of_hsv(name: str) -> None:
    images = pictures(2)
    images[:, :, 0] = 0.4  # grey
    images[:, :, 1] = 0.0
    found = corrupt(name, 5, images, noise_of(2))

    def changed(pixel: Any) -> Any:
        hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
        if name == "brightness":
            value = min(value + 0.3, 1.0)
        else:
            saturation = min(saturation * 2.5 + 0.2, 1.0)
        return colorsys.hsv_to_rgb(hue, saturation, value)

    rows = images.permute(0, 2, 3, 1).reshape(-1, 3).tolist()
    expected = torch.tensor([changed(row) for row in rows]).view(2, 32, 32, 3)
    off = (found.permute(0, 2, 3, 1) - expected).abs().max()
    assert float(off) <= 1.1 / 255


def test_files_lose_what_pillow_loses() -> None:
    images = pictures(1)
    pixels = (images[0] * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=40)
    expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255
    found = corrupt("jpeg_compression", 5, images, noise_of(1))[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_fog_is_a_cloud_of_its_own_for_each_sample() -> None:
    clouds = plasma(noise_of(3), 3, 20, 2.0)
    assert clouds.shape == (3, 32, 32)
    assert torch.equal(clouds.amin(dim=(1, 2)), torch.zeros(3).double())
    assert torch.equal(clouds.amax(dim=(1, 2)), torch.ones(3).double())
    assert not torch.equal(clouds[0], clouds[1])
    beside = (clouds[:, 1:] - clouds[:, :-1]).abs().mean()
    far = (clouds[:, 16:] - clouds[:, :16]).abs().mean()
    assert float(beside) < float(far) / 2  # neighbours are alike


def test_published_folders_are_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their numbers are those of a loop over the files."""
    random = np.random.default_rng(0)
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    images = {k: random.integers(256, size=(50, 8, 8, 1), dtype=np.uint8) for k in "ab"}
    labels = np.tile(random.integers(10, size=10), 5).astype(np.uint8)
    np.save(folder / "labels.npy", labels)
    for kind, pixels in images.items():
        np.save(folder / f"{kind}.npy", pixels)
    run = save_network(tmp_path / "run", (1, 8, 8), 10, "evaluation.max_samples=6")
    request = Request(
        Grid(("none",)),
        corruptions=CorruptionRequest(severities=(2, 5), folder=folder),
        output=tmp_path / "out",
    )
    for _ in range(2):  # the second time all is known
        evaluate_checkpoint(str(run), request, ALONE)
    result = json.loads((tmp_path / "out" / "result.json").read_text())["corruptions"]
    from dathvd import load_model

    model = load_model(run)
    for kind, pixels in images.items():
        for severity in (2, 5):
            part = slice(10 * (severity - 1), 10 * (severity - 1) + 6)
            inputs = torch.from_numpy(pixels[part]).permute(0, 3, 1, 2) / 255
            right = model(inputs).argmax(1) == torch.from_numpy(labels[part])
            expected = float(right.double().mean())
            assert result["accuracy"][kind][str(severity)] == pytest.approx(expected)
    assert f"mean {100 * result['mean_accuracy']:.2f}" in capsys.readouterr().out
    wrong = Request(
        Grid(("none",)),
        corruptions=CorruptionRequest(("c",), folder=folder),
    )
    with pytest.raises(UserError, match="--corruptions.*'c'"):
        evaluate_checkpoint(str(run), wrong, ALONE)
    np.save(folder / "b.npy", images["b"][:49])
    new = replace(request, output=tmp_path / "new")
    with pytest.raises(UserError, match="49 images of b and 50 labels"):
        evaluate_checkpoint(str(run), new, ALONE)
    for numbers in (labels[:, None], labels.astype(np.float32)):
        np.save(folder / "labels.npy", numbers)
        with pytest.raises(UserError, match="labels.npy holds .* expected whole numb"):
            evaluate_checkpoint(str(run), new, ALONE)
    assert not (tmp_path / "new").exists()  # all of it before anything is judged


def test_a_folder_of_image_files_is_judged(tmp_path: Path) -> None:
    from dathvd.data.corrupted import corrupted_images

    random = np.random.default_rng(0)
    for name, level in (("cat", 10), ("dog", 200)):
        place = tmp_path / "fog" / "3" / name
        place.mkdir(parents=True)
        pixels = level + random.integers(9, size=(8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / "x.png")
    found = corrupted_images(tmp_path, "fog", 3, ("dog", "cat"), (3, 8, 8))
    assert found.labels.tolist() == [1, 0]
    means = found.batch(torch.arange(2)).float().mean(dim=(1, 2, 3))
    assert float(means[0]) < 30 and float(means[1]) > 190
    with pytest.raises(UserError, match="other classes, such as bird"):
        corrupted_images(tmp_path, "fog", 3, ("bird", "cat", "dog"), (3, 8, 8))


def test_computed_corruptions_are_judged_on_the_test_set(tmp_path: Path) -> None:
    run = save_network(tmp_path / "run", (1, 8, 8), 10, "evaluation.max_samples=50")
    request = Request(
        Grid(("none",)),
        corruptions=CorruptionRequest(("contrast", "fog"), (1,)),
        json_file=tmp_path / "result.json",
    )
    evaluate_checkpoint(str(run), request, ALONE)
    found = json.loads((tmp_path / "result.json").read_text())["corruptions"]
    shares = [found["accuracy"][name]["1"] for name in ("contrast", "fog")]
    assert found["mean_accuracy"] == pytest.approx(sum(shares) / 2)
    assert found["source"] == "computed" and all(0 <= s <= 1 for s in shares)


def test_rotations_and_shifts_are_those_of_pixels() -> None:
    images = torch.rand(2, 3, 6, 6)
    torch.testing.assert_close(moved(images, 0.0, (0, 0)), images)
    turned = moved(images, 90.0, (0, 0))
    torch.testing.assert_close(turned, images.rot90(1, (2, 3)), atol=1e-5, rtol=0)
    shifted = torch.zeros_like(images)
    shifted[:, :, 1:, 2:] = images[:, :, :-1, :-2]
    torch.testing.assert_close(moved(images, 0.0, (2, 1)), shifted, atol=1e-5, rtol=0)
    wide = torch.rand(1, 1, 4, 8)
    half = moved(wide, 180.0, (0, 0))
    torch.testing.assert_close(half, wide.flip(2, 3), atol=1e-5, rtol=0)


def test_the_worst_of_the_grid_counts() -> None:
    class Corner(nn.Module):
        """Class 0 where the lower right corner is lit."""

        def forward(self, images: Tensor) -> Tensor:
            lit = images[:, 0, -1, -1] > 0.5
            return torch.stack([lit.float(), 1 - lit.float()], dim=1)

    images = torch.zeros(2, 1, 10, 10)
    images[0, 0, -1, -1] = 1.0
    noise = noise_of(2)
    points, held = Spatial().worst_case(Corner(), images, torch.tensor([0, 1]), noise)
    assert held.tolist() == [False, True]
    assert float(points[0, 0, -1, -1]) <= 0.5
    grid = list(places(32, 32))
    assert len(grid) == len(set(grid)) == 775
    assert max(abs(angle) for angle, _ in grid) == 30.0
    assert {x for _, (x, _) in grid} == {-3.0, -1.5, 0.0, 1.5, 3.0}
