"""`contracts/MAPPING.md` leaves out none of the field's ids, and names none of ours that is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FIELD = ROOT.parent / "shared" / "field" / "contracts"
ABOUT_A_TRAINER = (
    "training-loop-pretrain-excerpt", "deterministic-training-kernel-v1", "checkpoint-resume-v1",
    "gpu-optimizer-checkpoint-v1", "cosine-lr-schedule-v1", "gradient-accumulation-kernel-v1",
    "training-config-kernel-v1", "training-memory-kernel-v1", "training-gpu-kernel-v1",
    "training-step-budget-v1",
)  # fmt: skip
WORD = (
    r"(?:FALSIFY|GATE|INV|KANI)-[A-Z]+-(?:\d{3}[a-z]?|EXHAUST)\b|\b(?:GA|CFG)-INV-\d{3}"
    r"|\b(?:F|FM|C)-[A-Z]+(?:-[A-Z]+)?-(?:\d{3}|GATE|DIVERGENCE)\b|\bC-TRAIN-PRETRAIN\b"
    r"|\bF-GPUOPT-GATE\b"
)
GROUP = re.compile(rf"({WORD})((?:, \d{{3}}[a-z]?\b)*)((?: to \d{{3}})?)")


def _named(text: str) -> set[str]:
    """Ids in a text, with those that it shortens: `GATE-LOOP-004 to 009`, `FALSIFY-GA-001, 003`."""
    found = set()
    for first, more, last in GROUP.findall(text):
        stem, _, number = first.rpartition("-")
        found.add(first)
        found |= {f"{stem}-{one}" for one in re.findall(r"\d{3}[a-z]?", more)}
        if last:
            ends = int(number), int(last[-3:])
            found |= {f"{stem}-{one:03d}" for one in range(ends[0], ends[1] + 1)}
    return found


def _cells() -> list[list[str]]:
    lines = (ROOT / "contracts" / "MAPPING.md").read_text(encoding="utf-8").splitlines()
    return [line.split("|")[1:4] for line in lines if line.startswith("| ")][1:]


@pytest.mark.skipif(not FIELD.exists(), reason="the field's files are not here")
@pytest.mark.parametrize("name", ABOUT_A_TRAINER)
def test_every_id_of_the_field_is_mapped(name: str) -> None:
    theirs = set(re.findall(WORD, (FIELD / f"{name}.yaml").read_text(encoding="utf-8")))
    assert theirs
    assert theirs - set().union(*(_named(cells[0]) for cells in _cells())) == set()


def test_every_id_of_ours_is_there() -> None:
    declared = set().union(
        *(set(re.findall(r"id: (\S+)", path.read_text(encoding="utf-8")))
          for path in (ROOT / "contracts").glob("*.yaml"))
    )  # fmt: skip
    assert set().union(*(_named(cells[2]) for cells in _cells())) - declared == set()
