"""Many gates over many xdist workers: each run once, as many at a time as there are slots."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from pytest_gates.errors import RunError
from pytest_gates.evidence import Gpu
from pytest_gates.run.device_lock import cpu_lock, gpu_lock
from tests.project import Project

SLOTS = 8
GPUS = [Gpu("NVIDIA H200", f"GPU-{number}", 143_771) for number in range(SLOTS)]

TINY = """
contract_id: C-SHARED
version: 1.0.0
runs:
  run-0:
    driver: pretrain
    device: cpu
    model: {hidden: 16, layers: 1, heads: 2, kv_heads: 1, intermediate: 24, vocab: 256}
    data: {corpus: python-stdlib}
    seq_len: 8
    batch_size: 2
    steps: 4
    validation_batches: 0
    optimizer: {warmup_steps: 2}
"""
GATE = """
  - id: GATE-{number:02d}
    run: run-{run}
    checks: [{{kind: finite, metrics: [train_loss], steps: [0, {last}]}}]
    verdict: pending
"""


def forty_gates(project: Project) -> None:
    """Forty gates over five runs, executed by four workers; all pass."""
    runs = "".join(f"  run-{seed}: {{from: run-0, seed: {seed}}}\n" for seed in range(1, 5))
    gates = "".join(
        GATE.format(number=number, run=number % 5, last=number % 4) for number in range(40)
    )
    project.contract(f"{TINY}{runs}gates:{gates}")
    result = project.process("-p", "xdist", "-n", "4", "--gates-record", "never")
    result.assert_outcomes(passed=40)


@pytest.mark.slow
def test_forty_gates_over_four_workers_execute_each_run_once(project: Project) -> None:
    forty_gates(project)
    sealed = list((project.root / ".pytest_gates" / "evidence").glob("*/manifest.json"))
    seeds = [json.loads(path.read_text())["run"]["seed"] for path in sealed]
    assert sorted(seeds) == [0, 1, 2, 3, 4]


def test_forty_gates_over_four_workers_ask_the_driver_once_a_run(
    project: Project, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    waves = with_driver(project, tmp_path_factory, monkeypatch, slots=1)
    forty_gates(project)
    assert sorted(path.name for path in (waves / "0").iterdir()) == ["0", "1", "2", "3", "4"]


def in_threads(count: int, act: object) -> None:
    assert callable(act)
    threads = [threading.Thread(target=act) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_eight_runs_are_pinned_to_eight_free_gpus_and_the_ninth_waits(tmp_path: Path) -> None:
    together, held, late = threading.Barrier(SLOTS, timeout=300), list[str](), list[str]()

    def hold() -> None:
        with gpu_lock(GPUS, name="cuda", running="GATE", timeout_s=300, folder=tmp_path) as mine:
            held.extend(str(gpu.uuid) for gpu in mine)
            if together.wait() == 0:  # one of them, while all eight hold theirs
                try:
                    with gpu_lock(
                        GPUS, name="cuda", running="GATE", timeout_s=0.1, folder=tmp_path
                    ):
                        pass
                except RunError as error:
                    late.append(str(error))
            together.wait()

    in_threads(SLOTS, hold)
    assert sorted(held) == [f"GPU-{number}" for number in range(SLOTS)]
    assert [text[:40] for text in late] == ["cuda (NVIDIA H200, 1 of 8) was not free "]


def test_a_run_of_several_ranks_takes_all_its_gpus_or_none(tmp_path: Path) -> None:
    names = {"name": "cuda", "running": "GATE", "timeout_s": 0.1, "folder": tmp_path}
    with gpu_lock(GPUS[:3], needed=2, **names) as two:  # type: ignore[arg-type]
        assert [gpu.uuid for gpu in two] == ["GPU-0", "GPU-1"]
        with pytest.raises(RunError, match=r"cuda \(NVIDIA H200, 2 of 3\) was not free"):
            gpu_lock(GPUS[:3], needed=2, **names).__enter__()  # type: ignore[arg-type]
        with gpu_lock(GPUS[:3], **names) as one:  # type: ignore[arg-type]
            assert [gpu.uuid for gpu in one] == ["GPU-2"]


def test_slots_of_the_cpu_may_be_more_than_its_cores(tmp_path: Path) -> None:
    together = threading.Barrier(SLOTS, timeout=300)

    def hold() -> None:
        with cpu_lock(1, running="GATE", timeout_s=300, folder=tmp_path, slots=SLOTS):
            together.wait()

    in_threads(SLOTS, hold)
    assert not together.broken
    assert len(list(tmp_path.glob("cpu-*.lock"))) == SLOTS


# A driver in whose runs all slots must be busy: a run waits, holding its slot, until as many as
# there are slots have begun with the same number in their chain.
CONFTEST = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from sealed import seal_run, step_lines
from pytest_gates.run.device_lock import cpu_lock
from pytest_gates.run.drivers import DRIVERS

WAVES = Path({waves!r})

def produce(bench, execution, holder):
    wave, chain = divmod(execution.run.seed, 100)
    with cpu_lock(1, running=holder, timeout_s=600, slots=bench.settings.cpu_slots):
        folder = WAVES / str(wave)
        folder.mkdir(exist_ok=True)
        (folder / str(chain)).touch(exist_ok=False)  # a run executed twice is an error
        until = time.monotonic() + 300
        while len(list(folder.iterdir())) < {slots} and time.monotonic() < until:
            time.sleep(0.01)
        together = len(list(folder.iterdir()))
    lines = step_lines(4, train_loss=1.0, data_hash=together)
    scratch = WAVES / f"scratch-{{execution.run.seed}}"
    return [seal_run(bench.sealed, run=execution.run, lines=lines, scratch=scratch)]

DRIVERS["pretrain"] = produce
"""


def with_driver(
    project: Project,
    factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    *,
    slots: int,
) -> Path:
    """Give the project that driver; returns the folder in which its runs meet."""
    waves = factory.mktemp("waves")
    # The locks of this session alone: others of the same user would hold some of the slots.
    monkeypatch.setenv("TMPDIR", str(factory.mktemp("locks")))
    project.pytester.makeini(f"[pytest]\ngates_cpu_slots = {SLOTS}\n")
    tests = str(Path(__file__).parent)
    project.pytester.makeconftest(CONFTEST.format(tests=tests, waves=str(waves), slots=slots))
    return waves


@pytest.mark.slow
def test_eight_workers_on_eight_slots_take_as_many_turns_as_the_longest_chain(
    project: Project, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    waves = with_driver(project, tmp_path_factory, monkeypatch, slots=SLOTS)
    runs, gates = "", "gates:\n"
    for chain in range(SLOTS):  # a gate that draws on two runs is a chain of two
        for wave in range(2):
            seed = wave * 100 + chain
            runs += f"  w{wave}-{chain}: {{from: run-0, seed: {seed}, threads: 1}}\n"
        gates += (
            f"  - id: GATE-{chain}\n    verdict: pending\n    checks:\n"
            f"      - {{kind: equal_runs, of: [w0-{chain}, w1-{chain}], metrics: [data_hash]}}\n"
        )
    project.contract(f"{TINY}{runs}{gates}")
    result = project.process("-p", "xdist", "-n", str(SLOTS), "--gates-record", "never")
    result.assert_outcomes(passed=SLOTS)
    for wave in ("0", "1"):
        assert len(list((waves / wave).iterdir())) == SLOTS
    for path in (project.root / ".pytest_gates" / "evidence").glob("*/telemetry-0.jsonl"):
        said = [json.loads(line) for line in path.read_text().splitlines()]
        assert {line["data_hash"] for line in said} == {SLOTS}
