"""The team's own program as a process: what it is started with, and how it is watched and ended."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_gates.disk import resolve_inside
from pytest_gates.errors import EvidenceError, RunError
from pytest_gates.evidence import Gpu
from pytest_gates.model.command import OUT, CommandRun
from pytest_gates.model.parallel.command import started
from pytest_gates.model.program import REFUSED, Launch
from pytest_gates.model.telemetry import encode_line
from pytest_gates.run.process import OnLine, RunProcess
from pytest_gates.run.sabotage import disturbance, variables
from pytest_gates.run.server import Server, environment

STDOUT = "stdout.txt"
"""In the staging folder: standard output, where it is telemetry."""
EMITTED = "telemetry-*.jsonl"
"""What `pytest_gates.emit` writes, a file a rank."""
LINGER_S = 1.0
"""How long a helper of the program may outlive it."""
_LOOK_S = 0.1
"""Between two looks at how much the program has written."""
_LOOK_SHARE = 20
"""So many times as long as a look takes is its distance from the next one."""

_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|APIKEY|API_KEY|ACCESS_KEY|PRIVATE_KEY|AUTH")
_SECRET_LENGTH = 6


def program_of(run: CommandRun, root: Path) -> Path | str:
    """The file that a run starts, or why there is none."""
    try:
        folder = Path(resolve_inside(root, run.folder)) if run.folder != "." else root
    except EvidenceError as error:
        return f"its folder: {error}"
    if not folder.is_dir():
        return f"its folder {run.folder} is none"
    name = run.argv[0]
    path = str(folder / name) if "/" in name else name
    found = shutil.which(path, path=_search_path(os.environ))
    if found is None:
        where = f"in {run.folder}" if "/" in name else "beside pytest's Python or in PATH"
        return f"there is no program {name!r} {where}"
    return Path(found).absolute()


def _search_path(environ: Mapping[str, str]) -> str:
    """Scripts of pytest's own environment come first, as in an activated one."""
    here = str(Path(sys.executable).parent)
    return os.pathsep.join([here, environ.get("PATH", os.defpath)])


def launch_of(
    run: CommandRun,
    fault: Mapping[str, Any] | None,
    staging: Path,
    root: Path,
    gpus: Sequence[Gpu],
) -> Launch:
    """What is started: arguments, folder and the whole environment.

    Raises:
        RunError: the program is not there.
    """
    program = program_of(run, root)
    if isinstance(program, str):
        raise RunError(program)
    out = str(staging / "out")
    stdout = any(source.stdout for source in run.telemetry)
    environ = {k: v for k, v in environment(os.environ).items() if not k.startswith("PYTEST_")}
    if "OPENBLAS_NUM_THREADS" not in os.environ:  # of our forkserver alone
        del environ["OPENBLAS_NUM_THREADS"]
    environ |= {
        "PATH": _search_path(os.environ),
        "OMP_NUM_THREADS": str(run.threads),
        "PYTEST_GATES_OUT": out,
        "PYTEST_GATES_DEVICE": run.device,
    }
    if stdout:  # a program that is killed must not lose what it has said
        environ["PYTHONUNBUFFERED"] = "1"
    environ |= _visible(run, gpus)
    environ |= {name: value.replace(OUT, out) for name, value in run.environment.items()}
    environ |= variables(fault)
    words = [str(program), *(word.replace(OUT, out) for word in run.argv[1:])]
    if run.launch is not None:
        words = started(run.launch, words, sys.executable)
    where = root if run.folder == "." else resolve_inside(root, run.folder)
    return Launch(tuple(words), str(where), environ, str(staging / STDOUT) if stdout else None)


def _visible(run: CommandRun, gpus: Sequence[Gpu]) -> dict[str, str]:
    """The program sees the GPUs that the run asks for, and no other; each rank all of them."""
    if run.device == "cpu" or run.host.cuda == "hidden":
        return {"CUDA_VISIBLE_DEVICES": ""}
    if not gpus or None in {gpu.uuid for gpu in gpus}:
        return {}
    uuids = ",".join(str(gpu.uuid) for gpu in gpus)
    return {"CUDA_VISIBLE_DEVICES": uuids, "PYTEST_GATES_DEVICE_UUID": uuids}


def redacted(text: str) -> str:
    """The text without the values of variables that are secrets by their names."""
    for form, name in _secrets():
        text = text.replace(form, f"<{name}>")
    return text


def redacted_lines(data: bytes) -> bytes:
    """Lines of JSON, redacted in their texts alone.

    A count may look like a secret (MAX_TOKENS=131072), and a number stays the number it is.
    """
    forms = [form.encode() for form, _ in _secrets()]
    lines = data.split(b"\n")
    for index, line in enumerate(lines):
        if any(form in line for form in forms):
            lines[index] = encode_line(_without_secrets(json.loads(line))).rstrip("\n").encode()
    return b"\n".join(lines)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, list):
        return [_without_secrets(one) for one in value]
    if isinstance(value, dict):
        return {redacted(name): _without_secrets(one) for name, one in value.items()}
    return value


def _secrets() -> list[tuple[str, str]]:
    """Values of secret variables, as they are and in JSON, with their names; long ones first."""
    return [
        (form, name)
        for name, value in sorted(os.environ.items(), key=lambda one: -len(one[1]))
        if len(value) >= _SECRET_LENGTH and _SECRET.search(name.upper())
        for form in {value, json.dumps(value)[1:-1]}
    ]


@dataclass(frozen=True)
class Limits:
    """The most that a program may write before it is ended."""

    telemetry_bytes: int = 16 * 2**20
    output_bytes: int = 64 * 2**20


LIMITS = Limits()
"""Unless pytest's configuration says otherwise."""


class ProgramProcess(RunProcess):
    """A program from its start to its end."""

    log_is_ours = False
    linger_s = LINGER_S

    def __init__(
        self,
        server: Server,
        run_id: int,
        staging: Path,
        on_line: OnLine | None,
        *,
        run: CommandRun,
        root: Path,
        fault: Mapping[str, Any] | None,
        limits: Limits,
    ) -> None:
        super().__init__(
            server, run_id, staging, self._heard,
            tells=_tells(run, staging), most=limits.telemetry_bytes, launch=run.launch,
        )  # fmt: skip
        self._pass_on = on_line
        self._watched = _watched(run, staging, root)
        self._before = _sizes(self._watched)
        self._limits = limits
        self._excess: str | None = None
        self._next_look = 0.0
        self._spoke = False
        self._disturbance = disturbance(fault)

    def watch(self) -> None:
        """See `RunProcess.watch`; also end what writes too much, and disturb what is sabotaged."""
        super().watch()
        now = time.monotonic()
        if self.over or self._pid is None:
            return
        if self._excess is None and now >= self._next_look:
            self._excess = self._too_much()
            took = time.monotonic() - now
            self._next_look = now + max(_LOOK_S, _LOOK_SHARE * took)
            if self._excess is not None:
                self._server.send(end=self._id, grace_s=0.0)
        if self._disturbance is not None:
            for number in self._disturbance.due(now, spoke=self._spoke):
                self.signal(number)

    def outcome(self) -> tuple[str, str | None]:
        """Status and reason of the end."""
        refused = self._staging / REFUSED
        if refused.exists():
            return "CONFIG_REFUSED", json.loads(refused.read_text(encoding="utf-8"))["reason"]
        if self._excess is not None:
            return "KILLED", self._excess
        status, reason = super().outcome()
        left = self.ended["survivors"]
        if status == "COMPLETED" and left:
            processes = (
                "a process running, which was"
                if left == 1
                else (f"{left} processes running, which were")
            )
            return "ERROR", (
                f"the program ended and left {processes} killed: "
                "a run lasts as long as its first process"
            )
        return status, reason

    def _failed(self, code: int) -> tuple[str, str | None]:
        # Its exit codes are its own, and its words may hold what no report should.
        return "ERROR", f"the program ended with exit code {code}"

    def _heard(self, line: Mapping[str, Any]) -> None:
        self._spoke = self._spoke or line.get("kind", "step") == "step"
        if self._pass_on is not None:
            self._pass_on(line)

    def _too_much(self) -> str | None:
        output = [(self._staging, "log.txt"), (self._staging, STDOUT)]
        for what, places, limit, option in (
            ("its telemetry", self._watched, self._limits.telemetry_bytes,
             "gates_evidence_limit_mib"),
            ("its output", output, self._limits.output_bytes, "gates_output_limit_mib"),
        ):  # fmt: skip
            sizes = _sizes(places).items()
            if sum(max(0, size - self._before.get(path, 0)) for path, size in sizes) > limit:
                return f"ended when {what} grew beyond {limit / 2**20:g} MiB; see {option}"
        return None


def _tells(run: CommandRun, staging: Path) -> Path:
    """The file whose lines can be followed while the program writes them."""
    for source in run.telemetry:
        if source.format == "jsonl":
            if source.stdout:
                return staging / STDOUT
            assert source.path is not None
            if source.path.startswith(OUT) and "*" not in source.path:
                return Path(source.path.replace(OUT, str(staging / "out")))
    return staging / "out" / "telemetry-0.jsonl"


def _watched(run: CommandRun, staging: Path, root: Path) -> Sequence[tuple[Path, str]]:
    """Where files of telemetry may grow without bound: folders, and the names in them."""
    if not run.telemetry:
        return [(staging / "out", EMITTED)]
    found = []
    for source in run.telemetry:
        if source.path is None:
            found.append((staging, STDOUT))
        elif source.path.startswith(OUT):
            found.append((staging / "out", source.path.removeprefix(OUT).lstrip("/")))
        else:
            found.append((root, source.path))
    return found


def _sizes(places: Sequence[tuple[Path, str]]) -> dict[Path, int]:
    """Bytes of each file that is there. Logs rotate: one may vanish while it is looked at."""
    found = {}
    for folder, name in places:
        with suppress(OSError):
            for path in folder.glob(name) if "*" in name else [folder / name]:
                with suppress(OSError):
                    found[path] = path.stat().st_size
    return found
