"""What one step's exchange costs a large cluster, by arithmetic.

``python -m dathvd.benchmark.speedup.scale`` prints a table and writes a picture. All of
it is predicted: bytes by the codecs' own formulas, messages by the exchanges', seconds
by ``messages * latency + bytes / bandwidth`` (Hockney, Parallel Computing 20, 1994),
with no contention, no straggler and no change of algorithm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from dathvd.benchmark.speedup.plots import Style, styles
from dathvd.compression import COMPRESSORS
from dathvd.compression.base import HIERARCHICAL
from dathvd.report.plots import new_figure, save_figure

BUCKET_BYTES = 25e6
NETWORKS = {
    "PreActResNet-18": 11.2e6,
    "ResNet-50": 25.6e6,
    "ConvNeXt-B": 88.6e6,
}
"""Values of the gradient."""
WAYS = (
    ("none", "allreduce"),
    ("none", HIERARCHICAL),
    ("fp16", "allreduce"),
    ("int8", "two-way"),
    ("int8", HIERARCHICAL),
    ("sign", "two-way"),
    ("sign", HIERARCHICAL),
    ("topk", HIERARCHICAL),
)
RATES = tuple(10 ** (power / 4) for power in range(-2, 12))
"""Bandwidths of a node's link, in Gbit/s: 0.3 to 562."""


@dataclass(frozen=True)
class Cluster:
    """Equal nodes of several workers each.

    Args:
        workers: on all nodes.
        per_node: workers of a node.
        bandwidth: of a node's link, bytes a second in each direction.
        latency: seconds of a message between nodes.
        inside_bandwidth: of a worker inside its node, bytes a second.
        inside_latency: seconds of a message inside a node.
    """

    workers: int
    per_node: int
    bandwidth: float
    latency: float = 20e-6
    inside_bandwidth: float = 200e9
    inside_latency: float = 5e-6

    @property
    def nodes(self) -> int:
        """The number of nodes."""
        return self.workers // self.per_node


@dataclass(frozen=True)
class Traffic:
    """Of one bucket in one step."""

    messages: int
    """Between nodes, one after another."""
    leaving: float
    """Bytes that leave a node."""
    inside_messages: int = 0
    inside: float = 0.0
    """Bytes that a worker sends inside its node."""

    def seconds(self, cluster: Cluster) -> float:
        """From the first byte to the last."""
        between = self.messages * cluster.latency + self.leaving / cluster.bandwidth
        within = self.inside_messages * cluster.inside_latency
        return between + within + self.inside / cluster.inside_bandwidth


def traffic(codec: str, exchange: str, num_values: int, cluster: Cluster) -> Traffic:
    """What a bucket of so many values sends.

    A ring of N workers has one link out of each node. Of a two-way exchange, each of
    a node's L workers sends N-L others a part of N, twice. The hierarchical exchange
    is two-way among C counterparts, L of which are on a node, with an L-th each.
    """
    size, local, nodes = cluster.workers, cluster.per_node, cluster.nodes
    payload = COMPRESSORS[codec]().payload_bytes(num_values)
    if exchange == "allreduce":
        return Traffic(2 * (size - 1), 2 * payload * (size - 1) / size)
    if exchange == "two-way":
        return Traffic(2 * (size - 1), 2 * payload * local * (size - local) / size)
    share = (local - 1) / local
    return Traffic(
        messages=2 * (nodes - 1),
        leaving=2 * payload * (nodes - 1) / nodes,
        inside_messages=2 * (local - 1),
        inside=(4 * num_values + payload) * share,
    )


def exchange_seconds(
    codec: str, exchange: str, num_values: float, cluster: Cluster
) -> float:
    """Seconds of one step's exchange, bucket after bucket, the codec's time apart."""
    buckets = max(1, round(4 * num_values / BUCKET_BYTES))
    each = round(num_values / buckets)
    return buckets * traffic(codec, exchange, each, cluster).seconds(cluster)


def residual_bytes(exchange: str, num_values: float, cluster: Cluster) -> float:
    """What error feedback keeps on one worker, in memory and in a checkpoint."""
    owner = 4 * num_values / cluster.workers
    sent = num_values if exchange != HIERARCHICAL else num_values / cluster.per_node
    return 4 * sent + owner


def plot_scale(workers: int, per_node: int, path: Path) -> None:
    """Seconds of a step's exchange over the bandwidth of a node's link."""
    figure = new_figure(9.0, 4.4)
    panels = figure.subplots(1, len(NETWORKS), sharey=True)
    for axes, (name, values) in zip(panels, NETWORKS.items()):
        for way, style in _styles().items():
            seconds = [
                exchange_seconds(*way, values, Cluster(workers, per_node, rate * 125e6))
                for rate in RATES
            ]
            axes.plot(RATES, seconds, label=", ".join(way), **style.options())
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("Gbit/s of a node's link", fontsize=9)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(f"seconds of an exchange, {workers} workers (predicted)")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8)
    save_figure(figure, path)


def _styles() -> dict[tuple[str, str], Style]:
    drawn = styles([(codec, exchange, "none") for codec, exchange in WAYS])
    return {(codec, exchange): style for (codec, exchange, _), style in drawn.items()}


def to_table(workers: int, per_node: int, rates: Sequence[float]) -> str:
    """ResNet-50's exchanges as Markdown."""
    values = NETWORKS["ResNet-50"]
    head = [f"{rate:g} Gbit/s (ms)" for rate in rates]
    lines = [
        "| codec | exchange | messages a bucket | MB leave a node | "
        "residuals of a worker, MB | " + " | ".join(head) + " |",
        "|---|---|---:|---:|---:|" + "---:|" * len(rates),
    ]
    for codec, exchange in WAYS:
        cluster = Cluster(workers, per_node, 1.0)
        one = traffic(codec, exchange, round(values), cluster)
        kept = residual_bytes(exchange, values, cluster)
        owed = f"{kept / 1e6:.1f}" if COMPRESSORS[codec].error_feedback else "–"
        cells = [
            f"{1e3 * exchange_seconds(codec, exchange, values, one_rate):,.0f}"
            for one_rate in (Cluster(workers, per_node, r * 125e6) for r in rates)
        ]
        start = [codec, exchange, f"{one.messages:,} + {one.inside_messages}"]
        words = [*start, f"{one.leaving / 1e6:,.1f}", owed, *cells]
        lines.append("| " + " | ".join(words) + " |")
    return "\n".join(lines)


@click.command()
@click.option("--workers", type=click.IntRange(min=2), default=1024, show_default=True)
@click.option("--per-node", type=click.IntRange(min=2), default=8, show_default=True)
@click.option("--output", default="runs/scale.png", show_default=True, metavar="FILE")
def main(workers: int, per_node: int, output: str) -> None:
    """Print the table of ResNet-50 and draw all networks."""
    if workers % per_node or workers == per_node:
        raise click.ClickException(f"--workers: {workers} are not nodes of {per_node}")
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    plot_scale(workers, per_node, Path(output))
    click.echo(to_table(workers, per_node, (1, 10, 100, 400)))
    click.echo(f"picture in {output}")


if __name__ == "__main__":
    main()
