"""Nodes: positions in the text, and the meaning of scalars in YAML 1.1."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pytest_gates.contract.nodes import (
    Mapping,
    Scalar,
    Sequence,
    node_at,
    parse_document,
    place,
    surprise,
    to_data,
)
from pytest_gates.errors import ContractError

FIELD = Path(__file__).parent.parent.parent / "shared" / "field" / "contracts"
TEXT = """\
# ── boxes → and arrows 🙂
gates:
- id: 'G-1'   # trailing
  rule: |
    prose

  below: {NVIDIA H200: 60, "x": [1, 2]}

# tail
empty:
last: "→é"
"""


class Reference(yaml.SafeLoader):
    """SafeLoader, but timestamps, `=` and `<<` as values stay strings."""


Reference.yaml_implicit_resolvers = {
    first: [
        (tag, expression)
        for tag, expression in resolvers
        if tag.rpartition(":")[2] not in {"timestamp", "value", "merge"}
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def scalar(text: str) -> Scalar:
    node = parse_document(f"a: {text}\n", "c.yaml")
    assert isinstance(node, Mapping)
    value = node.get("a")
    assert isinstance(value, Scalar)
    return value


def walk(node: Any) -> list[Any]:
    below: list[Any] = []
    if isinstance(node, Mapping):
        below = [part for entry in node.entries for part in entry]
    elif isinstance(node, Sequence):
        below = list(node.items)
    return [node, *(found for part in below for found in walk(part))]


def test_offsets_lines_and_columns_are_those_of_the_text() -> None:
    root = parse_document(TEXT, "c.yaml")
    for node in walk(root):
        line_start = TEXT.rfind("\n", 0, node.start) + 1
        assert node.line == TEXT.count("\n", 0, node.start) + 1
        assert node.column == node.start - line_start + 1
    spelt = {node.value: TEXT[node.start : node.end] for node in walk(root) if not walk(node)[1:]}
    assert spelt["G-1"] == "'G-1'"
    assert spelt["prose\n"] == "|\n    prose"
    assert spelt[""] == ""
    assert spelt["→é"] == '"→é"'
    flow = node_at(root, ("gates", 0, "below"))
    assert isinstance(flow, Mapping)
    assert flow.flow
    assert TEXT[flow.start : flow.end] == '{NVIDIA H200: 60, "x": [1, 2]}'


def test_a_block_ends_with_its_last_value_not_with_the_comments_behind_it() -> None:
    gates = node_at(parse_document(TEXT, "c.yaml"), ("gates",))
    assert isinstance(gates, Sequence)
    assert TEXT[gates.start] == "-"
    assert TEXT[: gates.end].endswith('"x": [1, 2]}')


@pytest.mark.parametrize(
    ("path", "line", "column"),
    [
        ((), 2, 1),
        (("gates", 0, "id"), 3, 7),
        (("gates", 0, "a-union's-tag", "below", "x", 1), 7, 37),
        (("gates", 0, "missing"), 3, 3),
        (("gates", 7, "id"), 3, 1),
        (("last", "deeper"), 11, 7),
    ],
)
def test_the_deepest_node_on_a_path(path: tuple[str | int, ...], line: int, column: int) -> None:
    at = place(node_at(parse_document(TEXT, "c.yaml"), path), "c.yaml")
    assert (at.line, at.column) == (line, column)


def test_the_key_on_a_path() -> None:
    root = parse_document(TEXT, "c.yaml")
    key = node_at(root, ("gates", 0, "below", "x"), key=True)
    assert TEXT[key.start : key.end] == '"x"'
    item = node_at(root, ("gates", 0), key=True)
    assert isinstance(item, Mapping)


NUMBERS = st.text(alphabet="0123456789.:_eE+-xXob", min_size=1, max_size=8)
WORDS = st.sampled_from(
    ["~", "null", "yes", "No", "on", "off", "true", "FALSE", "y", ".inf", "-.Inf", ".nan", "=",
     "2026-04-21", "2026-04-21 10:00:00", "1e-5", "NULL", "Null", "none"]
)  # fmt: skip


@given(st.lists(NUMBERS | WORDS, min_size=1, max_size=6))
def test_scalars_mean_what_they_mean_to_safeloader(words: list[str]) -> None:
    text = "".join(f"- k: {word}\n" for word in words)
    try:
        expected = yaml.load(text, Reference)  # noqa: S506 - a SafeLoader
    except (ValueError, OverflowError, yaml.YAMLError):
        with pytest.raises(ContractError):
            parse_document(text, "c.yaml")
        return
    assert repr(to_data(parse_document(text, "c.yaml"))) == repr(expected)


def test_quoted_and_block_scalars_are_strings() -> None:
    text = "a: '010'\nb: \"no\"\nc: |\n  1\nd: >-\n  1e3\n010: octal\n"
    data = to_data(parse_document(text, "c.yaml"))
    assert data == {"a": "010", "b": "no", "c": "1\n", "d": "1e3", 8: "octal"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("010", "`010` is octal in YAML 1.1 and means 8; write 8"),
        ("no", "`no` is the boolean false in YAML 1.1; write false"),
        ("On", "`On` is the boolean true in YAML 1.1; write true"),
        ("1e-5", "`1e-5` is a string in YAML 1.1; write 1.0e-5 for the number"),
        ("-.5e3", "`-.5e3` is a string in YAML 1.1; write -0.5e+3 for the number"),
        ("1:30", "`1:30` is a sexagesimal number in YAML 1.1 and means 90; write 90"),
        ("1_000", "`1_000` is a number with underscores in YAML 1.1 and means 1000"),
        ("0x1F", "`0x1F` is hexadecimal in YAML 1.1 and means 31; write 31"),
        ("0b11", "`0b11` is binary in YAML 1.1 and means 3; write 3"),
        ("0o17", "`0o17` is a string in YAML 1.1; write 15"),
        ("09", "`09` is a string in YAML 1.1; write 9"),
        ("1,000", "`1,000` is a string in YAML 1.1; write 1000"),
        ("-inf", "`-inf` is a string in YAML 1.1; write -.inf"),
    ],
)
def test_surprises_say_what_to_write(text: str, told: str) -> None:
    found = surprise(scalar(text))
    assert found is not None
    assert found.startswith(told)


@pytest.mark.parametrize(
    "text", ["0", "-5", "0.5", ".5", "1.0e-5", "true", "~", "abc", "2026-04-21", "1.6.0", "'010'"]
)
def test_what_is_as_it_looks_is_no_surprise(text: str) -> None:
    assert surprise(scalar(text)) is None


@given(NUMBERS)
def test_what_a_surprise_tells_to_write_means_the_same_and_surprises_nobody(text: str) -> None:
    try:
        node = scalar(text)
    except (ContractError, AssertionError):
        return
    told = surprise(node)
    if told is None:
        return
    write = (
        told.partition("write ")[2].removesuffix(", or quote it").removesuffix(" for the number")
    )
    assert surprise(scalar(write)) is None
    meant = to_data(scalar(write))
    assert isinstance(meant, int | float)
    assert isinstance(to_data(node), str) or to_data(node) == meant


def test_the_pure_parser_gives_the_same_nodes() -> None:
    program = (
        "import sys, yaml; del yaml.CBaseLoader\n"
        "from pytest_gates.contract.nodes import parse_document\n"
        "sys.stdout.reconfigure(encoding='utf-8')\n"
        "print(parse_document(sys.argv[1], 'c.yaml'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, TEXT], capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout == f"{parse_document(TEXT, 'c.yaml')}\n"


@pytest.mark.skipif(not FIELD.is_dir(), reason="no contracts of the field here")
def test_contracts_of_the_field_load_as_safeloader_loads_them() -> None:
    files = sorted(FIELD.glob("*.yaml"))
    assert files
    for path in files:
        text = path.read_text(encoding="utf-8")
        expected = yaml.load(text, Reference)  # noqa: S506 - a SafeLoader
        assert to_data(parse_document(text, path.name)) == expected
