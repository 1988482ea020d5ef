"""No search for garbage while torch is imported; one as ever before and after."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

from dathvd import collector


@pytest.fixture
def before_torch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if torch had not been imported; what is frozen is let go."""
    monkeypatch.delitem(sys.modules, "torch")
    yield
    gc.unfreeze()


def test_what_is_imported_is_not_searched_later(before_torch: None) -> None:
    with collector.paused():
        assert not gc.isenabled()
        made = [[number] for number in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() > len(made)
    assert not any(each is made for each in gc.get_objects())


def test_a_failed_import_leaves_the_search_on(before_torch: None) -> None:
    with pytest.raises(ImportError), collector.paused():
        raise ImportError
    assert gc.isenabled()


def test_a_user_who_switched_it_off_is_left_alone(before_torch: None) -> None:
    gc.disable()
    try:
        with collector.paused():
            pass
        assert not gc.isenabled() and gc.get_freeze_count() == 0
    finally:
        gc.enable()


def test_a_process_that_has_torch_goes_on_as_it_was() -> None:
    frozen = gc.get_freeze_count()
    with collector.paused():
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen
