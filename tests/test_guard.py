"""Reading contracts of strangers: limits, characters, and syntax errors in people's words."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from pytest_gates.contract.guard import MAX_BYTES, MAX_FINDINGS, read_contract_text
from pytest_gates.contract.nodes import parse_document
from pytest_gates.errors import ContractError

BOMB = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [{', '.join(f'*{old}' for _ in range(9))}]}}\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def refused(text: str) -> str:
    with pytest.raises(ContractError) as caught:
        parse_document(text, "c.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("[" * 100_000, "1:33: nested deeper than 32 levels", id="flow-lists"),
        pytest.param("{a: " * 100_000, "1:129: nested deeper than 32 levels", id="flow-maps"),
        pytest.param("- " * 100_000, "1:65: nested deeper than 32 levels", id="block-lists"),
        pytest.param("? " * 100_000, "1:65: nested deeper than 32 levels", id="explicit-keys"),
        pytest.param("a: [" + "1," * 60_000 + "]", "more than 50,000 parse events", id="events"),
        pytest.param("a: " + "9" * 5_000, "1:4: a number of 5,000 characters", id="digits"),
        pytest.param("a: 1" + ":1" * 300_000, "1:4: a number of 600,001 char", id="sexagesimal"),
        pytest.param("a: x" * MAX_BYTES, "larger than 1,048,576 bytes", id="bytes"),
        pytest.param(BOMB, "anchor `&a`: anchors are refused; runs inherit", id="merge-bomb"),
    ],
)
def test_hostile_text_is_refused_quickly(text: str, message: str) -> None:
    begun = time.thread_time()
    assert message in refused(text)
    assert time.thread_time() - begun < 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: *x", "c.yaml:1:4: alias `*x`: aliases are refused"),
        ("a: &x 1", "c.yaml:1:4: anchor `&x`: anchors are refused"),
        ("a: &x [1]", "c.yaml:1:4: anchor `&x`: anchors are refused"),
        ("a: !!python/object:os.system x", "c.yaml:1:4: tag `tag:yaml.org,2002:python/object:os."),
        ("a: !x {}", "c.yaml:1:4: tag `!x`: tags are refused"),
        ("a:\n  <<: {b: 1}", "c.yaml:2:3: merge key `<<`: refused"),
        ("a: 1\n---\nb: 2", "c.yaml:2:1: a second document; a contract is one"),
        ("a: 1\n'a': 2", "c.yaml:2:1: duplicate key `a`, first on line 1"),
        ("1: a\ntrue: b", "c.yaml:2:1: duplicate key `true`, first on line 1"),
        ("? [a]\n: b", "c.yaml:1:3: a key must be a single word or text"),
        ("", "c.yaml:1:1: empty"),
        ("# only a comment\n", "c.yaml:1:1: empty"),
        ("→: ok\nb: \x1b[31m", "c.yaml:2:4: character U+001B is not allowed"),
        ("a: x\u2028b: 1", "c.yaml:1:5: character U+2028 is not allowed"),
        ("a: \ud800", "c.yaml:1:4: character U+D800 is not allowed"),
        ('a: "\\e[31m"', "c.yaml:1:4: a control character, written as an escape"),
        ("a: 1\rb: 2", "c.yaml:1:5: a carriage return without a line feed"),
        ("a: 0x_", "c.yaml:1:4: `0x_` looks like a number but is none; quote it"),
    ],
)
def test_what_no_contract_needs_is_refused_with_its_place(text: str, message: str) -> None:
    assert message in refused(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a:\n\tb: 1", "2:1: not YAML: a tab in the indentation; YAML indents with spaces only"),
        (
            "a: 1\n<<<<<<< HEAD\nb: 1\n=======\nb: 2\n>>>>>>> other\n",
            "2:1: a merge left its conflict here; resolve it",
        ),
        ("a: b: c", "1:5: not YAML: a second `: ` in one value; quote the value"),
        ("a: @x", "1:4: not YAML: `@` cannot begin a value; quote the value"),
        ("a: 'x\nb: 1\n", "3:1: not YAML: a quote that is never closed (begun on line 1)"),
        ("a:\n  - b\n c: d", "3:2: not YAML: the indentation does not fit the lines above"),
        ("a: [1,\nb: 2\n", "3:1: not YAML: a bracket that is not closed"),
        ('a: "\\q"', "1:5: not YAML: an unknown escape"),
    ],
)
def test_syntax_errors_are_one_short_line(text: str, message: str) -> None:
    told = refused(text)
    assert told.startswith(f"c.yaml:{message}")
    assert "\n" not in told


def test_all_findings_come_at_once_and_in_order() -> None:
    told = refused("a: &x 1\nb: *x\na: !t 2\n").splitlines()
    assert [line.split(":", 3)[1] for line in told] == ["1", "2", "3", "3"]


def test_a_hostile_file_cannot_make_us_print_much() -> None:
    told = refused("a: [" + "&a 1, " * 9_000 + "]").splitlines()
    assert len(told) == MAX_FINDINGS


def test_byte_order_mark_is_stripped_and_line_ends_stay(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: \xe2\x86\x92\r\n")
    assert read_contract_text(path, "c.yaml") == "a: 1\r\nb: →\r\n"


def test_what_is_not_utf8_is_named_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes("a: 1\n→: ".encode() + b"\xff\n")
    with pytest.raises(ContractError, match=r"^c\.yaml:2:4: not UTF-8 \(byte 0xff\)$"):
        read_contract_text(path, "c.yaml")


def test_files_that_cannot_be_contracts(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ContractError, match="larger than 1,048,576 bytes"):
        read_contract_text(large, "large.yaml")
    endless = tmp_path / "endless.yaml"
    endless.symlink_to("/dev/zero")
    with pytest.raises(ContractError, match="not a regular file"):
        read_contract_text(endless, "endless.yaml")
    with pytest.raises(ContractError, match="no such file"):
        read_contract_text(tmp_path / "none.yaml", "none.yaml")
