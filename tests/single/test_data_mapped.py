"""Extra images stay in their files, which workers share; others are converted."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

from dathvd.cli import cli
from dathvd.config import DataConfig, load_config
from dathvd.data import Dataset, load_dataset, mapped, read_extra
from dathvd.data.convert import convert
from dathvd.errors import UserError

PIXELS = np.random.default_rng(1).integers(256, size=(7, 8, 8, 3), dtype=np.uint8)
LABELS = np.array([0, 3, 1, 2, 3, 0, 1])


def own_megabytes() -> float:
    """Memory of this process that no file backs: what others cannot share."""
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["RssAnon"].split()[0]) / 1024


def save(path: Path, images: NDArray[Any], labels: NDArray[Any]) -> Path:
    if path.suffix == ".npy":
        np.save(path, images)
        np.save(path.with_name(path.name.replace("images", "labels")), labels)
    else:
        np.savez(path, image=images, label=labels)
    return path


def load(*extra: Path) -> Dataset:
    return load_dataset(
        DataConfig(
            name="synthetic",
            num_train=4,
            image_size=8,
            num_classes=4,
            extra=tuple(str(path) for path in extra),
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.npz", "a-images.npy"])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_images_take_no_memory_of_their_own(
    tmp_path: Path, name: str, layout: str
) -> None:
    count = 2**18  # 48 MiB
    pixels = np.arange(count, dtype=np.uint32).view(np.uint8).reshape(count, 4)
    images = np.broadcast_to(pixels[:, None, None, :3], (count, 8, 8, 3))
    if layout == "NCHW":
        images = images.transpose(0, 3, 1, 2)
    path = save(tmp_path / name, images, np.zeros(count, np.uint8))
    before = own_megabytes()
    dataset = load(path)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)) + 4
    for places in order.split(512):
        batch = dataset.train.batch(places)
        low = batch[:, :, 3, 5].int() @ torch.tensor([1, 256, 65536], dtype=torch.int32)
        assert torch.equal(low.long(), places - 4)
    # labels are 8 bytes an image, and the order as many
    assert own_megabytes() - before < 24


def test_files_follow_one_another(tmp_path: Path) -> None:
    first = save(tmp_path / "a.npz", PIXELS[:3], LABELS[:3])
    second = save(tmp_path / "b-images.npy", PIXELS[3:], LABELS[3:])
    dataset = load(first, second)
    assert len(dataset.train) == 11 and dataset.num_extra == 7
    assert dataset.train.labels[4:].tolist() == LABELS.tolist()
    indices = torch.tensor([10, 4, 2, 7, 4, 6])
    images = dataset.train.batch(indices).permute(0, 2, 3, 1).numpy()
    for image, place in zip(images, indices.tolist(), strict=True):
        if place >= 4:
            assert np.array_equal(image, PIXELS[place - 4])
    dataset.train.prefetch(indices)
    assert dataset.train.batch(indices[:0]).shape == (0, 3, 8, 8)
    text = f"data.extra=[{first}, {second}]"
    assert load_config(None, [text]).data.extra == (str(first), str(second))


def test_a_large_compressed_file_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "a.npz", image=PIXELS, label=LABELS)
    monkeypatch.setattr(mapped, "LARGE", 1000)
    with pytest.warns(
        UserWarning, match="every worker's memory; dathvd convert-images"
    ):
        extra = read_extra(tmp_path / "a.npz")
    assert np.array_equal(extra.images.permute(0, 2, 3, 1).numpy(), PIXELS)


def test_a_member_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("image.npy", "w") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|u1", "fortran_order": False, "shape": (9, 8, 8, 3)}
        )
    with zipfile.ZipFile(path, "a") as archive, archive.open("label.npy", "w") as file:
        np.save(file, LABELS)
    with pytest.raises(UserError, match="data.extra: .*image.npy is cut off"):
        read_extra(path)


@pytest.mark.parametrize("kind", ["compressed", "stored", "pickle"])
def test_converted_files_hold_the_same(tmp_path: Path, kind: str) -> None:
    source, out = tmp_path / "gen.npz", tmp_path / "out"
    if kind == "pickle":
        source = tmp_path / "gen.pickle"
        source.write_bytes(pickle.dumps({"data": PIXELS, "labels": LABELS.tolist()}))
    else:
        write = np.savez_compressed if kind == "compressed" else np.savez
        write(source, image=PIXELS, label=LABELS)
    command = ["convert-images", str(source), "--output", str(out)]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    assert "written and checked" in done.output
    extra = read_extra(out / "gen-images.npy")
    assert np.array_equal(extra.images.permute(0, 2, 3, 1).numpy(), PIXELS)
    assert extra.labels.tolist() == LABELS.tolist()


def test_damage_is_found_and_nothing_left(tmp_path: Path) -> None:
    source, out = tmp_path / "gen.npz", tmp_path / "out"
    np.savez_compressed(source, image=PIXELS, label=LABELS)
    data = bytearray(source.read_bytes())
    data[600] ^= 0x10
    source.write_bytes(data)
    out.mkdir()
    with pytest.raises(UserError, match="images: .*gen.npz"):
        convert(source, out, lambda done, total: None)
    assert list(out.iterdir()) == []


def test_a_stream_that_cannot_be_unpacked_is_one_line(tmp_path: Path) -> None:
    source = tmp_path / "gen.npz"
    np.savez_compressed(source, x_train=PIXELS, y_train=LABELS)
    data = bytearray(source.read_bytes())
    data[60:120] = b"\xff" * 60
    source.write_bytes(data)
    with pytest.raises(UserError, match="data.extra: .*gen.npz cannot be read"):
        read_extra(source)
    with pytest.raises(UserError, match="data.root: .*gen.npz cannot be read"):
        load_dataset(DataConfig(name="arrays", root=str(source)))
    with pytest.raises(UserError, match="images: .*gen.npz"):
        convert(source, tmp_path, lambda done, total: None)


def test_a_conversion_goes_on_and_mends(tmp_path: Path) -> None:
    source = tmp_path / "gen.npz"
    np.savez_compressed(source, image=PIXELS, label=LABELS)
    heard: list[tuple[int, int]] = []
    images = convert(source, tmp_path, lambda *each: heard.append(each))
    assert heard[-1][0] == heard[-1][1] > 2 * PIXELS.nbytes
    first = images.stat()
    damaged = bytearray((tmp_path / "gen-labels.npy").read_bytes())
    damaged[-8] ^= 1
    (tmp_path / "gen-labels.npy").write_bytes(damaged)
    convert(source, tmp_path, lambda done, total: None)
    assert os.stat(images).st_mtime_ns == first.st_mtime_ns, "what is whole stays"
    assert read_extra(images).labels.tolist() == LABELS.tolist()


def test_what_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", imgae=PIXELS, label=LABELS)
    with pytest.raises(UserError, match="images: .*did you mean 'image'"):
        convert(tmp_path / "a.npz", tmp_path, lambda done, total: None)
    with pytest.raises(UserError, match="neither .npz nor .pickle"):
        convert(tmp_path / "a.npy", tmp_path, lambda done, total: None)


@pytest.mark.parametrize("suffix", ["npz", "pickle"])
@pytest.mark.parametrize(
    "images, labels, message",
    [
        (PIXELS / 255, LABELS, "must be uint8"),
        (PIXELS, LABELS - 1, "must be 7 integers from 0"),
        (PIXELS[:0], LABELS[:0], "holds no images"),
    ],
)
def test_what_training_would_not_take_replaces_nothing(
    suffix: str, images: Any, labels: Any, message: str, tmp_path: Path
) -> None:
    source, out = tmp_path / f"gen.{suffix}", tmp_path / "out"
    out.mkdir()
    np.savez(tmp_path / "gen.npz", image=PIXELS, label=LABELS)
    kept = convert(tmp_path / "gen.npz", out, lambda done, total: None)
    content = {"image": images, "label": labels}
    if suffix == "pickle":
        source.write_bytes(pickle.dumps(content))
    else:
        np.savez(source, **content)
    with pytest.raises(UserError, match=f"images: .*gen.{suffix}: .*{message}"):
        convert(source, out, lambda done, total: None)
    assert np.array_equal(read_extra(kept).images.permute(0, 2, 3, 1), PIXELS)


def test_files_of_one_name_are_refused(tmp_path: Path) -> None:
    sources = [tmp_path / "a" / "gen.npz", tmp_path / "b" / "gen.npz"]
    for source in sources:
        source.parent.mkdir()
        np.savez(source, image=PIXELS, label=LABELS)
    command = ["convert-images", *map(str, sources), "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, command)
    assert isinstance(done.exception, UserError)
    assert "b/gen.npz would both be written to" in str(done.exception)
    assert not (tmp_path / "out").exists()
