"""What Horovod 0.28.1 must keep doing for our exchanges to run under its optimizer.

The seam is private. If one of these tests fails after an upgrade, Horovod has moved:
read ``horovod/torch/optimizer.py`` again before touching the pinned version.
"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from types import SimpleNamespace

import horovod
import horovod.torch.optimizer as seam
import pytest

from dathvd.distributed.optimizer import HOROVOD_VERSION, _check_seam
from dathvd.errors import UserError
from tests.parallel import contract_worker
from tests.parallel.laws import SEAM_LAWS
from tests.processes import Finished, horovodrun, mpirun, run

WORKER = Path(__file__).with_name("contract_worker.py")
ROOT = WORKER.parents[2]


def test_the_version_is_the_one_that_was_read() -> None:
    assert horovod.__version__ == HOROVOD_VERSION == "0.28.1"


def test_the_private_methods_take_what_we_pass() -> None:
    members = seam._DistributedOptimizer.__dict__
    for name, parameters in {
        "_allreduce_grad_async": ["self", "p"],
        "_register_hooks": ["self"],
        "synchronize": ["self"],
        "step": ["self", "closure"],
    }.items():
        assert list(inspect.signature(members[name]).parameters) == parameters, name


def test_a_seam_that_moved_is_named() -> None:
    wrapped = SimpleNamespace(_register_hooks=None, synchronize=None)
    with pytest.raises(UserError, match=r"lacks _allreduce_grad_async.*0\.28\.1"):
        _check_seam(wrapped)


@pytest.fixture(scope="module", params=contract_worker.LAUNCHES)
def launched(request: pytest.FixtureRequest) -> Finished:
    """The worker's output, on one process, two over MPI, two over Gloo."""
    launch: str = request.param
    command: list[str | Path] = [sys.executable, WORKER, launch]
    options: dict[str, object] = {"timeout": 240, "env": {"PYTHONPATH": str(ROOT)}}
    if launch == "alone":
        return run(command, **options)  # type: ignore[arg-type]
    if launch == "mpi-2":
        return mpirun(2, command, **options)
    return horovodrun(2, command, controller="gloo", **options)


@pytest.mark.parametrize("law", dict.fromkeys(law for _, law in SEAM_LAWS.names()))
def test_seam(launched: Finished, law: str) -> None:
    assert launched.code == 0 and f"held: {law} " in launched.stdout, launched.output


def test_no_law_is_left_out() -> None:
    assert list(SEAM_LAWS.left_out(contract_worker)) == []
