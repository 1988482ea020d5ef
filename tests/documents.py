"""The Markdown files of the project, as the tests read them: blocks, links, anchors.

A comment on the line before a fenced block says how a test treats it:

``<!-- not run: REASON -->``
    a command or a program that the tests do not run, and why
``<!-- exits CODE: TEXT -->``
    a command that ends with this exit code and says this
``<!-- file: PATH -->``
    a file, which is there before anything runs
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
MARKER = re.compile(r"<!-- (not run|exits \d+|file): (.+) -->")


def documents() -> list[Path]:
    """The README first, then the pages in docs/ and what lies beside the README."""
    pages = sorted(DOCS.rglob("*.md"))
    return [README, *pages, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    file: Path
    line: int
    """Of its fence, from 1."""
    language: str
    text: str
    marker: str | None
    """The kind of the comment before it, such as ``not run``."""
    detail: str
    """What that comment says after its kind."""

    @property
    def place(self) -> str:
        """Where it is, for messages and names of tests."""
        return f"{self.file.relative_to(ROOT)}:{self.line}"


def blocks(file: Path) -> Iterator[Block]:
    """The fenced blocks of a file, in order."""
    lines = file.read_text(encoding="utf-8").splitlines()
    start = None
    for place, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = place
            continue
        before = MARKER.fullmatch(lines[start - 1].strip()) if start else None
        yield Block(
            file,
            start + 1,
            lines[start].removeprefix("```").strip(),
            "\n".join(lines[start + 1 : place]) + "\n",
            before[1] if before else None,
            before[2] if before else "",
        )
        start = None
    assert start is None, f"{file}:{start}: a block without its end"


def all_blocks(*languages: str) -> list[Block]:
    """The blocks of all documents that are in one of these languages."""
    return [
        block
        for file in documents()
        for block in blocks(file)
        if block.language in languages
    ]


def commands(block: Block) -> list[str]:
    """The lines of a block of commands, continued ones joined, comments left out."""
    lines = block.text.replace("\\\n", " ").splitlines()
    found = [re.split(r"(?:^|\s\s)# ", line)[0].strip() for line in lines]
    return [" ".join(line.split()) for line in found if line]


def prose(file: Path) -> str:
    """A document without its blocks and inline code."""
    text = re.sub(r"^```.*?^```$", "", file.read_text("utf-8"), flags=re.M | re.S)
    return re.sub(r"`[^`\n]+`", "", text)


def links(file: Path) -> list[str]:
    """What a document's links and pictures lead to."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(file))


def anchors(file: Path) -> set[str]:
    """The names that links to a document's headings use, as GitHub and MkDocs do."""
    text = re.sub(r"^```.*?^```$", "", file.read_text("utf-8"), flags=re.M | re.S)
    found = re.findall(r"^#+ +(.+?) *$", text, flags=re.M)
    return {slug(title) for title in found}


def slug(title: str) -> str:
    """The anchor of a heading."""
    kept = re.sub(r"[^\w\s-]", "", title.replace("`", "")).strip().lower()
    return re.sub(r"[\s]+", "-", kept)
