from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import StrEnum

import orjson
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from pytest_gates.canonical import canonical, digest, parse_canonical, plain, text_digest

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
INTEGERS = st.integers(min_value=-(2**53) + 1, max_value=2**53 - 1)
SCALARS = st.none() | st.booleans() | INTEGERS | FLOATS | st.text(st.characters(codec="utf-8"))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=12,
)


def test_keys_are_sorted_and_numbers_short() -> None:
    assert canonical({"b": 1.0, "a": [1e-5, 1e21, 1e20, True, None, "é\n"]}) == (
        '{"a":[0.00001,1e+21,100000000000000000000,true,null,"é\\n"],"b":1}'.encode()
    )


def test_non_finite_numbers_have_names() -> None:
    assert canonical([math.nan, math.inf, -math.inf]) == b'["NaN","Infinity","-Infinity"]'


@pytest.mark.parametrize("value", [2**53, -(2**53), 10**400])
def test_integers_that_json_does_not_keep_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match="beyond 2\\^53"):
        canonical({"seed": value})


@pytest.mark.parametrize(("value", "message"), [({1: 2}, "no string"), ({1, 2}, "no JSON form")])
def test_what_json_lacks_is_refused(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        canonical(value)


def test_dataclasses_enums_and_tuples_become_plain() -> None:
    class Word(StrEnum):
        YES = "yes"

    @dataclass(frozen=True)
    class Pair:
        word: Word
        window: tuple[int, int]

    assert plain(Pair(Word.YES, (1, 2))) == {"word": "yes", "window": [1, 2]}
    assert type(plain(Word.YES)) is str


@given(VALUES)
def test_canonical_bytes_read_back_to_the_value(value: object) -> None:
    data = canonical(value)
    assert parse_canonical(data) == value
    assert canonical(parse_canonical(data)) == data


@given(VALUES)
def test_only_the_canonical_bytes_are_accepted(value: object) -> None:
    for spelled in (
        json.dumps(value, indent=1).encode(),
        json.dumps(value, separators=(",", ":")).encode(),
        json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=True).encode(),
        orjson.dumps(value),
        orjson.dumps(value, option=orjson.OPT_SORT_KEYS),
    ):
        if spelled == rfc8785.dumps(value):
            assert parse_canonical(spelled) == value
        else:
            with pytest.raises(ValueError, match="not canonical"):
                parse_canonical(spelled)


@pytest.mark.parametrize(
    "data",
    [b'{"a":"e5","b":1e-9}', b'{"a":1e+21}', b'{"a":0.30000000000000004,"b":-1.5e+300}',
     b'{"a":"\\"e5","b":[]}', b'{"a":9007199254740991}', b'{"a":100000000000000000000}',
     b'{"a":0.00001}', b'{"a":"1.0,","b":".0}"}',
     b'{"a":' * 300 + b"1" + b"}" * 300],
)  # fmt: skip
def test_bytes_that_are_canonical_are_read(data: bytes) -> None:
    assert canonical(parse_canonical(data)) == data


@pytest.mark.parametrize(
    "data",
    [b"5.0", b"1e-05", b"1e-5", b"1e16", b"[0,-1.5e300]", b'{"a":1e21}',
     b'{"a":1e16}', b'{"a":1e-5}', b'{"a":"e5","b":1.0}', b'{"a":"\\"","b":1e16}',
     b'{"a":9007199254740993}', b'{"a":1.00}', b'{"a":-0}', b'{"b":1,"a":2}',
     b"-0.0", b'{"a":1,"a":1}', b"NaN", b"1e999", b"", b'"\xff"', b'"\\ud800"',
     b"[" * 100_000, '{"\U0001f600":1,"\ue000":2}'.encode()[:-1] + b" }", "1".encode("utf-16"),
     '{"\ue000":1,"\U0001f600":2}'.encode()],
)  # fmt: skip
def test_bytes_that_are_not_canonical_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_canonical(data)


def test_digests_are_sha256_of_the_bytes() -> None:
    assert digest({}) == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert text_digest("{}") == digest({})
