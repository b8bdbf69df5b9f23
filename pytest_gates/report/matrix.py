"""The matrix of `pytest-gates mutate`: faults by gates, the score and its denominator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pytest_gates.mutation import Fate, Score, Trial

MARKS: Mapping[Fate, str] = {
    Fate.CAUGHT: "C",
    Fate.SURVIVED: "s",
    Fate.BLOCKED: "b",
    Fate.MISFIT: "·",
}
UNTRIED = " "
LEGEND = "C caught, s survived here, b blocked on this machine, · not applicable"


def matrix_lines(tried: Sequence[Trial]) -> list[str]:
    """One table a contract: a row a fault, a column a gate."""
    lines: list[str] = [LEGEND]
    for contract in dict.fromkeys(trial.mutant.contract.id for trial in tried):
        mine = [trial for trial in tried if trial.mutant.contract.id == contract]
        gates = list(dict.fromkeys(trial.mutant.gate.id for trial in mine))
        cells = {(trial.mutant.name, trial.mutant.gate.id): MARKS[trial.fate] for trial in mine}
        names = list(dict.fromkeys(trial.mutant.name for trial in mine))
        width = max(len(name) for name in names)
        short = [gate.rpartition("-")[2][-6:] for gate in gates]
        columns = [max(3, len(word)) for word in short]
        head = "  ".join(word.rjust(size) for word, size in zip(short, columns, strict=True))
        lines += ["", contract, f"{'':<{width}}  {head}"]
        for name in names:
            row = [cells.get((name, gate), UNTRIED) for gate in gates]
            if {*row} <= {MARKS[Fate.MISFIT], UNTRIED}:
                continue
            told = "  ".join(cell.rjust(size) for cell, size in zip(row, columns, strict=True))
            lines.append(f"{name:<{width}}  {told}")
    return lines


def score_lines(tried: Sequence[Trial], score: Score) -> list[str]:
    """The score with its denominator, survivors with their reasons, blind gates."""
    count = {fate: sum(trial.fate is fate for trial in tried) for fate in Fate}
    share = f"{100 * score.caught / score.tried:.1f} %" if score.tried else "none tried"
    lines = [
        f"mutants (fault x gate): {len(tried)} ("
        + ", ".join(f"{number} {fate}" for fate, number in count.items())
        + ")",
        f"score: {score.caught} of {score.tried} faults caught ({share})",
    ]
    lines += _obstacles(tried)
    waiting = [name for name, fate in score.by_fault.items() if fate is Fate.BLOCKED]
    if waiting:
        lines.append(f"blocked on this machine: {', '.join(waiting)}")
    nowhere = [name for name, fate in score.by_fault.items() if fate is Fate.MISFIT]
    if nowhere:
        lines.append(f"applicable to no run: {', '.join(nowhere)}")
    for name in score.survivors:
        lines.append(f"SURVIVED {name}:")
        lines += [
            f"  {trial.mutant.gate.place}: {trial.mutant.gate.id}: {trial.reason}"
            for trial in tried
            if trial.mutant.name == name and trial.fate is Fate.SURVIVED
        ]
    lines += [f"BLIND {gate}: every fault injected into its runs survived" for gate in score.blind]
    return lines


def _obstacles(tried: Sequence[Trial]) -> list[str]:
    """What this machine lacks, and for which gates: each reason once."""
    gates: dict[str, dict[str, int]] = {}
    for trial in tried:
        if trial.fate is Fate.BLOCKED:
            of = gates.setdefault(trial.reason, {})
            of[trial.mutant.gate.id] = of.get(trial.mutant.gate.id, 0) + 1
    return [
        f"blocked {sum(of.values())} mutants of {len(of)} gates: {reason}: {', '.join(of)}"
        for reason, of in sorted(gates.items(), key=lambda item: -sum(item[1].values()))
    ]
