"""Pixels of image files, and of the rectangles that are cut from them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from dathvd.data.crops import _interpolated, _multiplied, draw_crops, scaled
from dathvd.data.decode import read_pixels
from dathvd.errors import UserError
from dathvd.noise import SampleNoise


def picture(height: int, width: int, mode: str) -> Image.Image:
    """Smooth colours with some noise."""
    draws = np.random.default_rng(height)
    coarse = draws.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height)), dtype=int)
    noisy = smooth + draws.integers(-9, 10, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


@pytest.mark.parametrize("stored", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("wanted", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpegs_bits_are_pillows(
    stored: str, wanted: str, options: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "a.jpg"
    picture(61, 83, stored).save(file, quality=87, **options)
    pixels = read_pixels(str(file), wanted, None)
    with Image.open(file) as image:
        expected = np.asarray(image.convert(wanted)).reshape(61, 83, -1)
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize(
    ("least", "size"),
    [((300, 300), (300, 401)), ((150, 150), (150, 201)), ((40, 38), (75, 101))],
)
def test_a_large_jpeg_is_read_at_a_reduced_scale(
    least: tuple[int, int], size: tuple[int, int], tmp_path: Path
) -> None:
    """The smallest of 1, 1/2, 1/4 and 1/8 that is large enough, as Pillow's draft."""
    file = tmp_path / "a.jpg"
    picture(300, 401, "RGB").save(file, quality=90)
    pixels = read_pixels(str(file), "RGB", least)
    assert pixels.shape == (*size, 3)
    with Image.open(file) as image:
        image.draft("RGB", least[::-1])
        assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


def test_what_is_no_picture_is_one_line(tmp_path: Path) -> None:
    stream = io.BytesIO()
    picture(40, 40, "RGB").save(stream, "JPEG")
    file = tmp_path / "half.jpg"
    file.write_bytes(stream.getvalue()[:300])
    with pytest.raises(UserError, match="half.jpg"):
        read_pixels(str(file), "RGB", None)
    with pytest.raises(UserError, match="none.jpg cannot be read"):
        read_pixels(str(tmp_path / "none.jpg"), "RGB", None)


def test_a_cpu_cuts_as_a_gpu_does() -> None:
    """Interpolation and two products of matrices are one function of a rectangle."""
    images = torch.rand(64, 3, 70, 90, generator=torch.Generator().manual_seed(0))
    noise = SampleNoise(3, torch.arange(64))
    crops = draw_crops([(70, 90)] * 64, noise, area=(0.08, 1.0), aspect=(0.75, 1.33))
    whole = torch.stack([crops.top, crops.left, crops.height, crops.width])
    assert torch.equal(whole, whole.round())
    for size in (16, 48, 100):
        one, other = (cut(images, crops, size) for cut in (_interpolated, _multiplied))
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)
    in_bytes = _interpolated((images * 255).round().byte(), crops, 48).float()
    exact = _multiplied((images * 255).round(), crops, 48)
    # each of the two passes rounds, to bytes, values of rounded weights
    assert float((in_bytes - exact).abs().max()) < 2.0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(7, 9), (40, 61), (90, 80)])
def test_bytes_are_scaled_alike_however_they_lie(
    channels: int, size: tuple[int, int]
) -> None:
    lying = torch.randint(0, 256, (50, 70, channels), dtype=torch.uint8)
    together = lying.permute(2, 0, 1)
    planes = together.contiguous()
    expected = functional.interpolate(
        planes[None], size, mode="bilinear", antialias=True
    )[0]
    for image in (together, planes):
        assert torch.equal(scaled(image, size), expected)
        part = image[:, 3:31, 5:]
        cut = functional.interpolate(
            planes[None, :, 3:31, 5:].contiguous(),
            size,
            mode="bilinear",
            antialias=True,
        )
        assert torch.equal(scaled(part, size), cut[0])
