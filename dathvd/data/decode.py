"""Image files to uint8 arrays of one shape."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from dathvd.data.crops import scaled
from dathvd.data.frames import FlatFrames
from dathvd.data.sets import ImageSet, ImageShape, TensorImages
from dathvd.errors import UserError

MODES = {1: "L", 3: "RGB"}
_JPEG = {"L": "GRAY", "RGB": "RGB"}
_JPEG_START = b"\xff\xd8\xff"
CHUNK = 64
"""Images that a thread decodes at a time."""


def open_image(
    path: str, hint: tuple[str, tuple[int, int]] | None = None
) -> Image.Image:
    """The decoded image; JPEGs at a reduced scale not below the (mode, size) hint.

    Raises:
        UserError: the file cannot be read or is not an image; it is named.
    """
    try:
        with open(path, "rb") as file:
            image = Image.open(io.BytesIO(file.read()))
        if hint is not None:
            image.draft(*hint)
        image.load()
        return image
    except UnidentifiedImageError:
        raise UserError(f"data.root: {path} is not an image") from None
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"data.root: {path} cannot be read: {reason}") from None
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"data.root: {path} cannot be decoded: {error}") from None


def read_pixels(
    path: str, mode: str, least: tuple[int, int] | None
) -> NDArray[np.uint8]:
    """An image file's pixels, uint8 ``[H, W, C]``.

    JPEGs are read by libjpeg-turbo itself, with the same bits as Pillow's and in two
    thirds of its time; all else, and what that refuses, by Pillow.

    Args:
        path: the file.
        mode: ``L`` or ``RGB``.
        least: height and width that a JPEG's reduced scale may not be below; None
            reads it as it is.

    Raises:
        UserError: the file cannot be read or is not an image; it is named.
    """
    with contextlib.suppress(OSError, ValueError):
        data = Path(path).read_bytes()
        if data.startswith(_JPEG_START):
            return _read_jpeg(data, mode, least)
    hint = None if least is None else (mode, least[::-1])
    image = open_image(path, hint)
    if image.mode != mode:
        image = image.convert(mode)
    return np.array(image, dtype=np.uint8).reshape(image.height, image.width, -1)


def _read_jpeg(
    data: bytes, mode: str, least: tuple[int, int] | None
) -> NDArray[np.uint8]:
    """A JPEG's pixels, at a half, a quarter or an eighth where that is large enough.

    Raises:
        ValueError: it is broken, or its colours are not of that mode.
    """
    import simplejpeg

    height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    if colours not in ({"L": ("Gray",), "RGB": ("YCbCr", "RGB")}[mode]):
        raise ValueError(colours)
    scale = 1
    if least is not None:
        scale = next(
            (s for s in (8, 4, 2) if height >= s * least[0] and width >= s * least[1]),
            1,
        )
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        data,
        colorspace=_JPEG[mode],
        min_height=-(-height // scale),
        min_width=-(-width // scale),
    )
    return pixels


@dataclass(frozen=True)
class Decoder:
    """Reads image files as ``[C, H, W]``.

    Where ``resize``, the shorter side is scaled to the shape's (bilinear, antialiased)
    and the centre is cut out, unless ``whole`` images are wanted; else an image of
    another size is an error.
    """

    shape: ImageShape
    resize: bool
    whole: bool = False
    """Keep all of a resized image: its longer side is then its own."""

    @classmethod
    def for_images(cls, first: str, size: int | None, channels: int | None) -> Decoder:
        """A decoder; what the configuration leaves open is as in the first image."""
        image = open_image(first)
        depth = channels or (1 if image.mode in ("1", "L", "I;16") else 3)
        shape = (depth, size or image.height, size or image.width)
        return cls(shape, resize=size is not None)

    def __call__(self, path: str) -> NDArray[np.uint8]:
        """The image, uint8 ``[C, H, W]``, of the decoder's shape unless it is whole.

        A pixel's channels lie together in memory, as files have them.

        Raises:
            UserError: it cannot be read, or has another size.
        """
        channels, height, width = self.shape
        least = (height, width) if self.resize else None
        pixels = read_pixels(path, MODES[channels], least)
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        if image.shape[1:] != (height, width):
            image = self._resized(image, path)
        return image.numpy()

    def _resized(self, image: Tensor, path: str) -> Tensor:
        _, height, width = self.shape
        high, wide = image.shape[1:]
        if not self.resize:
            raise UserError(
                f"data.root: {path} is {wide}x{high}, the first image "
                f"is {width}x{height} (set data.image_size)"
            )
        scale = max(width / wide, height / high)
        size = (max(height, round(high * scale)), max(width, round(wide * scale)))
        image = scaled(image, size)
        if self.whole:
            return image
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        return image[:, top : top + height, left : left + width]

    def chunks(
        self, paths: Sequence[str], num_threads: int
    ) -> Iterator[list[NDArray[np.uint8]]]:
        """All images in order, uint8 ``[C, H, W]``, up to ``CHUNK`` at a time."""

        def decode(start: int) -> list[NDArray[np.uint8]]:
            return [self(path) for path in paths[start : start + CHUNK]]

        with ThreadPoolExecutor(num_threads) as pool:
            # images may be large: enough chunks are in flight to keep threads busy
            starts = range(0, len(paths), CHUNK)
            ahead = 2 * num_threads
            pending = [pool.submit(decode, start) for start in starts[:ahead]]
            for place in range(len(starts)):
                yield pending.pop(0).result()
                if place + ahead < len(starts):
                    pending.append(pool.submit(decode, starts[place + ahead]))


def decode_all(
    decoder: Decoder, paths: Sequence[str], labels: Tensor, num_threads: int
) -> ImageSet:
    """All images in memory."""
    chunks = decoder.chunks(paths, num_threads)
    decoded = (torch.from_numpy(image) for chunk in chunks for image in chunk)
    if decoder.whole:
        frames = list(decoded)
        sizes = torch.tensor([frame.shape[1:] for frame in frames])
        pixels = torch.cat([frame.flatten() for frame in frames])
        return FlatFrames(pixels, sizes, labels, decoder.shape)
    images = torch.empty((len(paths), *decoder.shape), dtype=torch.uint8)
    for place, image in enumerate(decoded):
        images[place] = image
    return TensorImages(images, labels)
