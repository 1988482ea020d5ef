"""Hooks of MkDocs: colours of code, and a search that works from disk.

Both are what the theme would otherwise ask another host or a web server for.
"""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pygments.formatters import HtmlFormatter

LIGHT, DARK = "default", "github-dark"
"""Pygments' styles for the theme's two modes."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the style sheet of highlighted code."""
    sheet = f"{_colours(LIGHT, '.highlight')}\n" + _colours(
        DARK, "[data-bs-theme=dark] .highlight"
    )
    files.append(File.generated(config, "assets/highlight.css", content=sheet))
    return files


def on_post_build(config: MkDocsConfig) -> None:
    """Write the search index a second time as a script: pages opened from disk may
    load scripts but fetch no JSON."""
    folder = Path(config.site_dir) / "search"
    index = (folder / "search_index.json").read_text(encoding="utf-8")
    script = f"window.searchIndex = {index};\n"
    (folder / "search_index.js").write_text(script, encoding="utf-8")


def _colours(style: str, selector: str) -> str:
    return str(HtmlFormatter(style=style).get_style_defs(selector))
