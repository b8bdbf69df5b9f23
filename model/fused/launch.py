"""Launch a kernel of the step; or have all of them compiled at once before the first is launched.

One after the other a dozen kernels and the small programs that launch them take several seconds to
compile, most of it in processes of their own (ptxas and the host's C compiler).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import triton

_THREADS = min(16, os.cpu_count() or 1)
_asked: ContextVar[list[Any] | None] = ContextVar("kernels to be compiled", default=None)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Launch a kernel of Triton's or Gluon's; within `compiling` it is only asked for."""
    asked = _asked.get()
    if asked is None:
        kernel[grid](*arguments, **options)
    else:
        asked.append(kernel.warmup(*arguments, grid=grid, **options))


@contextmanager
def compiling(device: torch.device) -> Iterator[None]:
    """Within, what is launched is compiled instead, in threads; afterwards all of it is ready.

    Whatever kernels would have written is undefined then. All launches must come from this thread.
    """
    asked: list[Any] = []

    def ready(kernel: Any) -> None:
        torch.cuda.set_device(device)  # a thread of its own begins on the first one
        done = kernel.result() if isinstance(kernel, triton.FutureKernel) else kernel
        assert done.run is not None  # asked for it, a kernel builds its launcher

    with ThreadPoolExecutor(_THREADS) as pool:
        token = _asked.set(asked)
        try:
            with triton.AsyncCompileMode(pool):
                yield
        finally:
            _asked.reset(token)
        list(pool.map(ready, set(asked)))
