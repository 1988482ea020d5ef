"""Writes the generated pages: ``python -m docs.tools.write``; ``make docs`` does so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from docs.tools import command_line, configuration, diagrams

DOCS = Path(__file__).parents[1]
PAGES: dict[str, Callable[[], str]] = {
    "configuration.md": configuration.page,
    "command-line.md": command_line.page,
    "images/architecture.svg": diagrams.image_and_gradient,
    "images/overlap.svg": diagrams.overlap,
}


def main() -> None:
    """Write each page that is not current, and name it."""
    for name, page in PAGES.items():
        file, text = DOCS / name, page()
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            print(f"wrote {file}")


if __name__ == "__main__":
    main()
