"""Properties of a path that need more than logits of one sequence: cache, positions, padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from hypothesis import strategies
from torch import Tensor

from pytest_gates.model.attention import Cache
from pytest_gates.model.properties.of_models import within
from pytest_gates.model.properties.search import Search
from pytest_gates.model.searches import DecodeEqualsPrefill, Padding, PositionShift
from pytest_gates.model.telemetry import encode_number

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

    from pytest_gates.model.forward import ForwardPath

Case = tuple[list[int], int]
"""Tokens, and a number that the property gives a meaning."""
Found = dict[str, Any] | None


def _cases(vocabulary: int, longest: int, most: int) -> SearchStrategy[Case]:
    token = strategies.integers(0, vocabulary - 1)
    tokens = strategies.integers(2, longest).flatmap(
        lambda length: strategies.lists(token, min_size=length, max_size=length)
    )
    return strategies.tuples(tokens, strategies.integers(1, most))


def _apart(before: Tensor, after: Tensor, atol: float, **told: Any) -> Found:
    distance = (before.float() - after.float()).abs().max().item()
    if distance <= atol:  # so written that a NaN is too far
        return None
    return {**told, "largest_difference": encode_number(distance), "atol": atol}


def _recall(vocabulary: int, number: str) -> Callable[[dict[str, Any]], Case]:
    """A case as it was told: its tokens, and its number under that name."""
    return lambda known: (within(known["tokens"], vocabulary), int(known[number]))


def decode_equals_prefill(declared: DecodeEqualsPrefill, path: ForwardPath) -> Search[Case]:
    """Feed some tokens at once and the rest one by one through the cache, against all at once."""

    def violation(case: Case) -> Found:
        tokens, cut = case[0], case[1] % len(case[0]) or 1
        cache = Cache(
            path.model.architecture, length=len(tokens), device=path.device, dtype=path.dtype
        )
        parts = [path.batch([tokens[:cut]], cache=cache)[0]]
        for position in range(cut, len(tokens)):
            at = torch.tensor([position], device=path.device)
            parts.append(path.batch([[tokens[position]]], positions=at, cache=cache)[0])
        whole, joined = path.batch([tokens])[0], torch.cat(parts)
        return _apart(whole, joined, float(declared.atol), tokens=tokens, prefill=cut)

    vocab = path.model.architecture.vocab
    cases = _cases(vocab, declared.length, declared.length)
    return Search((cases,), violation, declared.examples, _recall(vocab, "prefill"))


def position_shift(declared: PositionShift, path: ForwardPath) -> Search[Case]:
    """Shift all positions by the same amount."""

    def violation(case: Case) -> Found:
        tokens, shift = case
        positions = torch.arange(len(tokens), device=path.device) + shift
        before, after = path.batch([tokens])[0], path.batch([tokens], positions=positions)[0]
        return _apart(before, after, float(declared.atol), tokens=tokens, shift=shift)

    vocab = path.model.architecture.vocab
    cases = _cases(vocab, declared.length, declared.shift)
    return Search((cases,), violation, declared.examples, _recall(vocab, "shift"))


def padding(declared: Padding, path: ForwardPath) -> Search[Case]:
    """Pad on the right and on the left, in one batch, by as many tokens as the case says."""

    def violation(case: Case) -> Found:
        tokens, pad = case
        T, filler = len(tokens), [0] * pad
        rows = [tokens + filler, filler + tokens]
        positions = torch.arange(T + pad, device=path.device).repeat(2, 1)
        positions[1] = (positions[1] - pad).clamp_min(0)
        valid = torch.ones(2, T + pad, dtype=torch.bool, device=path.device)
        valid[0, T:] = valid[1, :pad] = False
        padded = path.batch(rows, positions=positions, valid=valid)
        both = torch.cat((padded[0, :T], padded[1, pad:]))
        alone = path.batch([tokens])[0].repeat(2, 1)
        return _apart(alone, both, float(declared.atol), tokens=tokens, padding=pad)

    vocab = path.model.architecture.vocab
    cases = _cases(vocab, declared.length, 8)
    return Search((cases,), violation, declared.examples, _recall(vocab, "padding"))


OF_A_PATH: dict[str, Callable[[Any, ForwardPath], Search[Case]]] = {
    "decode_equals_prefill": decode_equals_prefill,
    "position_shift": position_shift,
    "padding": padding,
}
"""Properties of a path, by name: (declared, path) -> what to search."""
