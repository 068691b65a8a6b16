"""Check that no two uses of a key read the same random numbers."""

import ast
from enum import IntEnum
from pathlib import Path

import pytest

import fewshot
from fewshot import streams
from fewshot.streams import EpisodeStream, FixedSeed, TaskStream, ViewStream

SOURCE = Path(fewshot.__file__).parent
ENUMS = (EpisodeStream, TaskStream, ViewStream, FixedSeed)
CALLS = ("bits", "key", "normal", "uniform")


@pytest.mark.parametrize("enum", ENUMS)
def test_no_two_streams_of_a_key_are_the_same(enum):
    values = [member.value for member in enum.__members__.values()]  # aliases too
    assert len(values) == len(set(values))


def test_every_enum_of_the_file_is_checked():
    found = [
        value for value in vars(streams).values()
        if isinstance(value, type) and issubclass(value, IntEnum) and value is not IntEnum
    ]  # fmt: skip
    assert found == list(ENUMS)


def test_streams_keep_their_values():
    """Another value would change every result that was ever reported."""
    assert [list(map(int, enum)) for enum in ENUMS] == [
        [*range(14), 32, 33, 34], [0, 1, 2, 3, 4, 5, 16], [0, 1], [1, 2, 3, 0x1ABE1]
    ]  # fmt: skip


def bare_numbers(code: str) -> list[int]:
    """Return the lines where ``rng`` receives a number, or a name of the file for a number."""
    tree = ast.parse(code)
    constants = set()
    for statement in tree.body:
        if isinstance(statement, ast.Assign):
            names = [name.id for target in statement.targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            numbers = any(isinstance(node, ast.Constant) and type(node.value) is int for node in ast.walk(statement))
            constants |= set(names) if numbers else set()
    return [
        call.lineno for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in CALLS
        and isinstance(call.func.value, ast.Name) and call.func.value.id == "rng"
        and any(
            (isinstance(given, ast.Constant) and type(given.value) is int)
            or (isinstance(given, ast.Name) and given.id in constants)
            for given in call.args
        )
    ]  # fmt: skip


def test_no_file_keeps_a_stream_of_its_own():
    found = {str(file.relative_to(SOURCE)): bare_numbers(file.read_text()) for file in SOURCE.rglob("*.py")}
    assert len(found) > 50
    assert not {file: lines for file, lines in found.items() if lines}


@pytest.mark.parametrize("code", ["rng.bits(key, 7)", "_A, _B = range(2)\nrng.uniform(key, _B)", "rng.key(0)"])
def test_a_number_in_place_of_a_stream_is_found(code):
    assert bare_numbers(code)
    assert not bare_numbers("rng.bits(key, TaskStream.INNER_FAKES, place)")
