"""The rendered documentation: it builds without a warning and asks no other host."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.documents import DOCS, ROOT

pytest.importorskip("mkdocs", reason="the extra docs is not installed")
pytest.importorskip("mkdocstrings", reason="the extra docs is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it; strict: a warning fails."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder))
    assert config.strict
    build(config)
    return folder


class Loaded(HTMLParser):
    """What a browser loads with a page, and where its links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors.add(values.get("id", ""))
        self.loads += [values[name] for name in ("src", "poster") if name in values]
        if "href" in values:
            (self.leads if tag == "a" else self.loads).append(values["href"])


def parsed(page: Path) -> Loaded:
    """A page, read."""
    found = Loaded()
    found.feed(page.read_text("utf-8"))
    return found


@pytest.mark.slow
def test_every_page_is_rendered(site: Path) -> None:
    for page in DOCS.rglob("*.md"):
        assert (site / page.relative_to(DOCS)).with_suffix(".html").exists(), page


def test_no_page_loads_from_another_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        for source in parsed(page).loads:
            assert not re.match(r"(\w+:)?//", source), f"{page.name} loads {source}"
    for sheet in [*site.rglob("*.css")]:
        for target in re.findall(
            r"(?:url\(|@import)[\s'\"]*([^)'\"]+)", sheet.read_text()
        ):
            assert not re.match(r"(https?:)?//", target), f"{sheet.name}: {target}"
    scripts = [
        *site.glob("assets/*.js"),
        *site.glob("js/*.js"),
        *site.glob("search/*.js"),
    ]
    for script in scripts:
        if script.name != "search_index.js":  # text of the pages
            calls = r"(?:fetch|import|open)\(\s*['\"](?:GET['\"],\s*['\"])?https?:"
            assert not re.search(calls, script.read_text("utf-8")), script.name


def test_links_between_pages_lead_to_headings(site: Path) -> None:
    pages = {page: parsed(page) for page in site.rglob("*.html")}
    for page, found in pages.items():
        if page.name == "404.html":
            continue
        for target in found.leads:
            path, _, anchor = target.partition("#")
            if re.match(r"\w+:", target) or not (path or anchor):
                continue
            other = (page.parent / path).resolve() if path else page
            assert other.exists(), f"{page.name}: {target}"
            if anchor and other.suffix == ".html":
                assert anchor in pages[other].anchors, f"{page.name}: {target}"


def test_the_search_knows_every_page_and_works_from_disk(site: Path) -> None:
    script = (site / "search" / "search_index.js").read_text("utf-8")
    index = json.loads(script.removeprefix("window.searchIndex = ").rstrip(";\n"))
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    pages = {
        p.relative_to(DOCS).with_suffix(".html").as_posix() for p in DOCS.rglob("*.md")
    }
    assert found == pages
    assert (site / "search" / "lunr.js").exists()
    assert "search_index.js" in (site / "assets" / "search-from-disk.js").read_text()


def test_public_names_are_in_the_reference(site: Path) -> None:
    """What `import dathvd` offers, and every registered codec."""
    import dathvd
    from dathvd.compression import COMPRESSORS

    text = "".join(page.read_text("utf-8") for page in site.glob("api/*.html"))
    names = {*dathvd.__all__, *(codec.__name__ for codec in COMPRESSORS.values())}
    for name in names - {"__version__"}:
        assert f'.{name}"' in text, name


def test_docstrings_are_written_for_markdown() -> None:
    """Roles such as :class: belong to another language."""
    for file in (ROOT / "dathvd").rglob("*.py"):
        assert not re.search(r":(class|meth|func|mod|attr):`", file.read_text()), file
