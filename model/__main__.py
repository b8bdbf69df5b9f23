"""The one entry of a run's process: ``python -m pytest_gates.model run.json out/``.

Settings of the process, device, folder, telemetry, driver, status: in this order, so that a run
that is refused its device leaves nothing behind.
"""

from __future__ import annotations

import argparse
import getpass
import json
import os
import re
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import ValidationError

from pytest_gates.model.config import PretrainRun, ProbeRun, Request
from pytest_gates.model.resolve import device_uuid, environment, prepare_environment
from pytest_gates.model.sabotage import seams_for
from pytest_gates.model.seams import Seams
from pytest_gates.model.telemetry import STATUSES, RunRefusedError
from pytest_gates.model.writer import TelemetryWriter

if TYPE_CHECKING:
    from pytest_gates.model.probe import FurtherRules


def run_request(request_path: Path, out: Path, further: FurtherRules | None = None) -> int:
    """Carry out a request in this process and return its exit code, `STATUSES[status]`.

    An end that is not COMPLETED puts one JSON object, `{"status": ..., "reason": ...}`, on the last
    line of stderr; its reason names no home folder, user or host.

    Args:
        request_path: a `config.Request` as JSON.
        out: the run's folder, made here once the device is resolved; it must not exist.
        further: properties of rules outside of `model` that a probe may search, if there are any.
    """
    started_ns = _process_start_ns()
    hide: dict[str, str] = _private_words()
    try:
        request = Request.model_validate_json(request_path.read_bytes())
        hide = {request.cache: "<cache>", request.root: "<root>", **hide}
        _carry_out(request, out, started_ns, further)
    except Exception as error:  # noqa: BLE001 - the rim: every end of a run becomes a status
        status, reason = _status_of(error)
        if status == "ERROR":
            print(_without(traceback.format_exc(), hide), file=sys.stderr)  # noqa: T201
        line = json.dumps({"status": status, "reason": _without(reason, hide)})
        print(line, file=sys.stderr, flush=True)  # noqa: T201
    else:
        status = "COMPLETED"
    code = STATUSES[status]
    assert code is not None
    return code


def _carry_out(request: Request, out: Path, started_ns: int, further: FurtherRules | None) -> None:
    run = request.run
    seams = seams_for(request.fault)
    strict = not isinstance(run, ProbeRun) and seams.deterministic(run.deterministic)
    prepare_environment(run.host, deterministic=strict)
    device = None
    if not isinstance(run, ProbeRun):
        device = seams.resolve_device(run.device, run.host)
        _configure_torch(threads=run.threads, deterministic=strict)
    out.mkdir()
    with TelemetryWriter(out, started_ns=started_ns) as writer:
        writer.event("run_started", driver=run.driver)
        if device is not None:
            _say_device(request, device, writer)
            device = seams.compute_device(device)
        if isinstance(run, ProbeRun):
            _probe(request, writer, seams, further)
        else:
            assert device is not None
            _drive(request, device, writer, seams)
        writer.event("run_finished")


def _probe(
    request: Request, writer: TelemetryWriter, seams: Seams, further: FurtherRules | None
) -> None:
    from pytest_gates.model import probe  # noqa: PLC0415

    probe.run(request, writer, seams, further or probe.no_further)


def _drive(request: Request, device: torch.device, writer: TelemetryWriter, seams: Seams) -> None:
    """Hand over to the driver, importing that one alone."""
    if isinstance(request.run, PretrainRun):
        from pytest_gates.model import trainer  # noqa: PLC0415

        trainer.run(request, device, writer, seams)
    else:
        from pytest_gates.model import forward  # noqa: PLC0415

        forward.run(request, device, writer, seams)


def _configure_torch(*, threads: int, deterministic: bool) -> None:
    torch.set_num_threads(threads)
    if deterministic:
        torch.use_deterministic_algorithms(True)
        # Filling fresh memory finds reads of uninitialised values; no kernel here makes any.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # set through a module's class


def _say_device(request: Request, device: torch.device, writer: TelemetryWriter) -> None:
    run, machine = request.run, environment()
    assert not isinstance(run, ProbeRun)
    if run.device == "auto" and device.type == "cpu":
        writer.event("auto_chose_cpu", reason=machine["state"])
    writer.fact("device_requested", run.device)
    writer.fact("device_resolved", str(device))
    writer.fact("device_uuid", device_uuid(device))
    writer.fact("threads", torch.get_num_threads())
    writer.fact("deterministic", torch.are_deterministic_algorithms_enabled())
    for name in ("python", "torch", "cuda_built"):
        writer.fact(name, machine[name])


def _status_of(error: Exception) -> tuple[str, str]:
    """The status an exception ends a run with, and one line that says why."""
    text = " ".join(str(error).split())
    match error:
        case RunRefusedError():
            return error.status, error.reason
        case ValidationError():
            return "CONFIG_REFUSED", "; ".join(
                f"{'.'.join(map(str, found['loc'])) or 'request'}: {found['msg']}"
                for found in error.errors()
            )
        case torch.OutOfMemoryError() | MemoryError():
            return "OUT_OF_MEMORY", text or "the host's memory ran out"
        case RuntimeError() if "can't allocate memory" in text:  # the CPU allocator's own words
            return "OUT_OF_MEMORY", text
        case OSError():
            name = f": {Path(error.filename).name}" if isinstance(error.filename, str) else ""
            return "IO_ERROR", f"{error.strerror or text}{name}"
        case _:
            return "ERROR", f"{type(error).__name__}: {text}"


def _private_words() -> dict[str, str]:
    """What must not leave this machine in a reason, each with what stands for it."""
    words = {str(Path.home()): "~", socket.gethostname(): "<host>"}
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return words
    return words if user == "root" else {**words, user: "<user>"}


def _without(text: str, hide: dict[str, str]) -> str:
    # Longest first: a folder in the home folder must not lose its beginning to it.
    for word in sorted(filter(None, hide), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", lambda _: hide[word], text)  # noqa: B023
    return text


def _process_start_ns() -> int:
    """`time.monotonic_ns()` at this process's start, to 10 ms; now, where /proc does not tell.

    proc_pid_stat(5): field 22 counts clock ticks since boot. A forked process started at its fork.
    """
    now = time.monotonic_ns()
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks = int(fields[19])  # the 22nd field, the 20th after the name
    except (OSError, ValueError, IndexError):
        return now
    age_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - ticks * 10**9 // os.sysconf("SC_CLK_TCK")
    return now - age_ns if age_ns >= 0 else now


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and carry out its request."""
    parser = argparse.ArgumentParser(prog="python -m pytest_gates.model", description=__doc__)
    parser.add_argument("request", type=Path, help="run.json")
    parser.add_argument("out", type=Path, help="folder to be made for the run's telemetry")
    options = parser.parse_args(arguments)
    return run_request(options.request, options.out)


if __name__ == "__main__":
    sys.exit(main())
