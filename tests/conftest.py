"""What all tests share: one that needs a missing program is skipped with a reason."""

from __future__ import annotations

import pytest

from tests.programs import skip_what_lacks_programs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skip_what_lacks_programs(items)
