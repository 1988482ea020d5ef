"""The drawings of the architecture page, as SVG."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

WORKER, WIRE, PLAIN = "#dbeafe", "#fde68a", "#f3f4f6"
"""Fills: what a worker does by itself, what travels, what is only there."""
_STYLE = (
    "text{font-family:DejaVu Sans,Verdana,sans-serif;fill:#111827;text-anchor:middle}"
    ".t{font-size:13px;font-weight:bold}.s{font-size:11px;fill:#4b5563}"
    ".h{font-size:14px;text-anchor:start;font-weight:bold}"
)


def box(x: int, y: int, width: int, title: str, below: str, fill: str) -> str:
    """A box of two lines, 54 high; ``x`` and ``y`` are its upper left corner."""
    middle = x + width / 2
    return (
        f'<rect x="{x}" y="{y}" width="{width}" height="54" rx="6" fill="{fill}" '
        f'stroke="#6b7280"/><text class="t" x="{middle}" y="{y + 22}">{escape(title)}'
        f'</text><text class="s" x="{middle}" y="{y + 41}">{escape(below)}</text>'
    )


def heading(x: int, y: int, text: str) -> str:
    """A line of text that begins at ``x``."""
    return f'<text class="h" x="{x}" y="{y}">{escape(text)}</text>'


def arrow(*points: tuple[int, int]) -> str:
    """A line through the points with a head at the last one."""
    path = " ".join(f"{x},{y}" for x, y in points)
    return (
        f'<polyline points="{path}" fill="none" stroke="#374151" stroke-width="1.5" '
        'marker-end="url(#head)"/>'
    )


def drawing(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    """The parts on white, with a title for who cannot see them."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img"><title>{escape(title)}</title>'
        f'<style>{_STYLE}</style><defs><marker id="head" markerWidth="9" '
        'markerHeight="8" refX="8" refY="4" orient="auto"><path d="M0,0 L9,4 L0,8 z" '
        'fill="#374151"/></marker></defs>'
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def image_and_gradient() -> str:
    """One image from the data set to the loss, one gradient from there to the mean."""
    image = [
        ("data set", "bytes, labels", PLAIN),
        ("batch plan", "this worker's share", WORKER),
        ("attack", "PGD; sends nothing", WORKER),
        ("objective", "clean and attacked", WORKER),
        ("backward", "weight gradients", WORKER),
    ]
    gradient = [
        ("submit", "into its bucket", WORKER),
        ("encode", "+ worker's residual", WORKER),
        ("alltoall", "payloads to owners", WIRE),
        ("mean, encode", "+ owner's residual", WORKER),
        ("allgather", "payloads to all", WIRE),
    ]
    end = [
        ("decode", "the mean", WORKER),
        ("conclude", "finite? keep or undo", WORKER),
        ("optimizer", "layer-wise rates", WORKER),
        ("weights", "equal on all workers", PLAIN),
    ]
    parts = []
    for top, title, row in (
        (40, "one image", image),
        (150, "one gradient", gradient),
        (260, "one update", end),
    ):
        parts.append(heading(20, top - 12, title))
        for place, (name, below, fill) in enumerate(row):
            left = 20 + 172 * place
            parts.append(box(left, top, 150, name, below, fill))
            if place:
                parts.append(arrow((left - 22, top + 27), (left - 2, top + 27)))
    parts.append(arrow((783, 94), (783, 116), (145, 116), (145, 148)))
    parts.append(arrow((783, 204), (783, 226), (145, 226), (145, 258)))
    return drawing(880, 334, "The way of an image and of its gradient", parts)


def overlap() -> str:
    """What a worker and the network do in a step, without and with overlap."""

    def bar(x: int, y: int, width: int, text: str, fill: str) -> str:
        return (
            f'<rect x="{x}" y="{y}" width="{width}" height="30" fill="{fill}" '
            f'stroke="#6b7280"/><text class="s" x="{x + width / 2}" y="{y + 19}">'
            f"{escape(text)}</text>"
        )

    parts = [heading(20, 24, "train.overlap: none")]
    for x, step in ((110, "t"), (490, "t+1")):
        parts.append(bar(x, 36, 170, f"attack {step}", WORKER))
        parts.append(bar(x + 170, 36, 80, f"update {step}", WORKER))
        parts.append(bar(x + 210, 72, 160, f"exchange {step}", WIRE))
    parts.append(heading(20, 136, "train.overlap: attack"))
    parts.append(bar(110, 148, 80, "update t", WORKER))
    parts.append(bar(190, 148, 170, "attack t+1", WORKER))
    parts.append(bar(150, 184, 160, "exchange t", WIRE))
    parts.append(bar(370, 148, 80, "update t+1", WORKER))
    parts.append(bar(450, 148, 170, "attack t+2", WORKER))
    parts.append(bar(410, 184, 160, "exchange t+1", WIRE))
    for y, name in ((55, "worker"), (91, "network"), (167, "worker"), (203, "network")):
        parts.append(f'<text class="s" x="60" y="{y}">{name}</text>')
    return drawing(880, 230, "When gradients travel", parts)
