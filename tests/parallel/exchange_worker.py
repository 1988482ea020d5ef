"""Run by the exchange tests on some ranks: checks all laws of a launch.

Every rank checks every law, one function each; rank 0 prints those that held.
"""

from __future__ import annotations

import sys

import horovod.torch as hvd
import torch

from tests.parallel import (
    laws_of_bytes,
    laws_of_means,
    laws_of_nodes,
    laws_of_states,
    laws_of_steps,
)
from tests.parallel.laws import EXCHANGE_LAWS

MODULES = (laws_of_bytes, laws_of_means, laws_of_nodes, laws_of_states, laws_of_steps)


def main() -> None:
    hvd.init()
    torch.set_num_threads(1)
    EXCHANGE_LAWS.check(sys.argv[1])


if __name__ == "__main__":
    main()
