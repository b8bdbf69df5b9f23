"""The process tree of a run, where processes end and ids come again while it is looked at."""

from __future__ import annotations

import pytest

from pytest_gates.run import tree
from pytest_gates.run.tree import Tree

Born = tuple[int, int]
RUN, PARENT, CHILD, STRANGER = 100, 200, 300, 400


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> dict[int, Born]:
    """What /proc says: parent and start by process."""
    processes: dict[int, Born] = {RUN: (50, 1), PARENT: (RUN, 2), CHILD: (PARENT, 3)}
    monkeypatch.setattr(tree, "born", processes.get)
    return processes


def test_a_parent_that_ends_while_it_is_looked_for_costs_its_child_nothing(
    kernel: dict[int, Born],
) -> None:
    run = Tree([RUN])
    del kernel[PARENT]  # CHILD has been read already, and said that this is its parent
    assert not run.holds(CHILD)
    kernel[CHILD] = (RUN, 3)  # the kernel has given it another one
    assert run.holds(CHILD)


def test_an_id_that_comes_again_is_another_process(kernel: dict[int, Born]) -> None:
    run = Tree([RUN])
    assert run.holds(CHILD)
    kernel[CHILD] = (1, 9)
    assert not run.holds(CHILD)
    assert not run.holds(STRANGER)
    kernel[STRANGER] = (PARENT, 10)
    assert run.holds(STRANGER)


def test_what_was_seen_to_belong_to_a_run_does_so_when_it_has_ended_or_lost_its_parent(
    kernel: dict[int, Born],
) -> None:
    run = Tree([RUN])
    assert run.holds(CHILD)
    kernel[CHILD] = (1, 3)
    assert run.holds(CHILD)
    del kernel[CHILD]
    assert run.holds(CHILD)
    kernel[STRANGER] = (CHILD, 11)
    assert run.holds(STRANGER)
