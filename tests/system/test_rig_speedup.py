"""A sweep over slow links: what travels, how long it takes, what overlap hides."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dathvd.rig import network_is_available
from dathvd.rig.rig import PREFIX
from tests.processes import DATHVD, run
from tests.programs import LAUNCHING, RIG

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs(*RIG, *LAUNCHING),
    pytest.mark.skipif(
        not network_is_available(), reason="needs root and network namespaces"
    ),
    pytest.mark.timeout(300),
]
RATE = 20e6
# 8x8 images: 64 -> 512 -> 512 -> 10, all weights and biases
VALUES = 64 * 512 + 512 * 512 + 512 * 10 + 512 + 512 + 10


def measured(folder: Path, *words: str) -> list[dict[str, Any]]:
    """The rows of a short benchmark of a small network on a rig."""
    quick = ["--config", "digits", "--set", "model.name=mlp"]
    quick += ["--set", "model.width=64", "--warmup", "1", "--repeats", "3"]
    command = [DATHVD, "benchmark-speedup", *quick, *words, "--output", str(folder)]
    done = run(command, timeout=280)
    assert done.code == 0, done.output
    report = json.loads((folder / "speedup.json").read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = report["rows"]
    return rows


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    folder = tmp_path_factory.mktemp("rig")
    words = ["--np", "2", "--rig-rates", "20mbit", "--codecs", "horovod,none,sign"]
    words += ["--set", "attack.num_steps=100", "--batch-size-per-worker", "256"]
    found = measured(folder, *words)
    return {(row["codec"], row["overlap"]): row for row in found}


def test_a_step_takes_at_least_what_the_link_takes(rows: Any) -> None:
    link = 4 * VALUES * 8 / RATE
    for codec in ("horovod", "none"):
        row = rows[codec, "none"]
        assert row["step_seconds"] > row["attack_seconds"] + 0.8 * link
        # a link that is slower than it says would let every codec look good
        assert row["exposed_seconds"] < 5 * link
    sign = rows["sign", "none"]["exposed_seconds"]
    assert sign < 0.5 * rows["none", "none"]["exposed_seconds"]


def test_overlap_hides_the_exchange_behind_the_attack(rows: Any) -> None:
    plain, hidden = rows["none", "none"], rows["none", "attack"]
    assert hidden["exposed_seconds"] < 0.9 * plain["exposed_seconds"]
    assert hidden["bytes_sent"] == plain["bytes_sent"]


def test_the_ledger_and_the_kernel_count_the_same_bytes(rows: Any) -> None:
    """But for Horovod's negotiation, which goes on while nothing else travels."""
    silent = rows["local", "none"]
    assert silent["bytes_sent"] == 0
    negotiated = silent["kernel_bytes"] / silent["step_seconds"]
    for (codec, _), row in rows.items():
        if codec in ("horovod", "none"):
            assert row["bytes_sent"] == 4 * VALUES
            payload = row["kernel_bytes"] - negotiated * row["step_seconds"]
            assert payload == pytest.approx(row["bytes_sent"], rel=0.05)


def test_hosts_of_the_rig_share_this_machine(rows: Any) -> None:
    for row in rows.values():
        assert row["hosts"] == row["num_workers"] == 2
        assert row["oversubscribed"] is ((os.cpu_count() or 1) < 2)
        assert row["rate"] == "20mbit"


@pytest.fixture(scope="module")
def on_nodes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("nodes")
    words = ["--np", "4", "--per-host", "2", "--rig-rates", "unlimited"]
    words += ["--codecs", "sign:two-way,sign:hierarchical", "--overlap", "none"]
    words += ["--set", "attack.num_steps=1", "--batch-size-per-worker", "4"]
    return {row["exchange"]: row for row in measured(folder, *words)}


def test_nodes_send_one_compressed_exchange(on_nodes: Any) -> None:
    """Interface counters: from a node of two, two payloads by two-way, one by nodes.

    With L workers on each of C nodes, a worker's share of what leaves its node is
    2P(C-1)/C of the payload P by two-way, and 1/L of that by the hierarchical exchange.
    MPI gathers payloads of this size so that each crosses as often as the formula says.
    """
    values = 64 * 512 + 512 * 512 + 512 * 10
    payload = values / 512 * (512 / 8 + 4)
    two_way, hierarchical = on_nodes["two-way"], on_nodes["hierarchical"]
    assert two_way["num_workers"] == 4 and two_way["hosts"] == 2
    saved = two_way["kernel_bytes"] - hierarchical["kernel_bytes"]
    assert saved == pytest.approx(payload / 2, rel=0.1)
    assert hierarchical["kernel_bytes"] >= 0.95 * payload / 2
    # both carry Horovod's negotiation as well, the more the longer a step takes
    assert hierarchical["kernel_bytes"] < 0.7 * two_way["kernel_bytes"]


def test_nothing_of_the_rig_is_left(rows: Any) -> None:
    assert rows
    for name in os.listdir("/run/netns"):
        if name.startswith(PREFIX):
            maker = int(name.removeprefix(PREFIX).split("-")[0])
            assert Path("/proc", str(maker)).exists(), f"{name} has no maker"
