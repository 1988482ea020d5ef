"""Laws of the exchanges, on real workers over MPI and Gloo.

One launch checks many laws, as starting ranks costs more than most of them; see
the modules ``laws_of_*`` for what each law is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.parallel.exchange_worker import MODULES
from tests.parallel.laws import EXCHANGE_LAWS, Laws
from tests.processes import Finished, horovodrun, mpirun, run

WORKER = Path(__file__).with_name("exchange_worker.py")


def start(launch: str, states: Path) -> Finished:
    """Run a launch's laws; ``states`` is where residuals are left and found."""
    # ranks outnumber cores: let those that wait give way
    env = {
        "EXCHANGE_STATES": str(states),
        "PYTHONPATH": str(WORKER.parents[2]),
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "HOROVOD_CYCLE_TIME": "0.2",
        "OMP_NUM_THREADS": "1",
        "HOROVOD_DYNAMIC_PROCESS_SETS": "1",  # some laws place ranks on nodes
    }
    command = [sys.executable, str(WORKER), launch]
    controller, _, size = launch.partition("-")
    if controller == "alone":
        return run(command, env=env, timeout=240)
    if controller == "mpi":
        return mpirun(int(size), command, env=env, timeout=240)
    if size == "2x2":
        two = ["-H", "localhost:2,127.0.0.1:2"]
        return horovodrun(4, [*two, *command], controller="gloo", env=env, timeout=240)
    return horovodrun(int(size), command, controller="gloo", env=env, timeout=240)


class Launches:
    """Each launch, made when first asked for."""

    def __init__(self, states: Path) -> None:
        self._states = states
        self._finished: dict[str, Finished] = {}

    def __getitem__(self, launch: str) -> Finished:
        if launch not in self._finished:
            self._finished[launch] = start(launch, self._states)
        return self._finished[launch]


@pytest.fixture(scope="module")
def launches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launches]:
    made = Launches(tmp_path_factory.mktemp("states"))
    assert made["mpi-3"].code == 0, made["mpi-3"].output  # leaves what others load
    yield made


@pytest.mark.slow
@pytest.mark.parametrize(("launch", "law"), EXCHANGE_LAWS.names())
def test_law(launches: Launches, launch: str, law: str) -> None:
    finished = launches[launch]
    assert f"held: {law} " in finished.stdout, finished.output
    assert finished.code == 0, finished.output


def test_no_law_is_left_out() -> None:
    assert list(EXCHANGE_LAWS.left_out(*MODULES)) == []
    files = {Path(str(module.__file__)) for module in MODULES}
    assert files == set(WORKER.parent.glob("laws_of_*.py"))


def test_a_law_without_the_decorator_would_be_noticed() -> None:
    module = ModuleType("laws_of_nothing")
    names = "forgotten", "entered", "_helper"
    exec("\n".join(f"def {name}() -> None: ..." for name in names), vars(module))
    laws = Laws()
    laws.on("alone")(vars(module)["entered"])
    assert list(laws.left_out(module)) == ["laws_of_nothing.forgotten"]
    assert laws.names() == [("alone", "entered")]
