from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from fake_nvml import Device, FakeNvml

from pytest_gates.errors import RunError
from pytest_gates.model.config import CommandRun, ForwardRun, ProbeRun
from pytest_gates.run.gpus import Gpus, find_gpus
from pytest_gates.run.server import Server
from pytest_gates.run.worker import Order, Worker

NO_GPU = Gpus(None, unavailable="NVML is not there: none in this test")
TESTS = Path(__file__).parent


def forward(prompt: str, device: str = "cpu") -> ForwardRun:
    return ForwardRun(driver="forward", device=device, model="llama-1m", prompt=prompt)


def a_worker(cache: Path, gpus: Gpus = NO_GPU) -> Worker:
    worker = Worker(cache=cache, root=cache, gpus=gpus, entry="entries:act", preload=())
    worker.environ["PYTHONPATH"] += os.pathsep + str(TESTS)
    return worker


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    with a_worker(tmp_path_factory.mktemp("cache")) as shared:
        yield shared


class Lines(list[Mapping[str, Any]]):
    """What a run said, line by line, as it said it."""

    def __call__(self, line: Mapping[str, Any]) -> None:
        self.append(line)

    def fact(self, name: str) -> Any:
        return next(line["value"] for line in self if line.get("name") == name)


def gone(pid: int, within_s: float = 60.0) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            # Where nobody reaps orphans a dead process stays in the table.
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.02)
    return False


def test_a_run_that_completes(worker: Worker) -> None:
    lines = Lines()
    finished = worker.execute(forward("complete"), repetition=2, on_line=lines)
    assert (finished.status, finished.reason) == ("COMPLETED", None)
    assert [line["step"] for line in lines] == [0, 1, 2]
    assert finished.run_folder
    assert (finished.out / "telemetry-0.jsonl").is_file()
    request = json.loads((finished.staging / "run.json").read_text())
    assert (request["repetition"], request["run"]["prompt"]) == (2, "complete")
    assert finished.wall_ms > 0
    assert gone(finished.pid)
    assert finished.started.endswith("+00:00")
    assert finished.witness.unavailable == "the run asks for no GPU"


def test_a_run_finds_a_session_of_its_own_and_nothing_of_the_server(worker: Worker) -> None:
    lines = Lines()
    finished = worker.execute(forward("describe"), on_line=lines)
    assert lines.fact("stdin") == ""
    assert lines.fact("leader") is True
    assert lines.fact("torch") is False
    assert lines.fact("order") == os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert lines.fact("open") == 4  # stdin, stdout, stderr, and the listing itself
    assert (finished.staging / "log.txt").read_text() == "to the log\n"


def test_runs_come_out_of_one_server(worker: Worker) -> None:
    parents = set()
    for _ in range(2):
        lines = Lines()
        worker.execute(forward("describe"), on_line=lines)
        parents.add(lines.fact("parent"))
    assert len(parents) == 1


def test_telemetry_is_read_in_whole_lines(worker: Worker) -> None:
    lines = Lines()
    worker.execute(forward("torn"), on_line=lines)
    assert lines == [{"kind": "step", "step": 0}]


@pytest.mark.parametrize(
    ("prompt", "status", "reason"),
    [
        ("refuse", "DEVICE_UNAVAILABLE", "none here"),
        ("leave 0", "COMPLETED", None),
        ("leave 8", "IO_ERROR", "ended with exit code 8 and gave no reason"),
        ("leave 77", "ERROR", "ended with exit code 77 and gave no reason"),
        ("fail", "ERROR", "ended with exit code 1 and gave no reason"),
        ("kill SIGKILL", "KILLED", "ended by SIGKILL"),
        ("kill SIGSEGV", "KILLED", "ended by SIGSEGV"),
    ],
)
def test_every_end_has_its_status(
    worker: Worker, prompt: str, status: str, reason: str | None
) -> None:
    finished = worker.execute(forward(prompt))
    assert (finished.status, finished.reason) == (status, reason)
    assert not finished.run_folder


def test_an_unforeseen_error_is_in_the_log(worker: Worker) -> None:
    finished = worker.execute(forward("fail"))
    assert "RuntimeError: boom" in (finished.staging / "log.txt").read_text()


def test_a_run_that_hangs_is_ended_with_all_it_started(
    worker: Worker, hour_passes: Callable[[Callable[[], object]], None]
) -> None:
    lines = Lines()
    hour_passes(lambda: lines)  # once it has told what it started
    finished = worker.execute(forward("hang"), timeout_s=600.5, on_line=lines)
    assert (finished.status, finished.reason) == ("TIMEOUT", "ended after 600.5 s, its time limit")
    assert all(map(gone, lines.fact("pids")))


def test_the_time_of_a_run_begins_when_it_is_started(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, stopped = Server.send, list[int]()

    def late(server: Server, **message: Any) -> None:
        if not stopped:  # the forkserver is held up for longer than the run may take
            stopped.append(server.pid)
            os.kill(server.pid, signal.SIGSTOP)
            threading.Timer(0.4, os.kill, (server.pid, signal.SIGCONT)).start()
        send(server, **message)

    monkeypatch.setattr(Server, "send", late)
    assert worker.execute(forward("hang"), timeout_s=0.2).wall_ms >= 200
    assert stopped


def test_a_run_that_ignores_sigterm_is_killed(
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
    hour_passes: Callable[[Callable[[], object]], None],
) -> None:
    monkeypatch.setattr("pytest_gates.run.process.GRACE_S", 1.0)
    lines = Lines()
    hour_passes(lambda: lines)
    finished = worker.execute(forward("hang stubborn"), timeout_s=600, on_line=lines)
    assert finished.status == "TIMEOUT"
    # Not before the grace was over, which begins in the run's own time whenever it was started.
    assert finished.wall_ms >= 1000
    assert all(map(gone, lines.fact("pids")))


def test_a_run_leaves_no_process_behind(worker: Worker) -> None:
    lines = Lines()
    assert worker.execute(forward("orphan"), on_line=lines).status == "COMPLETED"
    assert all(map(gone, lines.fact("pids")))


def test_ctrl_c_ends_the_run_and_removes_its_staging(tmp_path: Path) -> None:
    pids: list[int] = []

    def interrupt(line: Mapping[str, Any]) -> None:
        pids.extend(line["value"])
        raise KeyboardInterrupt

    with a_worker(tmp_path) as worker:
        with pytest.raises(KeyboardInterrupt):
            worker.execute(forward("hang stubborn"), on_line=interrupt)
        assert len(pids) == 2
        assert all(map(gone, pids))
        assert list((tmp_path / "staging").iterdir()) == []
        assert worker.execute(forward("complete")).status == "COMPLETED"


def test_a_dead_server_is_named_and_the_next_run_gets_another(tmp_path: Path) -> None:
    def end_server(line: Mapping[str, Any]) -> None:
        os.kill(psutil.Process(line["value"][0]).ppid(), signal.SIGKILL)

    with a_worker(tmp_path) as worker:
        with pytest.raises(RunError, match=r"forkserver.* ended with code -9; try `python"):
            worker.execute(forward("hang"), on_line=end_server)
        assert list((tmp_path / "staging").iterdir()) == []
        assert worker.execute(forward("complete")).status == "COMPLETED"


def test_a_server_that_cannot_import_says_why(tmp_path: Path) -> None:
    worker = Worker(cache=tmp_path, root=tmp_path, gpus=NO_GPU, preload=("no_such_module",))
    with worker, pytest.raises(RunError, match="No module named 'no_such_module'; try"):
        worker.execute(forward("complete"))


def test_an_unwritable_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / "staging").write_text("a file where the folder belongs")
    with a_worker(tmp_path) as worker, pytest.raises(RunError, match=r"staging: cannot be written"):
        worker.execute(forward("complete"))


def test_everything_dies_with_a_killed_parent(tmp_path: Path) -> None:
    script = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from pathlib import Path
from test_worker import a_worker, forward
def tell(line):
    import psutil
    run, child = line["value"]
    print(psutil.Process(run).ppid(), run, child, flush=True)
a_worker(Path({str(tmp_path)!r})).execute(forward("hang stubborn"), on_line=tell)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 3
        assert not any(gone(pid, within_s=0.05) for pid in pids)
        parent.kill()
    assert all(map(gone, pids))


def test_a_run_dies_with_a_killed_server(tmp_path: Path) -> None:
    pids: list[int] = []

    def end_server(line: Mapping[str, Any]) -> None:
        pids.extend(line["value"])
        os.kill(psutil.Process(pids[0]).ppid(), signal.SIGKILL)

    with a_worker(tmp_path) as worker, pytest.raises(RunError):
        worker.execute(forward("hang stubborn"), on_line=end_server)
    assert len(pids) == 2
    assert all(map(gone, pids))


def test_the_witness_is_shown_the_allocations(tmp_path: Path) -> None:
    def used_mib() -> float:
        held = [file.read_text() for file in tmp_path.glob("staging/*/control/held")]
        return 700.0 + sum(int(text or 0) for text in held)

    lines = Lines()
    with a_worker(tmp_path, find_gpus(FakeNvml(Device(used_mib=used_mib)))) as worker:
        finished = worker.execute(forward("hold", "cuda:0"), show_mib=(64, 160), on_line=lines)
    seen = [(each.told_mib, each.seen_mib) for each in finished.witness.allocations]
    assert seen == [(64, 64.0), (160, 160.0)]
    assert lines.fact("seen") == [True] * 4
    assert finished.host.gpu is not None
    assert (finished.host.gpu.name, finished.host.driver) == ("NVIDIA H200", "580.159.03")


def test_a_run_is_known_before_it_is_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may speak before the forkserver can say so; whoever ends it then must know its process."""
    receive, unknown, heard = Server.receive, list[Any](), list[bool]()

    def late(server: Server, timeout_s: float, run_id: int | None = None) -> Any:
        if unknown:
            return unknown.pop()
        message = receive(server, timeout_s, run_id)
        if message is None or "started" not in message:
            return message
        while not list(tmp_path.glob("staging/*/out/telemetry-0.jsonl")):
            time.sleep(0.01)
        unknown.append(message)
        return None

    monkeypatch.setattr(Server, "receive", late)
    with a_worker(tmp_path) as worker:
        worker.execute(forward("complete"), on_line=lambda _: heard.append(not unknown))
    assert heard == [True] * 3


PROGRAM = """
import json, os, subprocess, sys
child = subprocess.Popen(["sleep", "600"])
print(json.dumps({"gpu": os.environ["CUDA_VISIBLE_DEVICES"], "child": child.pid}), flush=True)
while not os.path.exists("seen"):
    pass
child.kill()
child.wait()
"""


def test_a_program_is_pinned_like_any_run_and_its_tree_is_its_one_rank(tmp_path: Path) -> None:
    nvml = FakeNvml(Device(uuid="GPU-1"), Device(uuid="GPU-2"))
    lines = Lines()

    def child_computes(line: Mapping[str, Any]) -> None:
        lines(line)
        nvml.devices[1].processes = {line["child"]: 900}
        sampled = nvml.stamp
        while nvml.stamp < sampled + 2:  # one sample at least began after it
            time.sleep(0.01)
        (tmp_path / "seen").touch()

    run = CommandRun.model_validate({
        "driver": "command", "argv": [sys.executable, "-c", PROGRAM], "device": "cuda",
        "telemetry": [{"stdout": True, "format": "jsonl"}],
    })  # fmt: skip
    with a_worker(tmp_path, find_gpus(nvml)) as worker:
        second = worker.gpus.all[1]
        order = Order(run, gpus=(second,))
        [finished] = worker.execute_in_turns([order], timeout_s=600, on_line=child_computes)
    assert (finished.status, finished.reason) == ("COMPLETED", None)
    assert (lines[0]["gpu"], finished.host.gpu) == ("GPU-2", second)
    assert finished.ranks == ()
    own = [sample for sample in finished.witness.samples if sample.pid == finished.pid]
    assert {(sample.used_mib, sample.foreign_pids) for sample in own} == {(900.0, 0)}


def test_a_run_on_the_cpu_is_told_no_allocations(worker: Worker) -> None:
    lines = Lines()
    finished = worker.execute(forward("hold"), show_mib=(64, 160), on_line=lines)
    assert lines.fact("seen") == []
    assert finished.host.gpu is None


def test_the_program_itself_says_what_torch_sees(tmp_path: Path) -> None:
    with Worker(cache=tmp_path, root=tmp_path, gpus=find_gpus(FakeNvml(Device()))) as worker:
        facts = worker.facts_of_machine()
        finished = worker.execute(ProbeRun(driver="probe"))
        why = worker.why_not(forward("x", "cuda:0"))
    assert facts["torch"] == finished.host.torch
    if facts["cuda_devices"] == 0:
        assert why is not None
        assert why.endswith("sees 0 CUDA devices")
    else:
        assert why is None
    assert finished.status == "COMPLETED"
