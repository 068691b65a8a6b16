"""Add to the site what lies outside of docs/: recorded studies, benchmarks, methods and a reference of every package.

Pages link to these files by paths that hold in the repository (``../experiments/demo/README.md``); on the site the
same files stand beside the pages, without the ``../``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "fewshot"
STUDIES = sorted(file.parent.name for file in ROOT.glob("experiments/*/README.md"))
# Files that a study or a benchmark may link to.
LINKED = (".md", ".png", ".csv", ".txt", ".sh", ".py")


def packages() -> list[Path]:
    """Return every folder of the package, the package itself first."""
    return [PACKAGE, *sorted(file.parent for file in PACKAGE.glob("*/__init__.py"))]


def reference(package: Path) -> str:
    """Return the page of a package: a heading, then every module in it."""
    name = ".".join(package.relative_to(PACKAGE.parent).parts)
    modules = [f"{name}.{file.stem}" for file in sorted(package.glob("*.py")) if not file.stem.startswith("_")]
    blocks = [f"::: {module}\n" for module in modules]
    options = "    options:\n      members: false\n      show_root_heading: false\n"
    return f"# {name}\n\n::: {name}\n{options}\n" + "\n".join(blocks)


def other_methods(page: str) -> str:
    """Return a table of the methods that ``page`` has no row for: name, and first comment of the config."""
    files = sorted((ROOT / "conf" / "method").glob("*.yaml"))
    rows = []
    for file in files:
        if f"| `{file.stem}` |" not in page:
            first = file.read_text(encoding="utf-8").splitlines()[0]
            rows.append(f"| `{file.stem}` | {first.removeprefix('# ') if first.startswith('# ') else ''} |")
    return "\n".join(["", "## Others", "", "| method | |", "|---|---|", *rows, ""]) if rows else ""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the studies and the reference to the navigation."""
    studies = [f"experiments/{name}/README.md" for name in STUDIES]
    pages = [f"reference/{package.name}.md" for package in packages()]
    assert config.nav is not None
    config.nav += [{"Measured": [*studies, "benchmarks/README.md"]}, {"Reference": pages}, {"Changes": "CHANGELOG.md"}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the studies, the benchmarks, the list of changes and the reference."""
    from mkdocs.structure.files import File

    outside = [*ROOT.glob("experiments/*/*"), *ROOT.glob("benchmarks/*"), ROOT / "CHANGELOG.md"]
    for file in sorted(file for file in outside if file.suffix in LINKED):
        files.append(File.generated(config, str(file.relative_to(ROOT)), abs_src_path=str(file)))
    for package in packages():
        files.append(File.generated(config, f"reference/{package.name}.md", content=reference(package)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links of docs/ to files outside of docs/, and add the methods that no row names yet."""
    if page.file.src_uri == "methods.md":
        page.meta["hide"] = ["toc"]  # room for the wide table
        markdown += other_methods(markdown)
    return re.sub(r"\]\(\.\./(?=experiments/|benchmarks/|CHANGELOG)", "](", markdown)
