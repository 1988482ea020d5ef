"""States in a host's memory: what is kept, whole or not at all, and where."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dathvd.distributed import between_hosts
from dathvd.training.hot.store import SHARED, Moment, Store

RUN = "0123456789abcdef"


def write(store: Store, moment: Moment) -> None:
    for part in moment.parts:
        store.write(moment, part, f"{moment.step} {part}".encode())


def test_parts_are_read_as_they_were_written(tmp_path: Path) -> None:
    store, moment = Store(RUN, tmp_path), Moment(7, 2, 0)
    write(store, moment)
    assert store.moments() == {moment: {SHARED, "0", "1"}}
    again = Store(RUN, tmp_path)
    assert again.read(moment, "1") == b"7 1"
    assert again.read(moment, "2") is None
    assert Store("f" * 16, tmp_path).moments() == {}  # another run's are not its own


@pytest.mark.parametrize("place", [0, 31, 32, -1])
def test_a_flipped_bit_is_noticed(tmp_path: Path, place: int) -> None:
    store, moment = Store(RUN, tmp_path), Moment(7, 2, 0)
    write(store, moment)
    (file,) = tmp_path.glob(f"*/{RUN}.*/{moment.name}/0")
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(data)
    assert store.read(moment, "0") is None
    assert store.read(moment, SHARED) is not None


def test_the_two_newest_stay_and_none_after_the_end(tmp_path: Path) -> None:
    store = Store(RUN, tmp_path)
    # a later attempt that goes on from an earlier step is the newer one
    for moment in (Moment(90, 3, 0), Moment(10, 2, 1), Moment(20, 2, 1)):
        write(store, moment)
        store.prune()
    assert set(store.moments()) == {Moment(10, 2, 1), Moment(20, 2, 1)}
    store.close()
    assert not list(tmp_path.glob(f"*/{RUN}*"))


def test_a_planted_folder_is_refused(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / f"dathvd-{os.geteuid()}").symlink_to(elsewhere)
    with pytest.raises(OSError, match="not this user's"):
        Store(RUN, tmp_path)
    assert not list(elsewhere.iterdir())


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    write(Store(RUN, tmp_path), Moment(7, 1, 0))
    folders = [each for each in tmp_path.rglob("*") if each.is_dir()]
    assert folders and all(each.stat().st_mode & 0o077 == 0 for each in folders)


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=9))
def test_a_partner_is_on_another_host_where_there_is_one(hosts: list[str]) -> None:
    several = len(set(hosts)) > 1
    for rank, host in enumerate(hosts):
        other = hosts[between_hosts.partner(rank, hosts)]
        assert (other != host) == several


def test_parts_survive_their_way() -> None:
    parts = {SHARED: bytes(range(256)), "3": b"", "11": b"\n{}"}
    assert between_hosts._unpacked(between_hosts._packed(parts)) == parts
