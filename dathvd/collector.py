"""Python's search for cyclic garbage, kept out of a process's start and end.

Imports make hundreds of thousands of objects that live as long as the process. The
search goes over them again and again while they are made, and once more when the
process ends: a quarter of the processor time of one that does no more than import torch
(2.13).
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def paused() -> Iterator[None]:
    """Search nothing while a block imports torch, nor later what it imported.

    A block that finds torch there has little to import, and is run as it is: garbage
    that is made before the end of the pause stays for good.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def end_without_search() -> None:
    """Have this process search nothing when it ends: its memory goes as a whole."""
    atexit.register(gc.freeze)
