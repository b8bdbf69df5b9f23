"""Words of a contract: which are executable, and which of the field's merely look like them."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from pytest_gates.vocabulary import hint, nearest

__all__ = ["FALSIFIER_KEYS", "FIELD_VOCABULARY", "GATE_KEYS", "TOP_KEYS", "hint", "misspelt",
           "nearest", "slip_of"]  # fmt: skip

TOP_KEYS = ("contract_id", "version", "metadata", "runs", "gates", "falsification_tests", "gpus")
GATE_KEYS = ("id", "rule", "run", "checks", "requires", "verdict", "verdict_basis",
             "discharge_status", "ship_blocking", "waiver", "if_fails")  # fmt: skip
FALSIFIER_KEYS = ("id", "rule", "binds_to", "inject", "shorten", "expect", "if_fails")

FIELD_VOCABULARY = frozenset({
    "expected", "expects", "qa_gate", "rules", "title", "status", "versions", "created", "updated",
    "rationale", "harness", "prediction", "test", "tests", "references", "invariants", "id_prefix",
    "verdicts", "inputs", "injects", "conformance", "rule_id", "runtime", "check", "verdict_note",
    "verdict_basis_note", "if_passes", "falsification_id", "falsification_conditions",
})  # fmt: skip
"""Keys that real contracts use as prose although they nearly spell an executable one."""


def misspelt(key: str, executable: Collection[str]) -> str | None:
    """The executable key that a prose key nearly spells, unless the field uses it as its own."""
    if key in executable or key in FIELD_VOCABULARY:
        return None
    return nearest(key, executable)


def slip_of(word: str, known: Iterable[str]) -> str | None:
    """The known word that `word` is by one slip: a letter too many, too few, another, two swapped.

    Narrower than `nearest`, for places where other words are welcome: `passs` and `fial` are slips
    of a verdict, `passed` and `PASS` are words of their authors.
    """
    lower = word.lower()
    known = list(known)
    return None if lower in known else next((one for one in known if _one_slip(lower, one)), None)


def _one_slip(word: str, meant: str) -> bool:
    same = next(
        (i for i, (a, b) in enumerate(zip(word, meant, strict=False)) if a != b),
        min(len(word), len(meant)),
    )
    word, meant = word[same:], meant[same:]
    swapped = word[:2] == meant[1::-1] and word[2:] == meant[2:]
    return swapped or word[1:] in (meant, meant[1:]) or word == meant[1:]
