"""Bytes of tensors on their way to a file: off the device, hashed and written at the same time.

Each stage has a thread of its own, and a few blocks lie between them, so that a file takes as long
as the slowest stage alone: mostly the disk.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import Any, BinaryIO, Self

import torch
from torch import Tensor

BLOCK = 32 * 2**20
"""Bytes that are copied, hashed and written at once."""
BLOCKS = 4
"""Blocks of one file that are under way at once."""

_flush: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)  # macOS has only the latter


class Buffers:
    """Host memory that blocks of one file pass through; pinned, where they come off a GPU.

    From pageable memory the driver copies through a small buffer of its own, at a tenth of the
    speed, and the host waits.
    """

    def __init__(self, device: torch.device, size: int = BLOCK) -> None:
        """Allocate `BLOCKS` buffers of so many bytes."""
        self.size = size
        self._stream: torch.cuda.Stream | None = None
        pinned = device.type == "cuda"
        if pinned:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call] # torch's own
        self._buffers = [
            torch.empty(size, dtype=torch.uint8, pin_memory=pinned) for _ in range(BLOCKS)
        ]

    def after(self, ready: torch.cuda.Event | None) -> AbstractContextManager[Any]:
        """Copies within wait for an event of the device, and for nothing else there."""
        if self._stream is not None and ready is not None:
            self._stream.wait_event(ready)
        return torch.cuda.stream(self._stream)

    def copy(self, at: int, block: Iterable[Tensor]) -> Block:
        """Begin to copy a block into buffer `at`, whose last block was used up."""
        buffer, end = self._buffers[at], 0
        for piece in block:
            buffer[end : end + len(piece)].copy_(piece, non_blocking=True)
            end += len(piece)
        copied = None
        if self._stream is not None:
            copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call] # torch's own
            copied.record(self._stream)
        return Block([buffer[:end].numpy().data], copied)


class Block:
    """Bytes that are in host memory once an event of the device is reached."""

    def __init__(self, parts: list[memoryview], copied: torch.cuda.Event | None = None) -> None:
        self._parts, self._copied = parts, copied
        self.bytes = sum(map(len, parts))

    def each(self, use: Callable[[memoryview], Any]) -> None:
        """Wait for the bytes and use them, part by part."""
        if self._copied is not None:
            self._copied.synchronize()
        for part in self._parts:
            use(part)


class HashedFile:
    """A file that is hashed while it is written, both in the order of its blocks."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash = file, hashlib.sha256()
        self._threads = ExitStack()
        # Ended in the reverse order: the writer gives work to the flusher.
        self._flusher, self._writer, self._hasher = (
            self._threads.enter_context(ThreadPoolExecutor(1)) for _ in range(3)
        )
        self._under_way: list[tuple[Future[None], ...]] = [()] * BLOCKS
        self._flush: Future[None] | None = None
        self._unflushed = 0

    def wait(self, at: int) -> None:
        """Wait until the block that was put last under this index is used up.

        Raises:
            OSError: it could not be written.
        """
        for job in self._under_way[at]:
            job.result()
        self._under_way[at] = ()

    def put(self, at: int, block: Block) -> None:
        """Hash and write a block, behind those before it."""
        self._under_way[at] = (
            self._hasher.submit(block.each, self._hash.update),
            self._writer.submit(self._write, block),
        )

    def _write(self, block: Block) -> None:
        block.each(self._file.write)
        # The disk begins now, not when all is written. What one flush leaves the next one takes.
        self._unflushed += block.bytes
        if self._unflushed >= BLOCK and (self._flush is None or self._flush.done()):
            self._unflushed = 0
            self._flush = self._flusher.submit(_flush, self._file.fileno())

    def close(self) -> str:
        """Wait until every block is on disk; the hash of them all.

        Raises:
            OSError: one could not be written.
        """
        for at in range(BLOCKS):
            self.wait(at)
        if self._flush is not None:
            self._flush.result()
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._hash.hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the threads; what is under way ends first."""
        self._threads.close()


def blocks(pieces: Iterable[Tensor], size: int) -> Iterator[list[Tensor]]:
    """Cut a stream of flat tensors of bytes into blocks of `size` bytes; the last is shorter."""
    block: list[Tensor] = []
    room = size
    for piece in pieces:
        rest = piece
        while len(rest):
            taken, rest = rest[:room], rest[room:]
            block.append(taken)
            room -= len(taken)
            if room == 0:
                yield block
                block, room = [], size
    if block:
        yield block
