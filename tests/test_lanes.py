"""Executions side by side: in order, as many as fit, and what must be alone is alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from loading import RUN, gate, loaded
from sealed import small_run

from pytest_gates.errors import RunError
from pytest_gates.run.lanes import Lanes
from pytest_gates.run.plan import Execution, bears_company, timed_runs

WAIT_S = 120.0


def execution(seed: int) -> Execution:
    return Execution(small_run(seed=seed))


@dataclass
class Machine:
    """Stands in for drivers: an execution ends when the test lets it."""

    begun: list[int] = field(default_factory=list)
    released: set[int] = field(default_factory=set)
    most: int = 0
    going: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def carry_out(self, one: Execution, holder: str) -> str:
        seed = one.run.seed  # type: ignore[union-attr]  # training runs alone
        with self.changed:
            self.begun.append(seed)
            self.going += 1
            self.most = max(self.most, self.going)
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: seed in self.released, WAIT_S)
            self.going -= 1
        return f"evidence of {seed} for {holder}"

    def release(self, *seeds: int) -> None:
        with self.changed:
            self.released.update(seeds)
            self.changed.notify_all()

    def expect(self, reached: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(reached, WAIT_S), self.begun


def asking(lanes: Lanes, seed: int) -> tuple[threading.Thread, list[str]]:
    told: list[str] = []
    thread = threading.Thread(target=lambda: told.append(lanes.obtain(execution(seed), "ASKED")))
    thread.start()
    return thread, told


def test_what_comes_later_begins_while_one_waits_and_never_more_than_there_is_room() -> None:
    machine = Machine()
    lanes = Lanes(machine.carry_out, room=2, needs=lambda _: 1)
    lanes.plan((execution(seed), "PLANNED") for seed in range(4))
    first, told = asking(lanes, 0)
    machine.expect(lambda: machine.begun == [0, 1])
    machine.release(1)
    machine.expect(lambda: machine.begun == [0, 1, 2])
    machine.release(0, 2, 3)
    first.join(WAIT_S)
    # Whoever asks for what has begun already gets that.
    assert [lanes.obtain(execution(seed), "LATER") for seed in range(4)] == [
        "evidence of 0 for ASKED",
        *(f"evidence of {seed} for PLANNED" for seed in (1, 2, 3)),
    ]
    assert told == ["evidence of 0 for ASKED"]
    assert machine.begun == [0, 1, 2, 3]
    assert machine.most == 2


def test_what_needs_the_whole_machine_waits_for_it_and_nothing_overtakes_it() -> None:
    machine = Machine()
    asked = threading.Event()

    def needs(one: Execution) -> int:
        if one != execution(9):
            return 1
        asked.set()
        return 2

    lanes = Lanes(machine.carry_out, room=2, needs=needs)
    lanes.plan((execution(seed), "PLANNED") for seed in range(3))
    first, _ = asking(lanes, 0)
    machine.expect(lambda: machine.begun == [0, 1])
    alone, told = asking(lanes, 9)
    assert asked.wait(WAIT_S)
    machine.release(0)  # there is room for one, but the next one needs two
    first.join(WAIT_S)
    assert machine.begun == [0, 1]
    machine.release(1)
    machine.expect(lambda: machine.begun == [0, 1, 9])
    machine.release(9, 2)
    alone.join(WAIT_S)
    assert told == ["evidence of 9 for ASKED"]
    machine.expect(lambda: machine.begun == [0, 1, 9, 2])


def test_nothing_begins_before_something_is_asked_for_nor_after_the_end() -> None:
    machine = Machine()
    lanes = Lanes(machine.carry_out, room=4, needs=lambda _: 1)
    lanes.plan((execution(seed), "PLANNED") for seed in range(2))
    assert machine.begun == []
    machine.release(0, 1)
    lanes.obtain(execution(0), "ASKED")
    lanes.close()
    left = Lanes(machine.carry_out, room=1, needs=lambda _: 1)
    left.plan(iter([(execution(5), "PLANNED")]))
    machine.release(4)
    left.close()
    assert 5 not in machine.begun


def test_a_failure_is_told_to_all_and_an_unexpected_one_is_tried_again() -> None:
    errors: Iterator[Exception] = iter([RunError("held"), KeyError("a bug"), RunError("held")])

    def fail(one: Execution, holder: str) -> str:
        raise next(errors)

    lanes = Lanes(fail, room=1, needs=lambda _: 1)
    for _ in range(2):
        with pytest.raises(RunError, match="held"):
            lanes.obtain(execution(0), "GATE")
    with pytest.raises(KeyError):
        lanes.obtain(execution(1), "GATE")
    with pytest.raises(RunError):
        lanes.obtain(execution(1), "GATE")


# --- what must be alone -------------------------------------------------------------------------

CPU = RUN.replace("cuda:0", "cpu") + "    checkpoint: epoch\n"


@pytest.mark.parametrize(
    ("check", "timed"),
    [
        ("{kind: finite, metrics: [train_loss, wall_ms]}", False),
        ("{kind: bounded, metric: train_loss, below: 8.0}", False),
        ("{kind: bounded, metric: wall_ms, below: 8000}", True),
        ("{kind: fact, fact: checkpoint_blocked_ms, at_most: 5}", True),
        ("{kind: fact, fact: tied, equals: false}", False),
        ("{kind: artifacts, blocked_share_below: 0.05}", True),
        ("{kind: artifacts}", False),
    ],
)
def test_where_time_is_judged_a_run_is_alone(check: str, timed: bool) -> None:
    contract = loaded(gate(check), CPU)
    alone = timed_runs(contract.gates)
    [run] = contract.gates[0].runs.values()
    assert bears_company(Execution(run), alone) is not timed


def test_a_gpu_turns_and_large_models_are_alone_whatever_is_judged() -> None:
    assert not bears_company(Execution(small_run(model="llama-370m")), frozenset())
    assert not bears_company(Execution(small_run(device="cuda:0")), frozenset())
    assert not bears_company(Execution(small_run(), group="turns"), frozenset())
    assert bears_company(Execution(small_run(device="cpu")), frozenset())
