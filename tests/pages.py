"""Read the pages that people read: README.md and docs/."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONTRIBUTING = ROOT / "docs" / "contributing.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@dataclass(frozen=True)
class Block:
    """Hold one fenced block of a page.

    Attributes:
        language: the word after the fence.
        title: the file that the block says it belongs to, if any.
        text: its lines, without the fences.
    """

    language: str
    title: str
    text: str


def text_of(page: Path) -> str:
    """Return a page's text."""
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str = "") -> list[Block]:
    """Return the fenced blocks of ``page``, all or of one language."""
    found = re.findall(r'^```(\w+)(?: title="([^"]*)")?\n(.*?)^```$', text_of(page), re.MULTILINE | re.DOTALL)
    return [Block(*parts) for parts in found if language in ("", parts[0])]


def table(page: Path, header: str) -> list[list[str]]:
    """Return the rows below the table row that begins with ``header``, a list of cells each."""
    below = text_of(page).split(f"\n{header}", 1)[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in below]


def links(page: Path) -> list[str]:
    """Return the targets of the links and images of ``page`` that are files, without anchors."""
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text_of(page))
    return [target for target in targets if "://" not in target]
