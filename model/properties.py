"""Properties: claims over a whole space of inputs, searched for a shrunk counterexample.

A property is one function that returns a `Search`, registered at the end of this file. The search
runs in the process of the run; hypothesis draws the cases and shrinks what failed. This module
imports hypothesis, so only a run that declares a property imports it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

import hypothesis
from hypothesis import strategies
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.errors import Flaky, NoSuchExample

from pytest_gates.model import device, path_properties
from pytest_gates.model.config import Causality, DeviceGrammarProperty
from pytest_gates.model.device import DeviceRequest
from pytest_gates.model.telemetry import encode_number

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy
    from torch import Tensor

Case = TypeVar("Case")
Counterexample = dict[str, Any]
"""A failing case as JSON: what was fed, and what came out against what was expected."""


@dataclass(frozen=True)
class Search(Generic[Case]):
    """A space of cases and the question asked of each."""

    spaces: tuple[SearchStrategy[Case], ...]
    """Searched one after the other, `examples` cases each; a smaller space is searched whole."""
    violation: Callable[[Case], Counterexample | None]
    """The counterexample that a case is, or None where the property holds."""
    examples: int


@dataclass(frozen=True)
class Outcome:
    """What a search came to; the fields of a telemetry line of kind `property`."""

    name: str
    examples: int
    """Cases tried, up to and with the first that failed; shrinking is not counted."""
    counterexample: Counterexample | None
    """The smallest that failed, or None. `"reproduced": false` in it says that the same case
    held when tried again: what was seen counts, and so does that it cannot be repeated."""


def search(name: str, sought: Search[Any]) -> Outcome:
    """Search the spaces in order, up to the first that holds a counterexample."""
    tried = 0
    failed: list[Counterexample] = []

    def violates(case: object) -> bool:
        nonlocal tried
        tried += not failed
        found = sought.violation(case)
        if found is not None:
            failed.append(found)
        return found is not None

    for space in sought.spaces:
        try:
            with _private_storage():
                hypothesis.find(space, violates, settings=_settings(sought.examples))
        except NoSuchExample:
            continue
        except Flaky:
            return Outcome(name, tried, failed[-1] | {"reproduced": False})
        # hypothesis runs the smallest case last.
        return Outcome(name, tried, failed[-1])
    return Outcome(name, tried, None)


def _settings(examples: int) -> hypothesis.settings:
    # The same cases each time, from no database, under no clock: a verdict must not depend on
    # what an earlier run found or on how busy the machine is. `find` mutes the health checks.
    return hypothesis.settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=examples,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
    )


@contextmanager
def _private_storage() -> Iterator[None]:
    # hypothesis caches under ./.hypothesis even without a database; a run leaves nothing there.
    with tempfile.TemporaryDirectory(prefix="pytest-gates-") as folder:
        set_hypothesis_home_dir(Path(folder))
        try:
            yield
        finally:
            set_hypothesis_home_dir(None)


Logits: TypeAlias = "Callable[[Sequence[int]], Tensor]"
"""A model under search: one sequence of T tokens -> logits of shape (T, vocabulary)."""


@dataclass(frozen=True)
class _Altered:
    """A sequence, and other tokens for what comes after `position`."""

    tokens: list[int]
    position: int
    after: list[int]


def causality(declared: Causality, logits: Logits, vocabulary: int) -> Search[_Altered]:
    """Tokens after position j never change the logits up to and with j.

    Both sequences have one length and are fed alone, so that the same kernels run over the same
    shapes and unchanged means bit for bit with `atol: 0`. A NaN is never unchanged: a model
    whose logits are NaN shows nothing about causality.
    """

    def violation(case: _Altered) -> Counterexample | None:
        known = case.position + 1
        before = logits(case.tokens)[:known]
        after = logits([*case.tokens[:known], *case.after])[:known]
        distance = (before - after).abs()
        changed = ~((before == after) | (distance <= declared.atol))
        if not bool(changed.any()):
            return None
        return {
            "tokens": case.tokens,
            "position": case.position,
            "tokens_after": case.after,
            "changed_positions": changed.any(dim=-1).nonzero().flatten().tolist(),
            "largest_difference": encode_number(float(distance[changed].max())),
            "atol": declared.atol,
        }

    return Search((_altered(vocabulary, declared.length),), violation, declared.examples)


def _altered(vocabulary: int, longest: int) -> SearchStrategy[_Altered]:
    token = strategies.integers(0, vocabulary - 1)

    @strategies.composite
    def draw_altered(draw: DrawFn) -> _Altered:
        # The length comes first: lists of free length would hardly ever be long.
        length = draw(strategies.integers(2, longest))
        tokens = draw(strategies.lists(token, min_size=length, max_size=length))
        position = draw(strategies.integers(0, length - 2))
        rest = length - position - 1
        after = draw(strategies.lists(token, min_size=rest, max_size=rest))
        hypothesis.assume(after != tokens[position + 1 :])
        return _Altered(tokens, position, after)

    return draw_altered()


_LANGUAGE: dict[str, DeviceRequest] = {
    "cpu": DeviceRequest("cpu"),
    "auto": DeviceRequest("auto"),
    "cuda": DeviceRequest("cuda", 0),
    **{f"cuda:{index}": DeviceRequest("cuda", index) for index in range(16)},
}
"""The whole language, written out: the oracle shares nothing with the parser's pattern."""

_NEAR_MISSES = (
    *("", " ", "\n", "\0", ":", "0", "cpu:0", "auto:0", "cuda:", "cuda0", "cuda::0", "cuda:0:0"),
    *("cpu\n", "cuda\n", "cuda:0\n", "auto\n", "cuda:15\n", "cuda\r", "\ncuda", "cuda\0"),
    *(" cpu", "cpu ", " cuda:0", "cuda:0 ", "cuda: 0", "cuda :0", "cuda:\t0", "cuda\u00a0"),
    *("CPU", "Cuda", "CUDA:0", "AUTO", "cUda:1", "\uff43uda", "cud\u0430", "cuda\u200b"),
    *("cuda:16", "cuda:99", "cuda:150", "cuda:00", "cuda:01", "cuda:015", "cuda:1_5"),
    *("cuda:-1", "cuda:+1", "cuda:1.0", "cuda:1e0", "cuda:0x1", "cuda:None"),
    *("cuda:\u0663", "cuda:\uff11", "cuda:\u00b2", "cuda:1\u0665", "cuda\uff1a0"),
    *("cpu,cuda", "cpucuda", "cpu|auto", "gpu", "mps", "xpu", "hip:0", "meta"),
)


def device_grammar(
    declared: DeviceGrammarProperty, parse: Callable[[str], DeviceRequest] | None = None
) -> Search[str]:
    """The device parser accepts exactly `cpu|cuda(:[0-9]|:1[0-5])?|auto`, and reads it rightly.

    Three spaces: the language itself, near-misses that real parsers have let through, and
    edited words among arbitrary text. `parse` is `device.parse_device` unless given; what it
    refuses, it refuses by ValueError.
    """
    parser = parse or device.parse_device

    def violation(name: str) -> Counterexample | None:
        expected = _LANGUAGE.get(name)
        try:
            became: DeviceRequest | None = parser(name)
        except ValueError:
            became = None
        if became == expected:
            return None
        return {"name": name, "parsed": _plain(became), "expected": _plain(expected)}

    spaces = (
        strategies.sampled_from(sorted(_LANGUAGE)),
        strategies.sampled_from(_NEAR_MISSES),
        strategies.text(max_size=12) | _edited(),
    )
    return Search(spaces, violation, declared.examples)


def _plain(request: DeviceRequest | None) -> str:
    if request is None:
        return "refused"
    return f"{request.kind}:{request.index}" if request.kind == "cuda" else request.kind


def _edited() -> SearchStrategy[str]:
    """Words of the language with a few characters put in place of others."""
    odd = (
        strategies.sampled_from("cpudatoCPUDATO:0123456789 \n\t\r-+_.\u0663\uff11\u00b2")
        | strategies.characters()
    )

    @strategies.composite
    def draw_edited(draw: DrawFn) -> str:
        name = draw(strategies.sampled_from(sorted(_LANGUAGE)))
        for _ in range(draw(strategies.integers(1, 3))):
            start = draw(strategies.integers(0, len(name)))
            stop = draw(strategies.integers(start, min(start + 2, len(name))))
            name = name[:start] + draw(strategies.text(odd, max_size=2)) + name[stop:]
        return name

    return draw_edited()


def _of_a_path(made: Callable[[Any, Any], Any]) -> Callable[[Any, Any, int], Search[Any]]:
    def search_for(declared: Any, path: Any, _vocabulary: int) -> Search[Any]:
        space, violation = made(declared, path)
        return Search((space,), violation, declared.examples)

    return search_for


OF_A_MODEL: dict[str, Callable[[Any, Any, int], Search[Any]]] = {
    "causality": causality,
    "decode_equals_prefill": _of_a_path(path_properties.decode_equals_prefill),
    "position_shift": _of_a_path(path_properties.position_shift),
    "padding": _of_a_path(path_properties.padding),
}
"""Properties of a model, by name: (declared, path, vocabulary) -> what to search."""

OF_THE_RULES: dict[str, Callable[[Any], Search[Any]]] = {"device_grammar": device_grammar}
"""Properties of the program's own rules, by name: declared -> what to search."""
