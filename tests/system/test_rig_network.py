"""The rig's commands as lists, its rates and counters: nothing is made here."""

from __future__ import annotations

from pathlib import Path

import pytest

from dathvd.errors import UserError
from dathvd.rig import Counters, Rig, up
from dathvd.rig.entry import mpirun_command
from dathvd.rig.network import (
    bits_per_second,
    create_commands,
    link_commands,
    rate_commands,
)


def test_two_hosts_take_these_commands_and_no_others() -> None:
    commands = [
        " ".join(words) for words in create_commands("r-switch", ["r-a", "r-b"])
    ]
    assert commands == [
        "ip netns add r-switch",
        "ip netns add r-a",
        "ip netns add r-b",
        "ip -n r-switch link add br0 type bridge",
        "ip -n r-switch link set br0 up",
        "ip -n r-switch link add port0 type veth peer name eth0 netns r-a",
        "ip -n r-switch link set port0 master br0 up",
        "ip -n r-a address add 10.231.0.1/24 dev eth0",
        "ip -n r-a link set lo up",
        "ip -n r-a link set eth0 up",
        "ip -n r-switch link add port1 type veth peer name eth0 netns r-b",
        "ip -n r-switch link set port1 master br0 up",
        "ip -n r-b address add 10.231.0.2/24 dev eth0",
        "ip -n r-b link set lo up",
        "ip -n r-b link set eth0 up",
    ]


def test_a_rate_limits_both_ends_of_the_link() -> None:
    bucket = "root tbf rate 1000000000bit burst 250000 latency 50ms"
    assert [" ".join(c) for c in rate_commands("r-switch", {0: "r-a"}, "1gbit")] == [
        f"tc -n r-a qdisc replace dev eth0 {bucket}",
        f"tc -n r-switch qdisc replace dev port0 {bucket}",
    ]
    assert rate_commands("s", {0: "a"}, "unlimited")[0][-2:] == ["root", "noqueue"]


def test_a_black_hole_leaves_both_ends_of_the_link_up() -> None:
    def of(state: str) -> list[str]:
        return [" ".join(words) for words in link_commands("s", "a", 3, state)]

    switch, host = "ip -n s link set port3", "ip -n a link set eth0"
    assert of("up") == [f"{switch} master br0", f"{host} up"]
    assert of("down") == [f"{switch} master br0", f"{host} down"]
    assert of("black-hole") == [f"{switch} nomaster", f"{host} up"]
    with pytest.raises(UserError, match="link: unknown 'dwn' .*down"):
        of("dwn")


@pytest.mark.parametrize(
    ("rate", "bits"),
    [("200mbit", 2e8), ("1gbit", 1e9), ("0.5mbit", 5e5), ("unlimited", None)],
)
def test_rates(rate: str, bits: float | None) -> None:
    assert bits_per_second(rate) == bits


@pytest.mark.parametrize("rate", ["200", "200mb", "0mbit", "-1mbit", "fast"])
def test_a_bad_rate_is_refused(rate: str) -> None:
    with pytest.raises(UserError, match="rate: expected .*'unlimited'"):
        bits_per_second(rate)


def test_payload_is_what_is_left_without_headers() -> None:
    # ten full frames of 1,448 bytes and five bare acknowledgements
    before = Counters(bytes=100, packets=1)
    after = Counters(bytes=100 + 10 * 1514 + 5 * 66, packets=16)
    assert after.since(before).payload == 14_480


def test_mpirun_starts_one_rank_a_host_over_the_agent() -> None:
    words = mpirun_command(Path("/run/x"), ["node0", "node1"], ["python", "w.py"])
    assert words[:6] == [
        "mpirun",
        "--allow-run-as-root",
        "-np",
        "2",
        "-H",
        "node0:1,node1:1",
    ]
    assert words[-2:] == ["python", "w.py"]
    text = " ".join(words)
    assert "-mca plm_rsh_agent sh /run/x/agent " in text
    assert "-mca btl_tcp_flags 1 " in text
    assert "-mca btl tcp,self " in text  # no shared memory between "hosts"


def test_ranks_of_one_host_meet_in_shared_memory() -> None:
    hosts = ["node0", "node1"]
    words = mpirun_command(Path("/run/x"), hosts, ["true"], per_host=4)
    assert words[3] == "8" and words[5] == "node0:4,node1:4"
    assert "-mca btl tcp,vader,self " in " ".join(words)


@pytest.mark.parametrize(("size", "per_host"), [(3, 2), (6, 2), (0, 1), (1, 2)])
def test_ranks_that_do_not_fill_hosts_are_refused(size: int, per_host: int) -> None:
    with pytest.raises(
        UserError, match=f"a multiple of {per_host} ranks, {2 * per_host}"
    ):
        Rig("x", ("node0", "node1")).mpirun(["true"], size=size, per_host=per_host)


def test_without_root_the_answer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(UserError, match="^rig: network namespaces need root; .*$"):
        up(2)


@pytest.mark.parametrize("count", [0, 65])
def test_a_bad_number_of_hosts_is_refused(count: int) -> None:
    with pytest.raises(UserError, match=f"expected 1 to 64 hosts, got {count}"):
        up(count)


def test_an_unknown_host_is_refused() -> None:
    with pytest.raises(UserError, match=r"unknown host 'nod1' \(did you mean 'node1'"):
        Rig("dathvd-rig-1-0", ("node0", "node1")).command("nod1", ["true"])
