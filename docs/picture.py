"""Draw `docs/terminal.svg`: what a terminal of 118 columns shows of `make gates`, as it comes.

    python docs/picture.py [COMMAND ...]        # make picture

The command runs in a pseudo-terminal and rich draws its output. Two things are edited: the live
line is left out, for it is gone at the end of a session, and the project's folder is shown as
`~/pytest-gates`.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "terminal.svg"
COLUMNS, ROWS = 118, 60
LIVE_LINE = re.compile(r"\x1bD\x1b\[1A\x1b7\x1bD\r\x1b\[2K[^\x1b]*\x1b8")
FONT = re.compile(r"@font-face \{.*?\}\n", re.DOTALL)


def shown(command: list[str]) -> str:
    """Everything that the command writes to its terminal.

    Raises:
        SystemExit: it did not end well; that is no picture for anybody.
    """
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    # A make within make says which folder it enters; a user's does not.
    outer = {"MAKELEVEL", "MAKEFLAGS", "MFLAGS"}
    environ = {k: v for k, v in os.environ.items() if k not in outer} | {"TERM": "xterm-256color"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environ, stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    seen = b""
    try:
        while chunk := os.read(controller, 65536):
            seen += chunk
    except OSError:  # what Linux says when the last writer has gone
        pass
    os.close(controller)
    text = LIVE_LINE.sub("", seen.decode()).replace("\r\n", "\n")
    if process.wait() != 0:
        sys.exit(text)
    return text.replace(str(ROOT), "~/pytest-gates")


def drawn(command: list[str], text: str) -> str:
    """The text as SVG. Fonts are the reader's own: a picture must fetch nothing."""
    console = Console(
        record=True,
        width=COLUMNS,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
    )
    console.print(Text(f"$ {' '.join(command)}", style="bold"))
    console.print(Text.from_ansi(text.rstrip()))
    svg = console.export_svg(title="", theme=MONOKAI, unique_id="gates")
    return FONT.sub("", svg)


def main() -> int:
    """Run, draw, write."""
    command = sys.argv[1:] or ["make", "gates"]
    PICTURE.write_text(drawn(command, shown(command)), encoding="utf-8")
    print(f"written {PICTURE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
