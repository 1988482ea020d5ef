"""Run by the exchange tests on some ranks: checks the laws named as arguments.

Every rank checks every law, one function each; rank 0 prints those that held.
"""

from __future__ import annotations

import sys
import time

import horovod.torch as hvd
import torch

from tests.parallel import laws_of_bytes, laws_of_means, laws_of_states, laws_of_steps

MODULES = (laws_of_bytes, laws_of_means, laws_of_states, laws_of_steps)
LAWS = {name: law for module in MODULES for name, law in vars(module).items()}


def main() -> None:
    hvd.init()
    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        began = time.monotonic()
        LAWS[name]()
        if hvd.rank() == 0:
            print(f"held: {name} ({time.monotonic() - began:.2f} s)", flush=True)


if __name__ == "__main__":
    main()
