"""Laws that ranks check, each entered in a table by a decorator."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from types import ModuleType

import horovod.torch as hvd

Law = Callable[[], None]
ALONE_AND_TWO = ("alone", "mpi-2")
"""One process, and two ranks over MPI."""
FEW = (*ALONE_AND_TWO, "mpi-3", "gloo-2")
"""The launches that start in a second."""


class Laws:
    """Functions without parameters, and the launches whose ranks call them.

    A launch is called ``alone``, or by the controller and the number of ranks;
    ``gloo-2x2`` has two nodes for Horovod, by two names of this host.
    """

    def __init__(self) -> None:
        self._launches: dict[Law, tuple[str, ...]] = {}

    def on(self, *launches: str) -> Callable[[Law], Law]:
        """Enter a law, to be checked on those launches."""

        def enter(law: Law) -> Law:
            assert launches, law
            self._launches[law] = launches
            return law

        return enter

    def names(self) -> list[tuple[str, str]]:
        """Every launch with the name of each of its laws."""
        return [
            (launch, law.__name__)
            for law, launches in self._launches.items()
            for launch in launches
        ]

    def check(self, launch: str) -> None:
        """Call a launch's laws in their order; rank 0 prints those that held."""
        for law, launches in self._launches.items():
            if launch in launches:
                began = time.monotonic()
                law()
                if hvd.rank() == 0:
                    seconds = time.monotonic() - began
                    print(f"held: {law.__name__} ({seconds:.2f} s)", flush=True)

    def left_out(self, *modules: ModuleType) -> Iterator[str]:
        """Public functions without parameters of those modules that are no law."""
        for module in modules:
            for name, function in inspect.getmembers(module, inspect.isfunction):
                is_here = function.__module__ == module.__name__
                if not is_here or name.startswith("_") or name == "main":
                    continue
                if function in self._launches or inspect.signature(function).parameters:
                    continue
                yield f"{module.__name__}.{name}"


EXCHANGE_LAWS = Laws()
"""Of ``laws_of_*``: what exchanges compute, send, keep and refuse."""
SEAM_LAWS = Laws()
"""Of ``contract_worker``: Horovod's seam."""
