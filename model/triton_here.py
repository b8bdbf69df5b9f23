"""Whether kernels of our own can be compiled on this host."""

from __future__ import annotations

import importlib.util
import os
import shutil
from functools import lru_cache

COMPILERS = ("gcc", "clang", "cc")


@lru_cache(1)
def why_no_triton() -> str | None:
    """Why Triton cannot serve here, or None. It builds its launchers with the host's C compiler."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not there"
    if not (os.environ.get("CC") or any(map(shutil.which, COMPILERS))):
        return "triton finds no C compiler"
    return None
