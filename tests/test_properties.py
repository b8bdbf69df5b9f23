"""Searches for counterexamples: found, shrunk, counted, and silent where a property holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import strategies
from pydantic import TypeAdapter
from torch import Tensor

from pytest_gates.model.config import (
    Causality,
    DeviceGrammarProperty,
    ModelProperty,
    RuleProperty,
)
from pytest_gates.model.device import DeviceRequest, parse_device
from pytest_gates.model.properties.of_models import OF_A_MODEL, causality
from pytest_gates.model.properties.of_paths import OF_A_PATH
from pytest_gates.model.properties.of_rules import OF_THE_RULES, device_grammar
from pytest_gates.model.properties.search import Search, search
from pytest_gates.properties import OF_JUDGING

GRAMMAR = DeviceGrammarProperty(name="device_grammar", examples=120)


def test_the_smallest_counterexample_is_kept() -> None:
    def too_large(numbers: list[int]) -> dict[str, object] | None:
        return {"numbers": numbers} if sum(numbers) > 1000 else None

    sought = Search((strategies.lists(strategies.integers()),), too_large, 300)
    assert search("sum", sought).counterexample == {"numbers": [1001]}


def test_examples_count_the_search_and_not_the_shrinking() -> None:
    tried: list[int] = []

    def from_thirty(number: int) -> dict[str, object] | None:
        tried.append(number)
        return {"number": number} if len(set(tried)) >= 30 else None

    outcome = search("late", Search((strategies.integers(),), from_thirty, 300))
    first = next(n for n in range(1, len(tried) + 1) if len(set(tried[:n])) == 30)
    assert outcome.examples == first < len(tried)


def test_a_finite_space_is_searched_whole_and_spaces_add_up() -> None:
    seen: set[int] = set()
    spaces = (strategies.sampled_from(range(7)), strategies.sampled_from(range(10, 15)))
    outcome = search("finite", Search(spaces, seen.add, 100))
    assert (outcome.examples, outcome.counterexample) == (12, None)
    assert seen == {*range(7), *range(10, 15)}


def test_a_failure_that_does_not_repeat_is_reported_as_such() -> None:
    calls = 0

    def once(number: int) -> dict[str, object] | None:
        nonlocal calls
        calls += 1
        return {"number": number} if calls == 5 else None

    outcome = search("flaky", Search((strategies.integers(),), once, 50))
    assert outcome.examples == 5
    assert outcome.counterexample is not None
    assert outcome.counterexample["reproduced"] is False


def test_two_searches_try_the_same_cases_and_leave_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[list[str]] = [[], []]
    for cases in seen:
        search("text", Search((strategies.text(),), lambda case, to=cases: to.append(case), 40))
    assert seen[0] == seen[1]
    assert list(tmp_path.iterdir()) == []


def test_the_device_grammar_holds_and_all_of_the_language_is_tried() -> None:
    tried: list[str] = []

    def parse(name: str) -> DeviceRequest:
        tried.append(name)
        return parse_device(name)

    outcome = search("device_grammar", device_grammar(GRAMMAR, parse))
    assert outcome.counterexample is None
    assert outcome.examples == len(tried) > GRAMMAR.examples
    assert {"cpu", "auto", "cuda", *(f"cuda:{n}" for n in range(16))} <= set(tried)
    near = {"", "cuda\n", " cpu", "CUDA:0", "cuda:\u0663", "cuda:16", "cuda:01", "cuda:-1"}
    assert near <= set(tried)


def _without_index(name: str) -> DeviceRequest:
    return DeviceRequest(parse_device(name).kind)


@pytest.mark.parametrize(
    ("parse", "found"),
    [
        pytest.param(
            lambda name: parse_device(name.removesuffix("\n")),
            {"name": "cpu\n", "parsed": "cpu", "expected": "refused"},
            id="final newline",
        ),
        pytest.param(
            lambda name: parse_device(name.lower()),
            {"name": "CPU", "parsed": "cpu", "expected": "refused"},
            id="case",
        ),
        pytest.param(
            lambda name: parse_device(name.replace("\u0663", "3")),
            {"name": "cuda:\u0663", "parsed": "cuda:3", "expected": "refused"},
            id="unicode digits",
        ),
        pytest.param(
            lambda name: parse_device("cuda:1" if name == "cuda:15" else name),
            {"name": "cuda:15", "parsed": "cuda:1", "expected": "cuda:15"},
            id="another index",
        ),
        pytest.param(
            _without_index,
            {"name": "cuda:1", "parsed": "cuda:0", "expected": "cuda:1"},
            id="index dropped",
        ),
        pytest.param(
            lambda name: parse_device("no device" if name == "auto" else name),
            {"name": "auto", "parsed": "refused", "expected": "auto"},
            id="a word refused",
        ),
    ],
)
def test_a_broken_parser_is_found(
    parse: Callable[[str], DeviceRequest], found: dict[str, str]
) -> None:
    assert search("device_grammar", device_grammar(GRAMMAR, parse)).counterexample == found


def _running_sum(tokens: list[int]) -> Tensor:
    return torch.tensor(tokens, dtype=torch.float32).cumsum(0).unsqueeze(1).expand(-1, 3)


def _causality(
    logits: Callable[[list[int]], Tensor], atol: float = 0.0
) -> dict[str, object] | None:
    declared = Causality(name="causality", examples=60, length=12, atol=atol)
    return search("causality", causality(declared, logits, 50)).counterexample


def test_a_causal_function_has_no_counterexample() -> None:
    assert _causality(_running_sum) is None


def test_a_leak_of_one_token_ahead_is_shrunk_to_two_tokens() -> None:
    def leaks(tokens: list[int]) -> Tensor:
        return _running_sum([*tokens[1:], 0])

    assert _causality(leaks) == {
        "tokens": [0, 0],
        "position": 0,
        "tokens_after": [1],
        "changed_positions": [0],
        "largest_difference": 1.0,
        "atol": 0.0,
    }


def test_a_leak_that_starts_late_is_found() -> None:
    """Only sequences of ten tokens or more leak: short ones alone would miss it."""

    def leaks(tokens: list[int]) -> Tensor:
        return _running_sum(tokens) + (tokens[-1] if len(tokens) >= 10 else 0)

    found = _causality(leaks)
    assert found is not None
    assert found["tokens"] == [0] * 10


def test_the_tolerance_decides_what_counts_as_unchanged() -> None:
    def drifts(tokens: list[int]) -> Tensor:
        return _running_sum(tokens) + 1e-3 * tokens[-1]

    assert _causality(drifts, atol=0.1) is None
    assert _causality(drifts, atol=1e-5) is not None


def test_nan_shows_nothing_and_equal_infinities_are_unchanged() -> None:
    found = _causality(lambda tokens: _running_sum(tokens) * torch.nan)
    assert found is not None
    assert found["largest_difference"] == "NaN"
    assert _causality(lambda tokens: torch.full((len(tokens), 3), -torch.inf)) is None


def test_every_declared_property_is_registered() -> None:
    assert set(OF_A_MODEL) | set(OF_A_PATH) == _names(ModelProperty)
    assert set(OF_THE_RULES) | set(OF_JUDGING) == _names(RuleProperty)


def _names(union: object) -> set[str]:
    schema = TypeAdapter(union).json_schema()
    return set(schema["discriminator"]["mapping"])
