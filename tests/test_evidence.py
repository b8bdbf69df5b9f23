from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from project import NO_BYTECODE
from sealed import DATA, H200, seal_run, small_run, step_lines

from pytest_gates.canonical import canonical
from pytest_gates.errors import EvidenceError
from pytest_gates.evidence import Gpu, Sample, difference, run_hash, unmet
from pytest_gates.evidence_store import promote, read_evidence, scrub
from pytest_gates.model.config import (
    PRESETS,
    Declared,
    ForwardRun,
    Host,
    Kill,
    Optimizer,
    RecordedFile,
    RecordedRun,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "project"


@pytest.fixture
def runs(root: Path) -> Path:
    return root / "evidence" / "runs"


def located(root: Path, folder: Path) -> str:
    return folder.relative_to(root).as_posix()


# --- hashes -------------------------------------------------------------------------------------


def test_a_runs_hash_leaves_out_what_is_at_its_default() -> None:
    plain = small_run()
    spelled = small_run(
        optimizer=Optimizer(lr=1e-3, beta1=0.9), host=Host(cuda="any"), seed=0,
        data=DATA.model_copy(update={"tokenizer": "bytes"}),
    )  # fmt: skip
    assert run_hash(plain) == run_hash(spelled)


def test_a_runs_hash_is_what_it_was() -> None:
    # All recorded evidence stands on this: if it moves, `SCHEMA` must have moved on purpose.
    assert run_hash(small_run()) == (
        "d2a0934ed7290b055460893748c9c9c177b3ed5d460aefd1543e111008a2142b"
    )


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"steps": 21}, {"optimizer": Optimizer(lr=2e-3)}, {"host": Host(cuda="hidden")},
     {"stimulus": Kill(kind="kill", step=5)}, {"deterministic": True}],
)  # fmt: skip
def test_every_declared_difference_is_another_hash(change: dict[str, Any]) -> None:
    assert run_hash(small_run(**change)) != run_hash(small_run())


# --- whose evidence it is -----------------------------------------------------------------------


def test_a_difference_is_spelled_out(root: Path, runs: Path) -> None:
    folder = seal_run(runs, run=small_run(seq_len=512, batch_size=16))
    evidence = read_evidence(root, located(root, folder))
    assert difference(small_run(seq_len=512, batch_size=16), evidence) is None
    assert difference(small_run(seq_len=2048, batch_size=16), evidence) == (
        "evidence has seq_len 512, the gate declares 2048"
    )
    assert difference(small_run(stimulus=Kill(kind="kill", step=5), seed=3), evidence) == (
        "evidence has seed 0, the gate declares 3; "
        "evidence has seq_len 512, the gate declares 64; "
        "evidence has batch_size 16, the gate declares 2; and 3 more"
    )
    forward = ForwardRun(driver="forward", device="cpu", model="llama-1m")
    assert difference(forward, evidence) == (
        "evidence has driver pretrain, the gate declares forward"
    )


def test_requirements_hold_or_say_what_differs(root: Path, runs: Path) -> None:
    evidence = read_evidence(root, located(root, seal_run(runs)))
    assert unmet({"seq_len": 64, "data": {"corpus": "python-stdlib"}}, evidence) is None
    assert unmet({"model": PRESETS["llama-1m"].model_dump()}, evidence) is None
    assert unmet({"seq_len": 2048, "batch_size": 1}, evidence) == (
        "evidence has seq_len 64, the gate declares 2048; "
        "evidence has batch_size 2, the gate declares 1"
    )
    assert unmet({"deterministic": 0}, evidence) is not None
    assert "model.hidden 128, the gate declares 1024" in str(
        unmet({"model": "llama-370m"}, evidence)
    )


def test_a_recorded_run_is_held_to_what_it_declares(root: Path, runs: Path) -> None:
    file = RecordedFile(path="x.jsonl", format="jsonl")
    run = RecordedRun(driver="recorded", files=(file,), declares=Declared(seq_len=512))
    evidence = read_evidence(root, located(root, seal_run(runs, run=run)))  # type: ignore[arg-type]
    assert unmet({"seq_len": 512}, evidence) is None
    assert unmet({"seq_len": 2048}, evidence) == "evidence has seq_len 512, the gate declares 2048"
    assert unmet({"seed": 1}, evidence) == "evidence has no seed, the gate declares 1"


# --- sealing and reading ------------------------------------------------------------------------


def test_what_is_sealed_reads_back(root: Path, runs: Path) -> None:
    values = [0.1 + 0.2, -0.0, 5e-324, 1.7976931348623157e308, float("inf"), 264.73752]
    lines = [
        *step_lines(6, train_loss=values.__getitem__, tokens=lambda step: step * 128),
        {"kind": "event", "event": "run_finished", "step": 5, "why": "done"},
        {"kind": "fact", "name": "parameters", "value": 373_509_120},
    ]
    samples = (Sample(0.0, 4711, 6636.0), Sample(100.5, 4711, None, temperature_c=61.0))
    folder = seal_run(
        runs, lines=lines, samples=samples, fault={"fault": "slow_step", "ms": 600},
        repetition=1, group="ab", code="abc123", status="KILLED", reason="signal 9",
    )  # fmt: skip
    evidence = read_evidence(root, located(root, folder))
    said = evidence.main.steps.columns["train_loss"]
    assert [float(x).hex() for x in said if x is not None] == [x.hex() for x in values]
    assert evidence.main.events[0].detail == {"why": "done"}
    assert evidence.main.facts == {"parameters": 373_509_120}
    assert evidence.witness.samples == samples
    assert (evidence.run, evidence.run_hash) == (small_run(), run_hash(small_run()))
    assert (evidence.host, evidence.host.gpu) == (H200, Gpu("NVIDIA H200", "GPU-1", 143_771))
    assert (evidence.status, evidence.reason, evidence.pid) == ("KILLED", "signal 9", 4711)
    assert (evidence.repetition, evidence.group, evidence.code) == (1, "ab", "abc123")
    assert evidence.fault == {"fault": "slow_step", "ms": 600}
    manifest = (folder / "manifest.json").read_bytes()
    assert evidence.id == hashlib.sha256(manifest).hexdigest()
    assert folder.name == f"{evidence.run_hash[:10]}-{evidence.id[:10]}"


def test_sealing_the_same_twice_is_one_folder(runs: Path) -> None:
    assert seal_run(runs) == seal_run(runs)
    assert len(list(runs.iterdir())) == 1


@pytest.mark.parametrize("name", ["telemetry-0.jsonl", "witness.csv", "manifest.json"])
def test_one_changed_byte_is_found_and_the_file_named(root: Path, runs: Path, name: str) -> None:
    folder = seal_run(runs, samples=(Sample(5.0, 4711, 6636.0),))
    data = bytearray((folder / name).read_bytes())
    at = data.index(b"5")
    data[at : at + 1] = b"6"
    (folder / name).write_bytes(data)
    location = located(root, folder)
    with pytest.raises(EvidenceError, match="changed after it was recorded") as caught:
        read_evidence(root, location)
    assert str(caught.value).startswith(f"{location}/{name}: SHA-256 is ")


def test_a_run_hash_that_the_run_does_not_have_is_found(root: Path, runs: Path) -> None:
    # A forger who names everything consistently still cannot lend evidence to another run.
    folder = seal_run(runs)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["run"]["seq_len"] = 128
    data = canonical(manifest)
    (folder / "manifest.json").write_bytes(data)
    forged = folder.with_name(f"{folder.name[:10]}-{hashlib.sha256(data).hexdigest()[:10]}")
    folder.rename(forged)
    with pytest.raises(EvidenceError, match="its run hashes to"):
        read_evidence(root, located(root, forged))


def test_evidence_under_another_runs_name_is_found(root: Path, runs: Path) -> None:
    folder = seal_run(runs)
    renamed = folder.rename(folder.with_name("0" * 10 + folder.name[10:]))
    with pytest.raises(EvidenceError, match=f"the folder should be {folder.name}"):
        read_evidence(root, located(root, renamed))


def test_a_missing_file_and_a_longer_file_are_named(root: Path, runs: Path) -> None:
    folder = seal_run(runs)
    with (folder / "telemetry-0.jsonl").open("ab") as file:
        file.write(b"\n")
    with pytest.raises(EvidenceError, match=r"telemetry-0.jsonl: has \d+ bytes but the manifest"):
        read_evidence(root, located(root, folder))
    (folder / "telemetry-0.jsonl").unlink()
    with pytest.raises(EvidenceError, match=r"telemetry-0.jsonl: No such file"):
        read_evidence(root, located(root, folder))


@pytest.mark.parametrize(
    "location", ["/etc", "../x", "evidence/../../x", "", "evidence//runs", ".", "a\\b", "a\0b"]
)
def test_only_plain_locations_inside_the_project_are_read(root: Path, location: str) -> None:
    root.mkdir()
    with pytest.raises(EvidenceError, match="expected a"):
        read_evidence(root, location)


def test_evidence_behind_a_symbolic_link_is_refused(root: Path, tmp_path: Path) -> None:
    outside = seal_run(tmp_path / "elsewhere" / "runs")
    (root / "evidence").mkdir(parents=True)
    (root / "evidence" / "runs").symlink_to(outside.parent)
    with pytest.raises(EvidenceError, match="evidence/runs is a symbolic link"):
        read_evidence(root, f"evidence/runs/{outside.name}")


def test_a_folder_seen_to_be_no_link_is_seen_once_and_what_lies_in_it_each_time(
    root: Path, runs: Path
) -> None:
    proven: set[str] = set()
    first = seal_run(runs)
    location = located(root, first)
    assert read_evidence(root, location, proven) == read_evidence(root, location)
    assert proven == {str(root / "evidence"), str(root / "evidence" / "runs")}
    moved = first.rename(root / "elsewhere")
    first.symlink_to(moved)
    with pytest.raises(EvidenceError, match=rf"{location} is a symbolic link"):
        read_evidence(root, location, proven)
    first.unlink()
    first.touch()
    with pytest.raises(EvidenceError, match="no evidence folder"):
        read_evidence(root, location, proven)


@pytest.mark.parametrize("kind", ["link", "fifo", "socket"])
def test_a_file_that_is_no_regular_file_is_refused(
    root: Path, runs: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = seal_run(runs)
    victim = folder / "telemetry-0.jsonl"
    if kind == "link":
        moved = victim.rename(root / "moved")
        victim.symlink_to(moved)
    elif kind == "fifo":
        victim.unlink()
        os.mkfifo(victim)
    else:
        victim.unlink()
        monkeypatch.chdir(folder)  # a socket's path may be 108 bytes long
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(victim.name)
    with pytest.raises(EvidenceError, match=r"telemetry-0.jsonl: not a regular file"):
        read_evidence(root, located(root, folder))


def test_a_half_written_last_line_of_a_killed_run_is_left_out(root: Path, runs: Path) -> None:
    telemetry = runs.parent / "telemetry-0.jsonl"
    telemetry.parent.mkdir(parents=True)
    telemetry.write_text('{"kind":"step","step":0,"train_loss":1.5}\n{"kind":"step","st')
    files = {"telemetry-0.jsonl": telemetry}
    killed = read_evidence(root, located(root, seal_run(runs, files=files, status="KILLED")))
    assert killed.main.steps.columns["train_loss"] == (1.5,)
    assert any("half-written last line" in note for note in killed.notes)
    whole = located(root, seal_run(runs, files=files))
    with pytest.raises(EvidenceError, match=f"{whole}/telemetry-0.jsonl:2: no telemetry line"):
        read_evidence(root, whole)


def test_ranks_keep_their_places(root: Path, runs: Path, tmp_path: Path) -> None:
    second = tmp_path / "rank1"
    second.write_text('{"kind":"event","event":"run_started"}\n')
    folder = seal_run(runs, files={"telemetry-1.jsonl": second})
    evidence = read_evidence(root, located(root, folder))
    assert [len(rank.events) for rank in evidence.telemetry] == [0, 1]
    assert evidence.witness.unavailable == "no samples were recorded"


# --- limits, hygiene, trouble -------------------------------------------------------------------


def test_evidence_beyond_its_limit_is_refused_with_the_numbers(runs: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"x" * (3 * 2**20))
    with pytest.raises(EvidenceError, match=r"3\.0 MiB in 1 files .* limit of 1\.0 MiB"):
        seal_run(runs, files={"telemetry-0.jsonl": large}, limit_bytes=2**20)
    assert list(runs.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EvidenceError, match=r"file/runs: evidence cannot be written .*nothing"):
        seal_run(tmp_path / "file" / "runs", scratch=tmp_path / "scratch")


FULL_DISK = """
import resource, sys
from pathlib import Path
from sealed import seal_run, step_lines
from pytest_gates.errors import EvidenceError
parent = Path(sys.argv[1])
lines = step_lines(2000)
seal_run(parent / "first", lines=lines, scratch=parent / "scratch")
big = parent / "scratch" / "telemetry-0.jsonl"
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    seal_run(parent / "runs", lines=[], scratch=parent / "small", files={"telemetry-0.jsonl": big})
except EvidenceError as error:
    print(error)
"""


def test_a_disk_that_refuses_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        env={**NO_BYTECODE, "PYTHONPATH": path},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"{tmp_path}/runs: evidence cannot be written" in done.stdout
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_reason_names_no_host_user_or_home(root: Path, runs: Path) -> None:
    told = f"{Path.home()}/x.py on {socket.gethostname()}: /home/alice/run failed"
    folder = seal_run(runs, status="ERROR", reason=told)
    kept = read_evidence(root, located(root, folder)).reason
    assert kept == "~/x.py on <host>: ~/run failed"
    assert scrub("the root of the project") == "the root of the project"


def test_promotion_copies_verified_evidence_once(tmp_path: Path) -> None:
    cached = seal_run(tmp_path / "cache" / "sealed")
    root = tmp_path / "project"
    promoted = promote(cached, root / "evidence")
    assert (
        promoted == root / "evidence" / "runs" / cached.name == promote(cached, root / "evidence")
    )
    assert read_evidence(root, located(root, promoted)).status == "COMPLETED"
    shutil.rmtree(promoted)
    (cached / "witness.csv").write_text("changed")
    with pytest.raises(EvidenceError, match=r"witness.csv: has 7 bytes"):
        promote(cached, root / "evidence")
    assert list((root / "evidence" / "runs").iterdir()) == []


def test_reading_is_fast(root: Path, runs: Path) -> None:
    metrics = ("train_loss", "grad_norm", "lr", "tokens_per_sec", "wall_ms", "gpu_ms", "memory_mib")
    columns = {name: (lambda step: step / 3) for name in metrics}
    location = located(root, seal_run(runs, lines=step_lines(100, **columns)))
    best = 1.0
    for _ in range(10):
        start = time.thread_time()
        read_evidence(root, location)
        best = min(best, time.thread_time() - start)
    assert best < 0.02  # about 2 ms; ten times that allows for a busy machine
