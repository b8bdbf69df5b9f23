"""The one entry of a run's process: ``python -m pytest_gates.model run.json out/``.

Settings of the process, device, folder, telemetry, driver, status: in this order, so that a run
that is refused its device leaves nothing behind. Of a run that declares `launch` this process is
the launcher, unless the environment gives it a rank (see `parallel.place`).
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
from pytest_gates.model.parallel.launcher import launch
from pytest_gates.model.parallel.place import Place
from pytest_gates.model.resolve import device_uuid, environment, prepare_environment
from pytest_gates.model.sabotage import seams_for
from pytest_gates.model.seams import Seams
from pytest_gates.model.telemetry import STATUSES, RunRefusedError
from pytest_gates.model.writer import TelemetryWriter, process_start_ns

_LINGER_S = 30.0
"""How long a rank that has lost another waits for the launcher, which ends it and says why."""

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
    started_ns = process_start_ns()
    hide: dict[str, str] = _private_words()
    try:
        request = Request.model_validate_json(request_path.read_bytes())
        hide = {request.cache: "<cache>", request.root: "<root>", **hide}
        run, place = request.run, Place.of(os.environ)
        if isinstance(run, PretrainRun) and run.launch is not None and place is None:
            _prepare(request)
            return launch(run, run_request, request_path, out, started_ns)
        _carry_out(request, out, started_ns, place, further)
    except Exception as error:  # noqa: BLE001 - the rim: every end of a run becomes a status
        status, reason = _status_of(error)
        if is_lost_peer(error):
            time.sleep(_LINGER_S)
        if status == "ERROR":
            print(_without(traceback.format_exc(), hide), file=sys.stderr)  # noqa: T201
        line = json.dumps({"status": status, "reason": _without(reason, hide)})
        print(line, file=sys.stderr, flush=True)  # noqa: T201
    else:
        status = "COMPLETED"
    code = STATUSES[status]
    assert code is not None
    return code


def _prepare(request: Request) -> None:
    run = request.run
    deterministic = not isinstance(run, ProbeRun) and run.deterministic
    prepare_environment(run.host, deterministic=deterministic, visible=request.visible)


def _carry_out(
    request: Request,
    out: Path,
    started_ns: int,
    place: Place | None,
    further: FurtherRules | None,
) -> None:
    place = place if isinstance(request.run, PretrainRun) and request.run.launch else None
    if place is not None:
        request, started_ns = _of_rank(request, place), place.started_ns or started_ns
    run = request.run
    seams = seams_for(request.fault)
    strict = not isinstance(run, ProbeRun) and seams.deterministic(run.deterministic)
    prepare_environment(run.host, deterministic=strict, visible=request.visible)
    device = None
    if not isinstance(run, ProbeRun):
        device = seams.resolve_device(run.device, run.host)
        _configure_torch(threads=run.threads, deterministic=strict)
    out.mkdir(exist_ok=place is not None)  # the first rank makes the folder of all
    rank = 0 if place is None else place.rank
    with TelemetryWriter(out, rank=rank, started_ns=started_ns) as writer:
        pid = {} if place is None else {"pid": os.getpid()}
        writer.event("run_started", driver=run.driver, **pid)
        if device is not None:
            _say_device(request, device, writer)
            device = seams.compute_device(device)
        if isinstance(run, ProbeRun):
            _probe(request, writer, seams, further)
        else:
            assert device is not None
            _drive(request, device, writer, seams, place)
        writer.event("run_finished")


def _of_rank(request: Request, place: Place) -> Request:
    """The request as one rank carries it out: on its own device."""
    run = request.run
    assert isinstance(run, PretrainRun)
    if place.ranks != run.ranks:
        raise RunRefusedError(
            "CONFIG_REFUSED", f"the run declares {run.ranks} ranks, {place.ranks} were started"
        )
    own = run.model_copy(update={"device": run.rank_device(place.rank)})
    return request.model_copy(update={"run": own})


def _probe(
    request: Request, writer: TelemetryWriter, seams: Seams, further: FurtherRules | None
) -> None:
    from pytest_gates.model import probe  # noqa: PLC0415

    probe.run(request, writer, seams, further or probe.no_further)


def _drive(
    request: Request,
    device: torch.device,
    writer: TelemetryWriter,
    seams: Seams,
    place: Place | None,
) -> None:
    """Hand over to the driver, importing that one alone."""
    if isinstance(request.run, PretrainRun):
        _train(request, device, writer, seams, place)
    else:
        from pytest_gates.model import forward  # noqa: PLC0415

        forward.run(request, device, writer, seams)


def _train(
    request: Request,
    device: torch.device,
    writer: TelemetryWriter,
    seams: Seams,
    place: Place | None,
) -> None:
    from pytest_gates.model import trainer  # noqa: PLC0415
    from pytest_gates.model.parallel.join import join  # noqa: PLC0415

    assert isinstance(request.run, PretrainRun)
    group = join(request.run, place, device, seams)
    try:
        trainer.run(request, device, writer, seams, group)
    except Exception as error:
        if place is not None:
            writer.event("rank_ended", status=_status_of(error)[0])
        if isinstance(error, RunRefusedError):
            group.part()
        raise
    group.leave()


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


def is_lost_peer(error: Exception) -> bool:
    """Whether an error only says that another rank of the run is gone."""
    text = str(error)
    lost = isinstance(error, torch.distributed.DistError) or "gloo" in text
    return lost or (isinstance(error, RuntimeError) and "peer" in text)


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


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and carry out its request."""
    parser = argparse.ArgumentParser(prog="python -m pytest_gates.model", description=__doc__)
    parser.add_argument("request", type=Path, help="run.json")
    parser.add_argument("out", type=Path, help="folder to be made for the run's telemetry")
    options = parser.parse_args(arguments)
    return run_request(options.request, options.out)


if __name__ == "__main__":
    sys.exit(main())
