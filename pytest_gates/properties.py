"""Properties of what judges and writes: searched by a probe, whose process alone imports this.

`model` may not import checks or write-back, so the searches of them lie here, and the entry of a
run's process hands them to the probe (`run/entry.py`). To add one: its declaration in
`model/searches.py`, a function here that returns a `Search`, a line in the table at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from hypothesis import strategies

from pytest_gates.checks.binomial import critical_counts
from pytest_gates.contract.basis import BASIS
from pytest_gates.contract.nodes import parse_document, to_data
from pytest_gates.errors import GatesError
from pytest_gates.model.properties.search import Counterexample, Search
from pytest_gates.model.searches import BudgetRule, WriteBack
from pytest_gates.writeback import ContractEdit, GateEdit, render

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

    from pytest_gates.model.seams import Decide, Render, Seams

FILE = "generated.yaml"
RATES = tuple(Fraction(over, 100) for over in (50, 10, 5, 1, 90, 95, 99))
"""Shares of samples on the bad side of a limit that lies at a quantile."""
ALPHAS = tuple(Fraction(text) for text in ("0.05", "0.025", "0.0125", "0.01", "0.1"))


def decide(n: int, bad: int, rate: Fraction, alpha: Fraction) -> str:
    """The verdict of a budget over n uncorrelated samples, by the program's own rule."""
    critical = critical_counts(n, rate, alpha)
    if bad <= critical.passes_up_to:
        return "pass"
    return "fail" if bad >= critical.fails_from else "inconclusive"


def budget_rule(declared: BudgetRule, rule: Decide) -> Search[tuple[int, int, int, int]]:
    """Both tails are summed from binomial coefficients as fractions, and compared with alpha."""

    def tail(counts: range, n: int, rate: Fraction) -> Fraction:
        hit, miss, whole = rate.numerator, rate.denominator - rate.numerator, rate.denominator
        return Fraction(
            sum(math.comb(n, k) * hit**k * miss ** (n - k) for k in counts), whole**n
        )  # fmt: skip

    def violation(case: tuple[int, int, int, int]) -> Counterexample | None:
        n, bad, rate, alpha = case[0], case[1], RATES[case[2]], ALPHAS[case[3]]
        expected = "inconclusive"
        if tail(range(bad + 1), n, rate) <= alpha:
            expected = "pass"
        elif tail(range(bad, n + 1), n, rate) <= alpha:
            expected = "fail"
        found = rule(n, bad, rate, alpha)
        if found == expected:
            return None
        told = {"rate": str(rate), "alpha": str(alpha), "verdict": found, "expected": expected}
        return {"case": list(case), "n": n, "bad": bad, **told}

    @strategies.composite
    def counts(draw: DrawFn) -> tuple[int, int, int, int]:
        n = draw(strategies.integers(1, declared.samples))
        bad = draw(strategies.integers(0, n))
        rate = draw(strategies.integers(0, len(RATES) - 1))
        return n, bad, rate, draw(strategies.integers(0, len(ALPHAS) - 1))

    def recall(known: Counterexample) -> tuple[int, int, int, int]:
        n, bad, rate, alpha = map(int, known["case"])
        if not (0 <= bad <= n <= declared.samples and rate in range(len(RATES))):
            raise ValueError("another space of cases")
        return n, bad, rate, alpha

    return Search((counts(),), violation, declared.examples, recall)


VERDICTS = ("pass", "fail", "inconclusive")


def written(text: str, gate: str, verdict: str) -> str:
    """A contract's text after the program's own write-back of one gate's verdict."""
    basis = ({"record": "0" * 64, "verdict": verdict},)
    return render(text, ContractEdit((GateEdit(gate, verdict, basis),)), FILE)


def write_back(declared: WriteBack, edit: Render) -> Search[tuple[str, str, str]]:
    """A written contract says the new verdict, and everything else as before, line by line."""

    def violation(case: tuple[str, str, str]) -> Counterexample | None:
        text, gate, verdict = case
        try:
            wrong = _harm(text, gate, verdict, edit)
        except GatesError as error:
            wrong = str(error)
        if wrong is None:
            return None
        return {"text": text, "gate": gate, "verdict": verdict, "wrong": wrong}

    def recall(known: Counterexample) -> tuple[str, str, str]:
        return str(known["text"]), str(known["gate"]), str(known["verdict"])

    return Search((_contracts(),), violation, declared.examples, recall)


def _harm(text: str, gate: str, verdict: str, edit: Render) -> str | None:
    after = edit(text, gate, verdict)
    was, now = (to_data(parse_document(one, FILE)) for one in (text, after))
    if edit(after, gate, verdict) != after:
        return "writing the same again changes it"
    for old, new in zip(was["gates"], now["gates"], strict=True):
        mine = new["id"] == gate
        if mine and (new["verdict"], new[BASIS][0]["verdict"]) != (verdict, verdict):
            return "the verdict is not what was written"
        kept = {key: value for key, value in new.items() if not mine or key != BASIS}
        if kept | ({"verdict": old["verdict"]} if mine else {}) != old:
            return f"gate {new['id']} says something else"
    rest = iter(after.splitlines())
    lost = [line for line in text.splitlines() if not any(_same(line, other) for other in rest)]
    return f"a line is lost: {lost[0]!r}" if lost else None


def _same(line: str, other: str) -> bool:
    """Whether a line is there still; of a verdict or version its key and its comment are."""
    for key in ("verdict:", "version:"):
        if key in line and key in other:
            return [line.partition(key)[0], _comment(line)] == [
                other.partition(key)[0], _comment(other)
            ]  # fmt: skip
    return line == other


def _comment(line: str) -> str:
    return line.partition("#")[2]


def _contracts() -> SearchStrategy[tuple[str, str, str]]:
    """Contracts as people write them: (text, a gate of it, a verdict)."""
    words = strategies.text("aé→─ \U0001f600:'", max_size=8).map(str.strip)
    comment = strategies.just("") | words.map(lambda word: f"   # {word}")

    @strategies.composite
    def draw_contract(draw: DrawFn) -> tuple[str, str, str]:
        pad = draw(strategies.sampled_from(("", "  ", "    ")))
        lines = [f"# {draw(words)}", "contract_id: C-GENERATED", "version: 1.0.0", "gates:"]
        names = [f"G-{index}" for index in range(draw(strategies.integers(1, 3)))]
        for name in names:
            said = draw(strategies.sampled_from(("pending", "pass", "'fail'", '"inconclusive"')))
            body = [f"verdict: {said}{draw(comment)}", f"note: x{draw(comment)}"]
            lines += [f"{pad}- id: {name}", *(f"{pad}  {one}" for one in draw(_orders(body)))]
            lines += draw(
                strategies.lists(strategies.sampled_from(("", f"{pad}  # c")), max_size=2)
            )
        end = draw(strategies.sampled_from(("\n", "\r\n")))
        text = end.join(lines) + draw(strategies.sampled_from(("", end)))
        return text, draw(strategies.sampled_from(names)), draw(strategies.sampled_from(VERDICTS))

    return draw_contract()


def _orders(lines: list[str]) -> SearchStrategy[list[str]]:
    return strategies.permutations(lines)


OF_JUDGING: dict[str, Callable[[Any, Seams], Search[Any]]] = {
    "budget_rule": lambda declared, seams: budget_rule(declared, seams.budget_rule(decide)),
    "write_back": lambda declared, seams: write_back(declared, seams.write_back(written)),
}
"""Properties of what judges and writes, by name: (declared, seams) -> what to search."""
