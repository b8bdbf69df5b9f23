"""The team's own program: what the forkserver's child becomes. Standard library alone.

The process that was forked is replaced by the program, so that the run's PID is the program's, and
its group, its death with the forkserver and its end are those of every other run.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

ENTRY = "pytest_gates.model.program:become"
REFUSED = "refused.json"
"""Beside the request: why the program could not be started."""
REFUSED_CODE = 2


@dataclass(frozen=True)
class Launch:
    """Everything that is needed to start a program."""

    argv: tuple[str, ...]
    """The first word is the path of the program."""
    folder: str
    environ: dict[str, str]
    """All of its environment."""
    stdout: str | None
    """File of its standard output; None: it goes where its standard error goes."""

    def to_json(self) -> str:
        """As the request's file holds it."""
        return json.dumps(asdict(self))


def become(request: Path, out: Path) -> int:
    """Become the program of a request, or say why not; `out` exists already.

    Returns only where the program could not be started.
    """
    assert out.is_dir(), "the program's own folder is made before it"
    said = json.loads(request.read_text(encoding="utf-8"))
    launch = Launch(tuple(said["argv"]), said["folder"], said["environ"], said["stdout"])
    # What Python ignores, a program expects to be killed by.
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    try:
        if launch.stdout is not None:
            to = os.open(launch.stdout, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(to, 1)
            os.close(to)
        os.chdir(launch.folder)
        os.execve(launch.argv[0], launch.argv, launch.environ)  # noqa: S606 - allowed, no shell
    except OSError as error:
        where = Path(str(error.filename or launch.argv[0])).name
        reason = f"the program could not be started: {where}: {error.strerror}"
        request.with_name(REFUSED).write_text(json.dumps({"reason": reason}), encoding="utf-8")
    return REFUSED_CODE
