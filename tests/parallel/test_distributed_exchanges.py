"""Laws of the exchanges, on real workers over MPI and Gloo.

One launch checks many laws, as starting ranks costs more than most of them; see
the modules ``laws_of_*`` for what each law is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import Finished, horovodrun, mpirun, run

WORKER = Path(__file__).with_name("exchange_worker.py")
FEW_WORKERS = [
    "means_are_the_same_on_all_ranks",
    "two_way_and_allgather_of_none_equal_allreduce",
    "nothing_is_lost",
    "bytes_equal_the_closed_formulas",
    "ranks_may_submit_in_any_order",
]
ONE_AND_TWO = [
    *FEW_WORKERS,
    "other_numbers_of_workers_owe_the_same",
    "accumulated_passes_are_averaged",
    "a_warmup_is_exact_and_owes_nothing",
    "parameters_without_a_gradient_count_as_zeros",
    "non_finite_steps_change_nothing_on_any_rank",
    "too_many_bad_steps_end_all_ranks",
    "a_saved_run_goes_on_exactly",
    "what_cannot_be_kept_is_refused",
    "seeds_decide",
    "rounding_is_unbiased_across_workers_and_steps",
    "bucket_size_does_not_matter_to_casts",
    "work_in_between_lets_exchanges_end",
    "synchronize_before_step_exchanges_once",
    "saving_in_flight_is_refused",
    "the_description_tells_what_travels",
    "training_equals_plain_horovod",
    "other_types_and_layouts_travel",
    "different_plans_are_refused_on_all_ranks",
    "replicas_are_made_and_proved_equal",
    "batch_norm_statistics_are_pooled",
]
LAUNCHES = {
    "mpi-3": [*FEW_WORKERS, "workers_leave_residuals", "a_saved_run_goes_on_exactly"],
    "alone": ONE_AND_TWO,
    "mpi-2": ONE_AND_TWO,
    "gloo-2": [
        *FEW_WORKERS,
        "non_finite_steps_change_nothing_on_any_rank",
        "a_worker_that_goes_ends_the_wait_of_others",
    ],
    "mpi-4": [
        "means_are_the_same_on_all_ranks",
        "bytes_equal_the_closed_formulas",
        "other_numbers_of_workers_owe_the_same",
    ],
    "mpi-8": ["bytes_equal_the_closed_formulas"],
}


def start(launch: str, states: Path) -> Finished:
    """Run a launch's laws; ``states`` is where residuals are left and found."""
    # ranks outnumber cores: let those that wait give way
    env = {
        "EXCHANGE_STATES": str(states),
        "PYTHONPATH": str(WORKER.parents[2]),
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "HOROVOD_CYCLE_TIME": "0.2",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(WORKER), *LAUNCHES[launch]]
    controller, _, size = launch.partition("-")
    if controller == "alone":
        return run(command, env=env, timeout=240)
    if controller == "mpi":
        return mpirun(int(size), command, env=env, timeout=240)
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
@pytest.mark.parametrize(
    ("launch", "law"), [(name, law) for name, laws in LAUNCHES.items() for law in laws]
)
def test_law(launches: Launches, launch: str, law: str) -> None:
    finished = launches[launch]
    assert f"held: {law} " in finished.stdout, finished.output
    assert finished.code == 0, finished.output
