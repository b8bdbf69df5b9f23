"""Driver `command` with `launch`: torchrun starts a program of a team's, gates read its ranks."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from programs import Program
from project import Project, dedented

PROGRAM = """
    import os, sys, torch, torch.distributed as dist
    from pytest_gates.emit import training

    dist.init_process_group("gloo")
    rank, alone, dies = dist.get_rank(), "alone" in sys.argv, "dies" in sys.argv
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with training(model, optimizer) as told:
        for step in range(4):
            if dies and rank == 1 and step == 2: os._exit(3)
            loss = (model(torch.full((2, 4), 1.0 + rank)) ** 2).mean()
            loss.backward()
            for one in () if alone else model.parameters():
                dist.all_reduce(one.grad)
                one.grad /= dist.get_world_size()
            shown = loss.detach().clone()
            if not alone:
                dist.all_reduce(shown)
            optimizer.step()
            optimizer.zero_grad()
            told.step(shown)
    dist.destroy_process_group()
"""
CONTRACT = """
    contract_id: C-RANKS
    runs:
      own:
        driver: command
        argv: [python, train.py]
        device: cpu
        launch: {processes: 2}
        declares: {steps: 4, batch_size: 4}
      alone: {from: own, argv: [python, train.py, alone]}
      dies: {from: own, argv: [python, train.py, dies]}
    gates:
      - {id: GATE-EQUAL, run: own, checks: [{kind: equal_ranks}], verdict: pending}
      - id: GATE-FINITE
        run: own
        checks: [{kind: finite, metrics: [train_loss], ranks: all}]
        verdict: pending
      - {id: GATE-ENDS, run: own, checks: [{kind: exit_status, ranks: all}], verdict: pending}
      - {id: GATE-ALONE, run: alone, checks: [{kind: equal_ranks}], verdict: pending}
      - {id: GATE-DIES, run: dies, checks: [{kind: exit_status}], verdict: pending}
      - {id: GATE-DIED, run: dies, checks: [{kind: exit_status, ranks: [1], expect: KILLED}],
         verdict: pending}
"""


def test_each_rank_of_a_program_is_told_and_judged(
    allowed: Project, orphans: Callable[[], list[str]]
) -> None:
    (allowed.root / "train.py").write_text(dedented(PROGRAM), encoding="utf-8")
    allowed.contract(CONTRACT)
    done = allowed.run()
    done.assert_outcomes(passed=4, failed=2)
    text = done.stdout.str()
    assert "FAIL contracts/claims.yaml::GATE-ALONE" in text
    assert "ranks 0 and 1" in text
    assert "FAIL contracts/claims.yaml::GATE-DIES" in text
    assert "the program ended with exit code 1" in text
    [whole] = [one for one in Program(allowed).evidence if one.run.argv[-1] == "train.py"]
    assert len(whole.telemetry) == len(whole.ranks) == 2
    assert len({rank.pid for rank in whole.ranks} - {None, whole.pid}) == 2
    assert whole.of_rank(1).run.declares.batch_size == 2
    assert orphans() == []


@pytest.mark.parametrize(
    ("more", "check", "told"),
    [
        ("launch: {processes: 2}, telemetry: [{path: a, format: csv}]", "{kind: exit_status}",
         "ranks tell by `pytest_gates.emit`, a file each; leave `telemetry` out"),
        ("launch: {processes: 2}, declares: {batch_size: 3}", "{kind: exit_status}",
         "batch_size 3 does not divide among 2 ranks"),
        ("launch: {processes: 2}", "{kind: exit_status, ranks: [2]}",
         "rank 2 is none of the run's 2"),
        ("threads: 1", "{kind: exit_status, ranks: all}",
         "the run is one process; give it `launch: {processes: N}`"),
        ("threads: 1", "{kind: equal_ranks}",
         "the run has no two ranks; give it `launch: {processes: N}`"),
        ("launch: {processes: 9}", "{kind: exit_status}",
         "9 processes on a node exceed the cap of 8; raise `gates_max_processes`"),
    ],
)  # fmt: skip
def test_ranks_that_cannot_be_are_refused_at_their_place(
    allowed: Project, more: str, check: str, told: str
) -> None:
    allowed.contract(f"""
        contract_id: C-RANKS
        runs:
          own: {{driver: command, argv: [python, train.py], device: cpu, {more}}}
        gates:
          - {{id: GATE-ONE, run: own, checks: [{check}], verdict: pending}}
        """)
    done = allowed.run()
    assert done.ret != 0
    assert told in done.stdout.str() + done.stderr.str()
    assert "claims.yaml:" in done.stdout.str() + done.stderr.str()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("device: cuda, launch: {processes: 2}", "2 GPUs missing: the run needs 2, here are 0"),
        ("device: cpu, launch: {processes: 2, nodes: 2, rendezvous: 'a:1'}",
         "the run needs 2 nodes, this session starts it on one"),
    ],
)  # fmt: skip
def test_ranks_that_the_machine_has_no_place_for_are_blocked(
    allowed: Project, monkeypatch: pytest.MonkeyPatch, more: str, told: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (allowed.root / "train.py").touch()
    allowed.contract(f"""
        contract_id: C-RANKS
        runs:
          own: {{driver: command, argv: [python, train.py], {more}}}
        gates:
          - {{id: GATE-ONE, run: own, checks: [{{kind: equal_ranks}}], verdict: pending}}
        """)
    done = allowed.run("-rs")
    done.assert_outcomes(skipped=1)
    assert told in done.stdout.str()
