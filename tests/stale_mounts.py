"""One folder as two hosts see it that each remember what they have once looked up.

libfuse's own example of a file system by inode, ``passthrough_ll``, is mounted twice
over the same folder, with timeouts for names and attributes. Like a client of NFS, the
kernel then asks neither mount again for what it knows: a name that the other mount has
renamed goes on to stand for the same inode.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

SOURCE = Path("/usr/share/doc/libfuse3-dev/examples/passthrough_ll.c")


def build(folder: Path) -> Path:
    """Compile the file system; skip the calling test where that is not possible."""
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs root and /dev/fuse to mount a FUSE file system")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not SOURCE.exists():
        pytest.skip("needs a C compiler and Debian's libfuse3-dev with its examples")
    program = folder / "passthrough_ll"
    flags = ["-D_FILE_OFFSET_BITS=64", "-I/usr/include/fuse3", "-lfuse3"]
    subprocess.run([compiler, SOURCE, "-o", program, *flags], check=True)
    return program


@contextlib.contextmanager
def mounted(
    program: Path,
    folder: Path,
    seconds: float,
    names: Sequence[str] = ("one", "other"),
) -> Iterator[list[Path]]:
    """Two views of ``folder/disk``, for the length of a ``with`` block.

    Args:
        program: what ``build`` gave.
        folder: where the disk and the mount points are made.
        seconds: how long each view trusts what it knows.
        names: the mount points, in ``folder``.
    """
    disk = folder / "disk"
    disk.mkdir()
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(_view(program, disk, folder / name, seconds))
            for name in names
        ]


@contextlib.contextmanager
def _view(program: Path, disk: Path, point: Path, seconds: float) -> Iterator[Path]:
    point.mkdir()
    options = f"source={disk},timeout={seconds},cache=auto"
    server = subprocess.Popen(
        [program, "-f", "-o", options, point], stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 10
        while not os.path.ismount(point):
            if server.poll() is not None or time.monotonic() > deadline:
                assert server.stderr is not None
                server.kill()
                pytest.skip(f"cannot mount here: {server.stderr.read().strip()}")
            time.sleep(0.02)
        yield point
    finally:
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)
        server.terminate()
        server.wait(10)
