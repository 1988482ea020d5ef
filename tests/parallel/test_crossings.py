"""Every two values of all features together: they work, or one clear line refuses them.

The values come from the registries, the rows from a covering array; one worker and two
workers, in turn, carry them out in four launches.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dathvd.config import Config
from tests.parallel.crossings.covering import pairs_of
from tests.parallel.crossings.features import features
from tests.parallel.crossings.study import Study, describe
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


def test_every_row_works(tmp_path: Path) -> None:
    table = make_table()
    study = Study.conduct(table.rows, tmp_path)
    bad = [
        f"{trial.name} {trial.row}: {trial.wrong}; pairs seen in no good row: "
        f"{study.suspects(trial)[:6]}"
        for trial in study.trials
        if trial.wrong
    ]
    assert not bad, "\n".join(bad)
    assert table.works <= study.held()
