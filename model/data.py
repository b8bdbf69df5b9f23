"""What a run reads: a corpus or token shards, split, cut into windows and dealt out in batches.

Data needs no state beyond the step: batch k is a pure function of (windows, seed, k).
"""

from __future__ import annotations

import hashlib
import os
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from pytest_gates.model.architecture import Data, tokenizer_vocab
from pytest_gates.model.config import PretrainRun
from pytest_gates.model.telemetry import RunRefusedError

Stream = NDArray[np.uint8] | NDArray[np.uint16] | NDArray[np.uint32]

# Left out: what distributions strip or ship apart (tests, IDLE, Tk, distutils), tables that are no
# prose or code (encodings, pydoc topics), and what is written at build time and names the builder.
_LEFT_OUT = frozenset(
    {"test", "tests", "idle_test", "idlelib", "tkinter", "turtledemo", "lib2to3", "distutils",
     "ensurepip", "encodings", "pydoc_data", "site-packages", "dist-packages", "__pycache__"}
)  # fmt: skip
_BUILT = ("_sysconfigdata", "sitecustomize", "usercustomize", "config-")

# llm.c, dev/data/data_common.py: (magic, version) -> type of a token.
_HEADERS = {(20240520, 1): "<u2", (20240801, 7): "<u4"}
_HEADER_BYTES = 256 * 4


@dataclass(frozen=True)
class Corpus:
    """Token streams, split into training and validation, and the facts that identify them."""

    train: tuple[Stream, ...]
    validation: tuple[Stream, ...]
    facts: dict[str, Any]


def open_corpus(run: PretrainRun, root: Path, cache: Path) -> Corpus:
    """Open the data of a run; its `validation` share is held out, from the end or by documents.

    Facts: `tokenizer`, `train_tokens`, `validation_tokens`; of a corpus `corpus_sha256` (over the
    bytes of its files, in order) and `tokenizer_sha256` (of its JSON; None for bytes); of shards
    `shards`, each with path and tokens.

    Raises:
        RunRefusedError: CONFIG_REFUSED, with the numbers, where the data cannot serve the run.
        OSError: a file cannot be read or written.
    """
    if run.data.shards:
        streams, facts = _open_shards(run.data, root)
        train, validation = _ends_cut(streams, run.data.validation)
    else:
        stream, lengths, facts = _open_text(run.data, cache)
        if run.data.held_out == "documents":
            train, validation = _documents_dealt(stream, lengths, run.data.validation)
        else:
            train, validation = _ends_cut([stream], run.data.validation)
    counts = {"train_tokens": _total(train), "validation_tokens": _total(validation)}
    corpus = Corpus(train, validation, {**facts, **counts})
    _refuse_too_small(corpus.train, "training", run.seq_len)
    if run.validation_batches:
        _refuse_too_small(corpus.validation, "validation", run.seq_len)
    return corpus


def _refuse_too_small(streams: tuple[Stream, ...], split: str, seq_len: int) -> None:
    if not Windows(streams, seq_len).count:
        longest = max((len(stream) for stream in streams), default=0)
        raise RunRefusedError(
            "CONFIG_REFUSED",
            f"the {split} split holds {longest} tokens in a piece, a window of seq_len {seq_len} "
            f"needs {seq_len + 1}",
        )


def _total(streams: Sequence[Stream]) -> int:
    return sum(len(stream) for stream in streams)


def _ends_cut(streams: list[Stream], share: float) -> tuple[tuple[Stream, ...], ...]:
    """What is trained on, and the last `share` of the tokens."""
    total = _total(streams)
    cut = total - int(total * share)
    return tuple(_between(streams, 0, cut)), tuple(_between(streams, cut, total))


def _documents_dealt(
    stream: Stream, lengths: NDArray[np.int64], share: float
) -> tuple[tuple[Stream, ...], ...]:
    """All documents but every (1 / share)-th, and those: each laid end to end, as one stream."""
    due = np.floor(np.arange(len(lengths) + 1) * float(share) + 1e-9)
    held_out = np.repeat(np.diff(due) > 0, lengths)
    return (stream[~held_out],), (stream[held_out],)


def _between(streams: list[Stream], start: int, stop: int) -> Iterator[Stream]:
    """The parts of the streams, laid end to end, that lie in [start, stop)."""
    at = 0
    for stream in streams:
        piece = stream[max(start - at, 0) : max(stop - at, 0)]
        at += len(stream)
        if len(piece):
            yield piece


@dataclass(frozen=True)
class Windows:
    """Windows of seq_len + 1 tokens, one starting where the inputs of the one before end.

    No window crosses from one stream to the next.
    """

    streams: tuple[Stream, ...]
    seq_len: int
    starts: NDArray[np.int64] = field(init=False)
    """Index of each stream's first window, and at the end the count."""

    def __post_init__(self) -> None:
        counts = [max(len(stream) - 1, 0) // self.seq_len for stream in self.streams]
        object.__setattr__(self, "starts", np.cumsum([0, *counts]))

    @property
    def count(self) -> int:
        """Number of windows."""
        return int(self.starts[-1])

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """The windows of these indices: N (seq_len + 1)."""
        windows = np.empty((len(indices), self.seq_len + 1), np.int64)
        owners = np.searchsorted(self.starts, indices, side="right") - 1
        for row, (index, owner) in enumerate(zip(indices, owners, strict=True)):
            start = (index - self.starts[owner]) * self.seq_len
            windows[row] = self.streams[owner][start : start + self.seq_len + 1]
        return windows


class Batches:
    """Windows in an order drawn anew from the seed for each pass over the data."""

    def __init__(
        self,
        windows: Windows,
        *,
        batch_size: int,
        vocab: int,
        seed: int,
        end_step: int | None = None,
    ) -> None:
        """Deal out the windows; with `end_step` no more of them than the steps before it read."""
        assert windows.count
        limit = windows.count if end_step is None else end_step * batch_size
        self._windows = windows
        self._count = min(windows.count, limit)
        self._kept = np.arange(windows.count)
        self._batch_size = batch_size
        self._vocab = vocab
        self._seed = seed
        self._orders: dict[int, NDArray[np.int64]] = {}
        self._read = hashlib.sha256()
        if self._count < windows.count:  # data that ends are the first of data that do not
            self._kept = np.sort(self._shuffled(0, self._kept)[: self._count])
            self._orders[0] = self._shuffled(0, np.arange(windows.count))[: self._count]

    @property
    def cycles_at(self) -> int:
        """The first step that reads a window a second time."""
        return self._count // self._batch_size

    @property
    def tokens_per_pass(self) -> int:
        """Tokens fed before anything is read again."""
        return self._count * self._windows.seq_len

    @property
    def sha256(self) -> str:
        """Hash of every batch dealt so far, in order, as little-endian uint32."""
        return self._read.hexdigest()

    def batch(self, step: int) -> NDArray[np.int64]:
        """Batch of a step: B (T + 1), inputs and targets one apart.

        Raises:
            RunRefusedError: CONFIG_REFUSED, a token lies outside the model's vocabulary.
        """
        drawn = np.arange(step * self._batch_size, (step + 1) * self._batch_size)
        passes, places = np.divmod(drawn, self._count)
        indices = np.array([self._order(int(p))[i] for p, i in zip(passes, places, strict=True)])
        tokens = self._windows.read(indices)
        refuse_beyond(tokens, self._vocab, f"step {step}")
        self._read.update(tokens.astype("<u4").tobytes())
        return tokens

    def _order(self, turn: int) -> NDArray[np.int64]:
        if turn not in self._orders:
            # A batch may straddle two passes; older ones are never asked for again.
            self._orders = {k: v for k, v in self._orders.items() if k == turn - 1}
            self._orders[turn] = self._shuffled(turn, self._kept)
        return self._orders[turn]

    def _shuffled(self, turn: int, windows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.random.default_rng([self._seed, turn]).permutation(windows)


def data_hash(tokens: NDArray[np.int64]) -> int:
    """The first 48 bits of the BLAKE2b hash of a batch, as little-endian uint32."""
    digest = hashlib.blake2b(tokens.astype("<u4").tobytes(), digest_size=6).digest()
    return int.from_bytes(digest, "big")


def position(run: PretrainRun, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What fixes the data of every step: a run continues another where all of it is the same."""
    return {
        "seed": run.seed,
        "seq_len": run.seq_len,
        "batch_size": run.batch_size,
        "train_tokens": facts["train_tokens"],
        "corpus_sha256": facts.get("corpus_sha256"),
        "tokenizer": facts["tokenizer"],
        "held_out": None if run.data.held_out == "end" else run.data.held_out,
        "sharded": run.sharded or None,
    }


def refuse_beyond(tokens: NDArray[np.int64], vocab: int, where: str) -> None:
    """Refuse tokens that the model has no embedding for; on a GPU they would poison the context."""
    highest = int(tokens.max())
    if highest >= vocab:
        raise RunRefusedError(
            "CONFIG_REFUSED",
            f"{where} reads token {highest}, the model's vocabulary has {vocab}; "
            "check shard_dtype and the tokenizer of the shards",
        )


def _open_text(data: Data, cache: Path) -> tuple[Stream, NDArray[np.int64], dict[str, Any]]:
    """Tokens of the corpus, how many each of its documents has, and facts."""
    files = [path.read_bytes() for path in _stdlib_sources()]
    if not files:
        raise RunRefusedError("CONFIG_REFUSED", "this Python has no sources of its library")
    text = b"".join(files)
    facts: dict[str, Any] = {
        "tokenizer": data.tokenizer,
        "tokenizer_sha256": None,
        "corpus_sha256": hashlib.sha256(text).hexdigest(),
    }
    if data.tokenizer == "bytes":
        return np.frombuffer(text, np.uint8), np.array([len(file) for file in files]), facts
    stream, lengths, facts["tokenizer_sha256"] = _bpe_stream(
        files, facts["corpus_sha256"], tokenizer_vocab(data.tokenizer), cache / "corpus"
    )
    return stream, lengths, facts


def _stdlib_sources() -> list[Path]:
    """About 8 MB in 390 files with Python 3.11, in an order that no machine changes."""
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [
            name for name in folders if name not in _LEFT_OUT and not name.startswith(_BUILT)
        ]
        found += [
            Path(folder, name)
            for name in names
            if name.endswith(".py") and not name.startswith(_BUILT)
        ]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _bpe_stream(
    files: list[bytes], corpus: str, vocab: int, folder: Path
) -> tuple[NDArray[np.uint16] | NDArray[np.uint32], NDArray[np.int64], str]:
    """Tokens of the files, their number in each, and the hash of the BPE trained on them.

    From the cache, if they are there.
    """
    import tokenizers  # noqa: PLC0415 - half a second that a run over bytes need not pay

    key = hashlib.sha256(f"{corpus} bpe-{vocab} {tokenizers.__version__}".encode()).hexdigest()[:32]
    tokens_file, tokenizer_file = folder / f"{key}.bin", folder / f"{key}.json"
    lengths_file = folder / f"{key}.lengths"
    dtype = np.uint16 if vocab <= np.iinfo(np.uint16).max + 1 else np.uint32
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{key}.lock"):
        # The tokens are written last: where they are, the tokenizer is whole.
        if not (tokens_file.exists() and lengths_file.exists()):
            texts = [text.decode("utf-8", "replace") for text in files]
            tokenizer = _train_bpe(texts, vocab)
            encoded = tokenizer.encode_batch(texts)
            ids = np.concatenate([np.asarray(one.ids, dtype) for one in encoded])
            lengths = np.array([len(one.ids) for one in encoded], np.int64)
            _write_whole(tokenizer_file, tokenizer.to_str().encode())
            _write_whole(lengths_file, lengths.tobytes())
            _write_whole(tokens_file, ids.tobytes())
    digest = hashlib.sha256(tokenizer_file.read_bytes()).hexdigest()
    return np.memmap(tokens_file, dtype, mode="r"), np.fromfile(lengths_file, np.int64), digest


def _train_bpe(texts: list[str], vocab: int) -> Any:
    """A byte-level BPE (GPT-2's) of at most `vocab` ids; bpe-50257 takes 2 to 3 s."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: PLC0415

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer, length=len(texts))
    assert tokenizer.get_vocab_size() <= vocab
    return tokenizer


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that is either there in full or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as draft:
        try:
            draft.write(content)
            draft.flush()
            os.fsync(draft.fileno())
            Path(draft.name).replace(path)
        except BaseException:
            Path(draft.name).unlink(missing_ok=True)
            raise


def _open_shards(data: Data, root: Path) -> tuple[list[Stream], dict[str, Any]]:
    streams = [_open_shard(_inside(root, name), name, data.shard_dtype) for name in data.shards]
    sizes = [
        {"path": name, "tokens": len(stream)}
        for name, stream in zip(data.shards, streams, strict=True)
    ]
    return streams, {"tokenizer": None, "shards": sizes}


def _open_shard(path: Path, name: str, declared: str) -> Stream:
    """A memory-mapped shard: raw tokens as nanoGPT writes them, or with llm.c's header."""
    size = path.stat().st_size
    dtype, offset = np.dtype(declared).newbyteorder("<"), 0
    if size >= _HEADER_BYTES:
        header = np.fromfile(path, "<i4", 3)
        told = _HEADERS.get((int(header[0]), int(header[1])))
        if told is not None:
            dtype, offset = np.dtype(told), _HEADER_BYTES
            if size != offset + int(header[2]) * dtype.itemsize:
                raise RunRefusedError(
                    "CONFIG_REFUSED",
                    f"{name}: its header tells {header[2]} tokens of {dtype.itemsize} bytes, "
                    f"the file holds {size - offset} bytes",
                )
    if size == offset or (size - offset) % dtype.itemsize:
        raise RunRefusedError(
            "CONFIG_REFUSED",
            f"{name}: {size - offset} bytes are no tokens of {dtype.itemsize} bytes",
        )
    return np.memmap(path, dtype, mode="r", offset=offset)


def _inside(root: Path, name: str) -> Path:
    """The regular file `name` beneath `root`, no symbolic link on the way."""
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise RunRefusedError("CONFIG_REFUSED", f"shard {name} must lie inside the project")
    path = root
    for part in relative.parts:
        path /= part
        if path.is_symlink():
            raise RunRefusedError("CONFIG_REFUSED", f"shard {name}: {part} is a symbolic link")
    if not path.is_file():
        raise RunRefusedError("CONFIG_REFUSED", f"shard {name}: there is no such file")
    return path
