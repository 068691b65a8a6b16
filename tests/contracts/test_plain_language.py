"""Check how docstrings and assignments are written; ``docs/contributing.md`` has the rules."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [*sorted((ROOT / "src").rglob("*.py")), ROOT / "run.py", *sorted((ROOT / "benchmarks").glob("*.py"))]
MOST_WORDS, MEAN_WORDS, MOST_PACKED = 15, 9.0, 0.02
# Words that no docstring begins with: it says what happens, by a verb ("Return", "Draw", "Refuse").
NO_VERBS = {
    "a", "an", "the", "what", "that", "those", "these", "this", "which", "who", "whose", "where", "when",
    "whether", "how", "why", "of", "in", "on", "at", "by", "for", "from", "to", "with", "without", "within", "as",
    "it", "its", "they", "them", "one", "some", "any", "all", "each", "every", "no", "not", "none", "and", "or",
    "but", "if", "also", "only", "random", "mean", "several", "images", "weights", "methods", "classes",
    "figures", "pictures", "tables", "files", "errors", "checkpoints", "engines", "networks", "augmentations",
}  # fmt: skip
PHRASES = re.compile(r"\b(those of|what it|as they are|as it is|where there is none|where there are none)\b", re.I)


def docstrings():
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    name = getattr(node, "name", "(module)")
                    yield f"{file.relative_to(ROOT)}:{getattr(node, 'lineno', 1)} {name}", name, text


DOCSTRINGS = list(docstrings())


def public(name: str) -> bool:
    return not name.startswith("_") or name == "(module)"


def first_line(text: str) -> str:
    return text.split("\n")[0]


def test_first_lines_are_short():
    lengths = [len(first_line(text).split()) for _, _, text in DOCSTRINGS]
    long = [
        f"{where}: {count} words"
        for (where, _, _), count in zip(DOCSTRINGS, lengths, strict=True)
        if count > MOST_WORDS
    ]
    assert not long, "\n".join(long)
    assert sum(lengths) / len(lengths) <= MEAN_WORDS


def test_first_lines_begin_with_a_verb():
    wrong = []
    for where, name, text in DOCSTRINGS:
        word = first_line(text).split()[0]
        if public(name) and (word.lower().rstrip(",.:") in NO_VERBS or not word[0].isupper()):
            wrong.append(f"{where}: {first_line(text)}")
    assert not wrong, "\n".join(wrong)


def test_no_pronouns_stand_for_nouns():
    wrong = [f"{where}: {found[0]!r}" for where, _, text in DOCSTRINGS if (found := PHRASES.search(text))]
    assert not wrong, "\n".join(wrong)


def test_one_assignment_a_line():
    packed, total = [], 0
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign):
                total += 1
                if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
                    packed.append(f"{file.relative_to(ROOT)}:{node.lineno}")
    assert len(packed) / total <= MOST_PACKED, "\n".join(packed)


@pytest.mark.parametrize("file", ["README.md"])
def test_the_readme_is_short(file):
    assert len((ROOT / file).read_text(encoding="utf-8").splitlines()) <= 130
