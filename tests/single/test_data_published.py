"""Published formats: right pixels and labels, damage is found, nothing is executed."""

import gzip
import hashlib
import http.server
import io
import os
import pickle
import struct
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.io import savemat

from dathvd.config import DataConfig
from dathvd.data import cifar, load_dataset, mnist, svhn
from dathvd.data.pickles import read_arrays
from dathvd.data.published import Published
from dathvd.data.sets import Dataset
from dathvd.errors import UserError

RANDOM = np.random.default_rng(0)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def measured(files: Published, root: Path) -> Published:
    """The same files with the sums of those that lie in root."""
    return replace(
        files, files={name: md5(root / files.folder / name) for name in files.files}
    )


def load(name: str, root: Path, **fields: Any) -> Dataset:
    tree = {"name": name, "root": str(root), **fields}
    return load_dataset(DataConfig.model_validate(tree))


def dump(path: Path, content: dict[bytes, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


def pixels(count: int) -> NDArray[np.uint8]:
    return RANDOM.integers(256, size=(count, 3072), dtype=np.uint8)


@pytest.fixture
def cifar_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-10's files with four images in each batch."""
    folder = tmp_path / cifar.CIFAR10.folder
    for name in cifar.CIFAR10.files:
        labels = RANDOM.integers(10, size=4).tolist()
        dump(folder / name, {b"data": pixels(4), b"labels": labels})
    names = [f"class{index}".encode() for index in range(10)]
    dump(folder / "batches.meta", {b"label_names": names})
    monkeypatch.setattr(cifar, "CIFAR10", measured(cifar.CIFAR10, tmp_path))
    return tmp_path


def test_cifar10(cifar_root: Path) -> None:
    dataset = load("cifar10", cifar_root)
    assert (len(dataset.train), len(dataset.test)) == (20, 4)
    assert dataset.classes[3] == "class3" and dataset.image_shape == (3, 32, 32)
    raw = read_arrays(cifar_root / cifar.CIFAR10.folder / "data_batch_2")
    image = dataset.train.batch(torch.tensor([5]))[0]
    assert np.array_equal(image.numpy(), raw["data"][1].reshape(3, 32, 32))
    assert dataset.train.labels[4:8].tolist() == raw["labels"]


def test_cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / cifar.CIFAR100.folder
    dump(folder / "train", {b"data": pixels(3), b"fine_labels": [99, 0, 5]})
    dump(folder / "test", {b"data": pixels(1), b"fine_labels": [7]})
    dump(folder / "meta", {b"fine_label_names": [b"x"] * 100})
    monkeypatch.setattr(cifar, "CIFAR100", measured(cifar.CIFAR100, tmp_path))
    dataset = load("cifar100", tmp_path)
    assert dataset.train.labels.tolist() == [99, 0, 5]
    assert len(dataset.classes) == 100


def test_damage_is_found_and_named(cifar_root: Path) -> None:
    damaged = cifar_root / cifar.CIFAR10.folder / "data_batch_3"
    content = bytearray(damaged.read_bytes())
    content[-100] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(UserError, match="data_batch_3 is damaged"):
        load("cifar10", cifar_root)


def test_missing_files_name_the_remedy(tmp_path: Path) -> None:
    for name in ("cifar10", "cifar100", "mnist", "fashion_mnist", "svhn"):
        with pytest.raises(UserError, match="is missing .*data.download"):
            load(name, tmp_path)
        with pytest.raises(UserError, match="data.root: must be set"):
            load_dataset(DataConfig.model_validate({"name": name}))


class Bomb:
    """Runs a command where a pickle is read without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_cannot_run_code(tmp_path: Path, protocol: int) -> None:
    file, trace = tmp_path / "bomb", tmp_path / "trace"
    file.write_bytes(pickle.dumps({b"data": Bomb(trace)}, protocol=protocol))
    with pytest.raises(UserError, match="bomb is no pickle of arrays: it asks for"):
        read_arrays(file)
    assert not trace.exists()
    pickle.loads(file.read_bytes())  # the bomb is a real one
    assert trace.exists()


@pytest.mark.parametrize("callee", ["builtins.eval", "numpy.load", "os.system"])
def test_no_function_is_in_reach(tmp_path: Path, callee: str) -> None:
    module, name = callee.rsplit(".", 1)
    file = tmp_path / "bomb"
    file.write_bytes(f"c{module}\n{name}\n(S'1+1'\ntR.".encode())
    with pytest.raises(UserError, match=f"it asks for {callee}"):
        read_arrays(file)


@pytest.mark.parametrize("content", [b"", b"junk", pickle.dumps([1, 2])])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(UserError, match="file"):
        read_arrays(file)


def idx(path: Path, values: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">{1 + values.ndim}I", 0x800 + values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.tobytes()))


@pytest.mark.parametrize("name, variable", [("mnist", "MNIST"), ("fashion_mnist",) * 2])
def test_mnist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, variable: str
) -> None:
    files: Published = getattr(mnist, variable.upper())
    images = RANDOM.integers(256, size=(5, 28, 28), dtype=np.uint8)
    labels = np.array([3, 0, 9, 1, 1], dtype=np.uint8)
    for part in ("train", "t10k"):
        idx(tmp_path / files.folder / f"{part}-images-idx3-ubyte.gz", images)
        idx(tmp_path / files.folder / f"{part}-labels-idx1-ubyte.gz", labels)
    monkeypatch.setattr(mnist, variable.upper(), measured(files, tmp_path))
    dataset = load(name, tmp_path)
    assert dataset.train.labels.tolist() == labels.tolist()
    assert np.array_equal(dataset.test.batch(torch.arange(5))[:, 0].numpy(), images)
    assert load(name, tmp_path, image_size=32, channels=3).image_shape == (3, 32, 32)


def test_a_cut_idx_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "images.gz"
    idx(file, np.zeros((2, 3, 3), dtype=np.uint8))
    whole = gzip.decompress(file.read_bytes())
    for content in (gzip.compress(whole[:-1]), file.read_bytes()[:-9], b"no gzip"):
        file.write_bytes(content)
        with pytest.raises(UserError, match="images.gz is no"):
            mnist.read_idx(file, dimensions=3)


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = RANDOM.integers(256, size=(32, 32, 3, 4), dtype=np.uint8)
    for part in ("train", "test"):
        labels = np.array([[10], [1], [9], [10]], dtype=np.uint8)
        savemat(tmp_path / f"{part}_32x32.mat", {"X": images, "y": labels})
    monkeypatch.setattr(svhn, "SVHN", measured(svhn.SVHN, tmp_path))
    dataset = load("svhn", tmp_path)
    assert dataset.train.labels.tolist() == [0, 1, 9, 0]
    image = dataset.train.batch(torch.tensor([2]))[0]
    assert np.array_equal(image.numpy(), images[:, :, :, 2].transpose(2, 0, 1))


def pack(files: Published, root: Path) -> tuple[str, bytes]:
    """The folder as a tar file, and its removal."""
    assert files.archive is not None
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
        packed.add(root / files.folder, files.folder)
    for name in files.files:
        (root / files.folder / name).unlink()
    return files.archive[0], buffer.getvalue()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """An HTTP server of the folder ``site``."""
    site = tmp_path / "site"
    site.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(site))

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as service:
        thread = threading.Thread(target=service.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{service.server_port}/"
        service.shutdown()
        thread.join()


def test_download_only_where_asked(
    cifar_root: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load("cifar10", cifar_root).train.batch(torch.arange(20))
    name, content = pack(cifar.CIFAR10, cifar_root)
    (cifar_root / "site" / name).write_bytes(content)
    sums = (name, hashlib.md5(content).hexdigest())
    files = replace(cifar.CIFAR10, url=server + name, archive=sums)
    monkeypatch.setattr(cifar, "CIFAR10", files)
    with pytest.raises(UserError, match="data.download"):
        load("cifar10", cifar_root)
    dataset = load("cifar10", cifar_root, download=True)
    assert torch.equal(dataset.train.batch(torch.arange(20)), expected)


def test_a_wrong_download_leaves_nothing(
    cifar_root: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, content = pack(cifar.CIFAR10, cifar_root)
    (cifar_root / "site" / name).write_bytes(content + b"x")
    files = replace(
        cifar.CIFAR10,
        url=server + name,
        archive=(name, hashlib.md5(content).hexdigest()),
    )
    monkeypatch.setattr(cifar, "CIFAR10", files)
    with pytest.raises(UserError, match="is not what was published"):
        load("cifar10", cifar_root, download=True)
    assert [path.name for path in cifar_root.iterdir() if path.is_file()] == [
        ".cifar-10-batches-py.lock"
    ]
    monkeypatch.setattr(cifar, "CIFAR10", replace(files, url=server + "nowhere"))
    with pytest.raises(UserError, match="nowhere cannot be fetched"):
        load("cifar10", cifar_root, download=True)
