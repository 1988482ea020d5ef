"""Every two values of all features together: they work, or one clear line refuses them.

The values come from the registries, the rows from a covering array; one worker and two
workers, in turn, carry them out in five launches, each under a limit of its own.
"""

from __future__ import annotations

import re

import pytest

from dathvd.config import Config
from tests.parallel.crossings.covering import pairs_of
from tests.parallel.crossings.features import features
from tests.parallel.crossings.study import LAUNCHES, LIMIT, Study, describe
from tests.parallel.crossings.table import make_table

pytestmark = pytest.mark.slow


def test_every_pair_is_refused_or_in_a_row() -> None:
    table = make_table()
    names = {feature: len(values) for feature, values in features().items()}
    total = (sum(names.values()) ** 2 - sum(n * n for n in names.values())) // 2
    assert len(table.works) + len(table.refusals) == total
    assert not table.works & set(table.refusals)
    met = set().union(*(pairs_of(row) for row in table.rows))
    assert table.works <= met
    assert all(set(row) == set(names) for row in table.rows)


def test_a_refusal_is_one_line_that_names_a_section() -> None:
    sections = set(Config.model_fields)
    for pair, lines in make_table().refusals.items():
        assert lines, describe(pair)
        for line in lines:
            assert "\n" not in line, line
            assert sections & set(re.findall(r"[a-z_]+", line)), line


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return Study.prepare(make_table().rows, tmp_path_factory.mktemp("crossings"))


@pytest.mark.timeout(LIMIT + 50)
@pytest.mark.parametrize("launch", range(len(LAUNCHES)))
def test_every_call_of_a_launch_leaves_an_outcome(study: Study, launch: int) -> None:
    study.carry_out(launch)


def test_every_row_works(study: Study) -> None:
    study.carry_out(len(LAUNCHES) - 1)
    study.compare()
    bad = [
        f"{trial.name} {trial.row}: {trial.wrong}; pairs seen in no good row: "
        f"{study.suspects(trial)[:6]}"
        for trial in study.trials
        if trial.wrong
    ]
    assert not bad, "\n".join(bad)
    assert make_table().works <= study.held()
