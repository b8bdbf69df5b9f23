"""Properties of a model and of the rules around it, each a function that returns a `Search`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import hypothesis
import torch
from hypothesis import strategies
from torch import Tensor

from pytest_gates.model.attention import rotate
from pytest_gates.model.config import Architecture
from pytest_gates.model.properties.search import Counterexample, Search
from pytest_gates.model.reference import reference_logits
from pytest_gates.model.searches import (
    BatchInvariance,
    Causality,
    ReferenceProperty,
    RopeRelative,
    UniformLoss,
)
from pytest_gates.model.telemetry import encode_number

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

Logits: TypeAlias = Callable[[Sequence[int]], Tensor]
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

    def recall(known: Counterexample) -> _Altered:
        tokens, after = (
            within(known["tokens"], vocabulary),
            within(known["tokens_after"], vocabulary),
        )
        return _Altered(tokens, int(known["position"]), after)

    return Search((_altered(vocabulary, declared.length),), violation, declared.examples, recall)


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


def within(tokens: Sequence[int], vocabulary: int) -> list[int]:
    """The tokens, or a ValueError if one is beyond the vocabulary."""
    if not tokens or not all(0 <= token < vocabulary for token in tokens):
        raise ValueError("tokens of another vocabulary")
    return list(tokens)


@dataclass(frozen=True)
class Subject:
    """A model under search."""

    architecture: Architecture
    logits: Logits
    """One sequence."""
    batch: Callable[[Sequence[Sequence[int]]], Tensor]
    """Sequences of one length T at once -> logits of shape (B, T, vocabulary)."""
    weights: Mapping[str, Tensor]
    """Parameters by their names."""
    rotary: Callable[[int, int, float, Tensor], tuple[Tensor, Tensor]]
    """Tables of RoPE, as the run's seams have them; so is `loss`."""
    loss: Callable[[Tensor, Tensor], Tensor]


def _sequences(vocabulary: int, longest: int) -> SearchStrategy[list[int]]:
    token = strategies.integers(0, vocabulary - 1)
    return strategies.integers(1, longest).flatmap(
        lambda length: strategies.lists(token, min_size=length, max_size=length)
    )


def reference(declared: ReferenceProperty, subject: Subject) -> Search[list[int]]:
    """Logits equal those of `reference.reference_logits`, up to `atol`."""
    device = next(iter(subject.weights.values())).device
    vocabulary = subject.architecture.vocab

    def violation(tokens: list[int]) -> Counterexample | None:
        fed = torch.tensor(tokens, device=device)
        expected = reference_logits(subject.architecture, subject.weights, fed)
        distance = (subject.logits(tokens).float() - expected).abs().max().item()
        # Written so that a NaN is too far.
        if distance <= declared.atol:
            return None
        return {
            "tokens": tokens,
            "largest_difference": encode_number(distance),
            "atol": declared.atol,
        }

    return Search(
        (_sequences(vocabulary, declared.length),),
        violation,
        declared.examples,
        lambda known: within(known["tokens"], vocabulary),
    )


def batch_invariance(
    declared: BatchInvariance, subject: Subject
) -> Search[tuple[list[int], list[int]]]:
    """A sequence has the same logits alone and beside any other, up to `atol`."""
    vocabulary = subject.architecture.vocab
    token = strategies.integers(0, vocabulary - 1)

    def violation(case: tuple[list[int], list[int]]) -> Counterexample | None:
        tokens, beside = case
        alone = subject.batch([tokens])[0].float()
        together = subject.batch([beside, tokens])[1].float()
        distance = (alone - together).abs().max().item()
        if distance <= declared.atol:
            return None
        return {
            "tokens": tokens,
            "beside": beside,
            "largest_difference": encode_number(distance),
            "atol": declared.atol,
        }

    pairs = strategies.integers(1, declared.length).flatmap(
        lambda length: strategies.tuples(
            strategies.lists(token, min_size=length, max_size=length),
            strategies.lists(token, min_size=length, max_size=length),
        )
    )

    def recall(known: Counterexample) -> tuple[list[int], list[int]]:
        tokens, beside = within(known["tokens"], vocabulary), within(known["beside"], vocabulary)
        if len(tokens) != len(beside):
            raise ValueError("sequences of two lengths")
        return tokens, beside

    return Search((pairs,), violation, declared.examples, recall)


def rope_relative(declared: RopeRelative, subject: Subject) -> Search[tuple[int, int, int]]:
    """<R(m) q, R(n) k> = <R(m + s) q, R(n + s) k> for unit vectors q and k (arXiv:2104.09864)."""
    shape, last = subject.architecture, declared.length - 1
    drawn = torch.randn(2, shape.head_dim, generator=torch.Generator().manual_seed(0))
    q, k = drawn / drawn.norm(dim=-1, keepdim=True)
    cos, sin = subject.rotary(declared.length, shape.head_dim, float(shape.rope_theta), drawn)

    def product(m: int, n: int) -> float:
        left, right = rotate(q, cos[m], sin[m]), rotate(k, cos[n], sin[n])
        return float((left * right).sum())

    def violation(case: tuple[int, int, int]) -> Counterexample | None:
        m, n, shift = case
        distance = abs(product(m, n) - product(m + shift, n + shift))
        if distance <= declared.atol:
            return None
        return {"m": m, "n": n, "shift": shift, "difference": encode_number(distance)}

    @strategies.composite
    def positions(draw: DrawFn) -> tuple[int, int, int]:
        m, n = draw(strategies.integers(0, last)), draw(strategies.integers(0, last))
        return m, n, draw(strategies.integers(0, last - max(m, n)))

    def recall(known: Counterexample) -> tuple[int, int, int]:
        m, n, shift = int(known["m"]), int(known["n"]), int(known["shift"])
        if max(m, n) + shift > last:
            raise ValueError("positions beyond the table")
        return m, n, shift

    return Search((positions(),), violation, declared.examples, recall)


def uniform_loss(declared: UniformLoss, subject: Subject) -> Search[tuple[int, list[int]]]:
    """Logits that are all the same number cost ln(vocabulary), whatever the number and targets."""
    vocabulary = subject.architecture.vocab

    def violation(case: tuple[int, list[int]]) -> Counterexample | None:
        level, tokens = case
        logits = torch.full((1, len(tokens), vocabulary), float(level))  # 1 T V
        loss = subject.loss(logits, torch.tensor([tokens])).item()
        if abs(loss - math.log(vocabulary)) <= declared.atol:
            return None
        return {"level": level, "tokens": tokens, "loss": encode_number(loss)}

    space = strategies.tuples(strategies.integers(-8, 8), _sequences(vocabulary, 16))
    return Search(
        (space,),
        violation,
        declared.examples,
        lambda known: (int(known["level"]), within(known["tokens"], vocabulary)),
    )


OF_A_MODEL: dict[str, Callable[[Any, Subject], Search[Any]]] = {
    "causality": lambda declared, subject: causality(
        declared, subject.logits, subject.architecture.vocab
    ),
    "reference": reference,
    "batch_invariance": batch_invariance,
    "rope_relative": rope_relative,
    "uniform_loss": uniform_loss,
}
"""Properties of a model, by name: (declared, subject) -> what to search."""
