"""The live line, on a real terminal: pytest in a pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

from project import PLUGIN, Project

COLUMNS = 90
CONTRACT = """
    contract_id: C-LIVE
    runs:
      tiny:
        driver: pretrain
        device: cpu
        model: {hidden: 16, layers: 1, heads: 2, kv_heads: 1, intermediate: 32, vocab: 256}
        data: {corpus: python-stdlib}
        seq_len: 16
        batch_size: 2
        steps: 12
    gates:
      - id: GATE-LIVE
        run: tiny
        checks: [{kind: required_fields}]
        verdict: pending
"""


def on_a_terminal(project: Project, *args: str) -> str:
    """What a terminal of 90 columns gets to see of a session."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    session = subprocess.Popen(
        [sys.executable, "-m", "pytest", *PLUGIN, "--gates", "contracts", *args],
        cwd=project.root, stdin=terminal, stdout=terminal, stderr=terminal,
    )  # fmt: skip
    os.close(terminal)
    seen = b""
    try:
        while chunk := os.read(controller, 65536):
            seen += chunk
    except OSError:  # what Linux says when the last writer has gone
        pass
    finally:
        os.close(controller)
    assert session.wait(300) == 0
    return seen.decode()


def test_a_terminal_shows_step_loss_time_and_what_is_left_and_keeps_pytests_own_line(
    project: Project,
) -> None:
    project.contract(CONTRACT)
    seen = on_a_terminal(project)
    shown = re.findall("\r\x1b\\[2K([^\x1b]*)\x1b8", seen)
    assert shown[0].startswith("GATE-LIVE: pretrain 10,544 parameters on cpu")
    assert shown[0].endswith(": starting")
    said = r": step [0-9]+/12, loss 5[.][0-9]{3}, [0-9]+ ms a step, [0-9]+ s left$"
    assert re.search(said, shown[1])
    assert shown[-1] == ""
    assert max(map(len, shown)) < COLUMNS
    # Without the live line, what remains is what pytest writes: its dot stands behind its file.
    rest = re.sub("\x1bD\x1b\\[1A\x1b7\x1bD\r\x1b\\[2K[^\x1b]*\x1b8", "", seen)
    assert re.search(r"contracts/claims[.]yaml (\x1b\[[0-9]*m)*[.]", rest)


def test_without_a_terminal_nothing_is_shown(project: Project) -> None:
    project.contract(CONTRACT)
    assert "ms a step" not in project.process().stdout.str()
