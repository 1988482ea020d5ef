"""README and docs: links lead somewhere, pages are current, forms are kept."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dathvd.config import load_config
from docs.tools.write import PAGES
from tests.documents import (
    DOCS,
    MARKER,
    README,
    ROOT,
    all_blocks,
    anchors,
    commands,
    documents,
    links,
    slug,
)

names = [str(file.relative_to(ROOT)) for file in documents()]


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 160


@pytest.mark.parametrize("name", names)
def test_links_and_pictures_lead_somewhere(name: str) -> None:
    file = ROOT / name
    for target in links(file):
        if re.match(r"\w+:", target):
            form = r"https://[a-z0-9.-]+\.[a-z]+(/[\w./#~%-]*)?"
            assert re.fullmatch(form, target), f"{name}: {target}"
            continue
        path, _, anchor = target.partition("#")
        other = (file.parent / path).resolve() if path else file
        assert other.exists(), f"{name}: {target}"
        assert ROOT in other.parents, f"{name}: {target} is outside of the project"
        if anchor:
            assert anchor in anchors(other), f"{name}: {target}"


def test_a_link_to_a_missing_heading_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A title: `code`, and more\n```\n# no heading\n```\n")
    assert anchors(page) == {"a-title-code-and-more"}
    assert slug("`data`") == "data"


@pytest.mark.parametrize("page", sorted(PAGES))
def test_generated_pages_are_current(page: str) -> None:
    # in a process of its own: click keeps the options of commands that were called
    script = "import sys; from docs.tools.write import PAGES; "
    script += f"sys.stdout.write(PAGES[{page!r}]())"
    made = subprocess.run(
        [sys.executable, "-c", script],
        cwd=DOCS.parent,
        capture_output=True,
        check=True,
    ).stdout.decode("utf-8")
    problem = f"docs/{page} is not what the code says: run `python -m docs.tools.write`"
    assert (DOCS / page).read_text("utf-8") == made, problem


def test_every_field_of_the_configuration_is_explained() -> None:
    from dathvd.config import Config
    from docs.tools.configuration import sections

    found = dict(sections(Config))
    assert {"", "data", "attack", "evaluation.attack", "train.guard"} <= set(found)
    for path, section in found.items():
        assert section.__doc__, path
        for name, field in section.model_fields.items():
            inner = isinstance(field.annotation, type) and name in found
            assert field.description or inner or not path, f"{path}.{name}"


def test_every_recipe_is_described() -> None:
    text = (DOCS / "recipes.md").read_text("utf-8")
    for file in (ROOT / "configs").rglob("*.yaml"):
        assert f"`{file.name}`" in text or f"/{file.name}`" in text, file.name


def test_published_figures_are_those_of_the_recipes() -> None:
    folder, seen = "", 0
    for line in (DOCS / "recipes.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if match := re.match(r"file in `configs/(\w+)`", cells[0]):
            folder = match[1]
        elif folder and (match := re.fullmatch(r"`(\w+\.yaml)`", cells[0])):
            text = (ROOT / "configs" / folder / match[1]).read_text("utf-8")
            comment = " ".join(re.findall(r"^# (.*)", text, flags=re.M))
            published = cells[2].partition("(")[0]
            for figure in re.findall(r"(?<![\w.-])\d+(?:\.\d+)?", published):
                assert re.search(rf"\b{re.escape(figure)}\b", comment), line
                seen += 1
    assert seen > 20


def test_every_page_is_in_the_menu() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    listed = set(re.findall(r": ([\w/-]+\.md)$", text, flags=re.M))
    assert listed == {str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md")}


def test_yaml_blocks_are_configurations(tmp_path: Path) -> None:
    found = [block for block in all_blocks("yaml") if block.marker != "not run"]
    assert found
    for block in found:
        file = tmp_path / "block.yaml"
        file.write_text(block.text)
        load_config(file)


def test_no_command_hides_in_a_block_of_output() -> None:
    """Commands stand in bash blocks, where tests find them."""
    start = re.compile(r"\$ |(dathvd|horovodrun|mpirun|make|pip|python|docker) \S")
    for block in all_blocks("", "text", "console", "sh", "shell"):
        if block.file.name == "command-line.md":
            continue  # its blocks are what --help prints
        for line in block.text.splitlines():
            assert not start.match(line), f"{block.place}: {line}"


def test_markers_stand_before_blocks_and_give_reasons() -> None:
    for file in documents():
        lines = file.read_text("utf-8").splitlines()
        for line, after in zip(lines, [*lines[1:], ""]):
            if line.startswith("<!--"):
                assert MARKER.fullmatch(line), f"{file.name}: {line}"
                assert after.startswith("```"), f"{file.name}: {line}"


def test_commands_exist() -> None:
    """Also of commands that no test runs: the subcommand is there."""
    from dathvd.cli import COMMANDS

    for block in all_blocks("bash"):
        for command in commands(block):
            for word in re.findall(r"(?:^|\s)dathvd ([a-z-]+)", command):
                assert word in COMMANDS, f"{block.place}: {command}"


def test_files_and_modules_that_are_named_exist() -> None:
    """Also a name within a module, such as `dathvd.attacks.PGD`."""
    roots = "dathvd|configs|launchers|docker|tests|examples|docs"
    for file in documents():
        for word in re.findall(r"`([^`\n]+)`", file.read_text("utf-8")):
            if re.fullmatch(rf"({roots})/[\w./*-]+", word):
                assert list(ROOT.glob(word)), f"{file.name}: {word}"
            if re.fullmatch(r"dathvd(\.\w+)+", word):
                assert named(word), f"{file.name}: {word}"


def named(dotted: str) -> bool:
    """Whether a module has that name, or a module defines or imports it."""
    *parents, last = dotted.split(".")
    place = ROOT.joinpath(*parents)
    if (place / last).is_dir() or (place / f"{last}.py").is_file():
        return True
    module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    found = rf"\b{last}\b"
    return module.is_file() and re.search(found, module.read_text()) is not None


def test_figures_name_their_data() -> None:
    """No accuracy without saying of what; lossy CIFAR-10 is called by its name."""
    for file in documents():
        for line in file.read_text("utf-8").splitlines():
            if "CIFAR-10" in line and re.search(r"\d %", line):
                assert "CIFAR-10 (JPEG)" in line, f"{file.name}: {line}"


def test_the_citation_is_in_the_format() -> None:
    """The keys that Citation File Format 1.2.0 requires, and their types."""
    from dathvd import __version__

    text = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert text["cff-version"] == "1.2.0" and text["type"] == "software"
    assert text["message"] and text["title"]
    assert text["version"] == __version__
    people = [*text["authors"]]
    for reference in text["references"]:
        assert {"type", "title", "authors", "year"} <= set(reference)
        people += reference["authors"]
    for person in people:
        entity = set(person) == {"name"}
        assert entity or {"family-names", "given-names"} <= set(person), person
    known = """cff-version message type title abstract authors version license keywords
    references""".split()
    assert set(text) <= set(known)


def test_the_changelog_tells_of_this_version() -> None:
    """Keep a Changelog: versions newest first, changes under its six headings."""
    from dathvd import __version__

    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"^## (.+)$", text, flags=re.M)
    assert versions[0] == "[Unreleased]"
    assert any(v.startswith(f"[{__version__}] - ") for v in versions), versions
    kinds = set(re.findall(r"^### (.+)$", text, flags=re.M))
    assert kinds <= {
        "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security",
    }  # fmt: skip


def test_hooks_call_the_linters_of_make_lint() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (repository,) = hooks["repos"]
    assert repository["repo"] == "local"
    called = [hook["entry"].split()[0] for hook in repository["hooks"]]
    recipe = re.search(r"^lint: .*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert recipe is not None
    linters = re.findall(r"\$\(run\) (\w+)", recipe[1])
    assert called == linters
    assert all(hook["language"] == "system" for hook in repository["hooks"])
