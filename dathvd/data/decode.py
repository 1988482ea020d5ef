"""Image files to uint8 arrays of one shape."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from dathvd.data.frames import FlatFrames
from dathvd.data.sets import ImageSet, ImageShape, TensorImages
from dathvd.errors import UserError

MODES = {1: "L", 3: "RGB"}
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

        Raises:
            UserError: it cannot be read, or has another size.
        """
        channels, height, width = self.shape
        mode = MODES[channels]
        image = open_image(path, (mode, (width, height)) if self.resize else None)
        if image.size != (width, height):
            image = self._resized(image, path)
        if image.mode != mode:
            image = image.convert(mode)
        pixels = np.asarray(image).reshape(image.height, image.width, channels)
        return np.array(pixels.transpose(2, 0, 1), order="C")

    def _resized(self, image: Image.Image, path: str) -> Image.Image:
        _, height, width = self.shape
        if not self.resize:
            raise UserError(
                f"data.root: {path} is {image.width}x{image.height}, the first image "
                f"is {width}x{height} (set data.image_size)"
            )
        if image.mode not in MODES.values():  # palettes cannot be interpolated
            image = image.convert("RGB")
        scale = max(width / image.width, height / image.height)
        wide = max(width, round(image.width * scale))
        high = max(height, round(image.height * scale))
        image = image.resize((wide, high), Image.Resampling.BILINEAR)
        if self.whole:
            return image
        left, top = (wide - width) // 2, (high - height) // 2
        return image.crop((left, top, left + width, top + height))

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
