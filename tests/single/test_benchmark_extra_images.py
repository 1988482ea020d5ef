"""The benchmark of generated images: its file, its memory figures, its table."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dathvd.benchmark import extra_images
from dathvd.data import read_extra

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells this memory"
)


def test_its_file_is_what_extra_images_are_read_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extra_images, "_BLOCK", 4)
    path = tmp_path / "images.npy"
    size = extra_images.write_images(path, images=10, image_size=8)
    assert size == path.stat().st_size == 10 * 8 * 8 * 3 + 128  # NumPy's header
    images = np.asarray(read_extra(path).images)
    assert len(images) == 10
    assert np.array_equal(images[:4], images[4:8])
    assert np.array_equal(images[:2], images[8:])
    assert not np.array_equal(images[0], images[1])
    extra_images.forget(path)
    assert np.array_equal(np.asarray(read_extra(path).images), images)


def test_a_mapped_file_is_shared_memory_and_a_copy_is_own(tmp_path: Path) -> None:
    megabytes = 64
    path = tmp_path / "values.npy"
    np.save(path, np.ones(megabytes * 1_000_000, np.uint8))
    own, shared = extra_images.memory()
    mapped = np.load(path, mmap_mode="r")
    assert int(mapped[::512].sum()) == megabytes * 1_000_000 // 512
    own_mapped, shared_mapped = extra_images.memory()
    assert shared_mapped - shared == pytest.approx(megabytes, abs=4)
    assert own_mapped - own < megabytes / 4
    # pages of the operating system's, as malloc may have some left
    with mmap.mmap(-1, len(mapped), flags=mmap.MAP_PRIVATE) as copy:
        copy.write(mapped.data)
        own_copied, _ = extra_images.memory()
    assert own_copied - own_mapped == pytest.approx(len(mapped) / 1e6, abs=8)


@pytest.mark.slow
def test_ranks_are_measured_together() -> None:
    options = ["--images", "20000", "--others", "100", "--ranks", "2", "--steps", "3"]
    result = CliRunner().invoke(extra_images.main, options, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    title, _, without, with_extra = result.output.splitlines()
    assert title == "20,000 images of 32×32, 0.06 GB"
    assert without.split()[:2] == ["2", "no"] and with_extra.split()[:2] == ["2", "yes"]
    own = [float(line.split()[2]) for line in (without, with_extra)]
    assert own[1] - own[0] < 40  # a copy would be 61 MB


def test_numbers_of_ranks_are_looked_at_first() -> None:
    with pytest.raises(Exception, match="--ranks: expected whole numbers from 1 on"):
        CliRunner().invoke(
            extra_images.main, ["--ranks", "two"], catch_exceptions=False
        )
