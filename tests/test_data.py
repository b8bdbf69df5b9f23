"""Windows, batches, shards and the cached tokenizer, on real files."""

from __future__ import annotations

import hashlib
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_gates.model.config import PretrainRun
from pytest_gates.model.data import (
    Batches,
    Windows,
    _stdlib_sources,
    open_corpus,
    refuse_beyond,
)
from pytest_gates.model.telemetry import RunRefusedError


def pretrain(data: dict[str, Any], **settings: Any) -> PretrainRun:
    shape = {"hidden": 8, "layers": 1, "heads": 2, "kv_heads": 1, "intermediate": 8, "vocab": 4000}
    values = {"device": "cpu", "model": shape, "seq_len": 4, "batch_size": 2, "steps": 10}
    return PretrainRun.model_validate({"driver": "pretrain", "data": data, **values, **settings})


def refused(run: PretrainRun, root: Path) -> str:
    with pytest.raises(RunRefusedError) as caught:
        open_corpus(run, root, root / "cache")
    assert caught.value.status == "CONFIG_REFUSED"
    return caught.value.reason


def batches(count: int, *, batch_size: int, seed: int = 0) -> Batches:
    windows = Windows((np.arange(count * 4 + 1, dtype=np.uint16),), 4)
    assert windows.count == count
    return Batches(windows, batch_size=batch_size, vocab=1000, seed=seed)


def test_no_window_crosses_from_one_stream_to_the_next() -> None:
    streams = (np.arange(0, 10, dtype=np.uint16), np.arange(100, 103, dtype=np.uint16),
               np.arange(200, 209, dtype=np.uint16))  # fmt: skip
    windows = Windows(streams, 4)
    assert windows.count == 4
    read = windows.read(range(windows.count))
    assert read.tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8],
                             [200, 201, 202, 203, 204], [204, 205, 206, 207, 208]]  # fmt: skip


def test_each_pass_reads_every_window_once_in_an_order_of_its_own() -> None:
    dealt = batches(6, batch_size=2)
    first = np.concatenate([dealt.batch(step) for step in range(3)])[:, 0]
    second = np.concatenate([dealt.batch(step) for step in range(3, 6)])[:, 0]
    assert sorted(first) == sorted(second) == [0, 4, 8, 12, 16, 20]
    assert list(first) != list(second)


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    here, there = batches(50, batch_size=3), batches(50, batch_size=3)
    forward = [here.batch(step) for step in range(40)]
    assert all(np.array_equal(there.batch(step), forward[step]) for step in (39, 0, 17, 16))
    other = batches(50, batch_size=3, seed=1)
    assert not np.array_equal(other.batch(0), forward[0])


@pytest.mark.parametrize(("count", "batch_size"), [(6, 2), (7, 2), (3, 5)])
def test_data_cycle_at_the_first_step_that_reads_a_window_again(
    count: int, batch_size: int
) -> None:
    dealt = batches(count, batch_size=batch_size)
    seen: set[int] = set()
    for step in range(dealt.cycles_at + 1):
        starts = dealt.batch(step)[:, 0].tolist()
        again = len(set(starts)) < len(starts) or not seen.isdisjoint(starts)
        assert again == (step == dealt.cycles_at)
        seen.update(starts)
    assert dealt.tokens_per_pass == count * 4


def test_data_hash_is_that_of_the_tokens_dealt() -> None:
    dealt = batches(6, batch_size=2)
    fed = np.concatenate([dealt.batch(0), dealt.batch(1)])
    assert dealt.sha256 == hashlib.sha256(fed.astype("<u4").tobytes()).hexdigest()


def test_stdlib_bytes_are_the_sources_of_this_python(tmp_path: Path) -> None:
    corpus = open_corpus(pretrain({"corpus": "python-stdlib"}), tmp_path, tmp_path / "cache")
    text = b"".join(stream.tobytes() for stream in corpus.train + corpus.validation)
    assert hashlib.sha256(text).hexdigest() == corpus.facts["corpus_sha256"]
    assert Path(sysconfig.get_path("stdlib"), "dataclasses.py").read_bytes() in text
    assert Path(sysconfig.get_path("stdlib"), "asyncio", "tasks.py").read_bytes() in text
    assert b"site-packages/numpy" not in text
    assert 3e6 < len(text) < 2e7
    assert corpus.facts["train_tokens"] + corpus.facts["validation_tokens"] == len(text)
    assert corpus.facts["validation_tokens"] == int(len(text) * 0.05)
    assert corpus.facts["tokenizer_sha256"] is None
    assert not (tmp_path / "cache").exists()


def test_bpe_is_trained_once_by_several_at_a_time_and_then_cached(tmp_path: Path) -> None:
    run = pretrain({"corpus": "python-stdlib", "tokenizer": "bpe-4000"})
    cache = tmp_path / "cache"
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: open_corpus(run, tmp_path, cache), range(2))
    assert first.facts == second.facts
    (tokens,) = (cache / "corpus").glob("*.bin")
    written = tokens.stat().st_mtime_ns
    third = open_corpus(run, tmp_path, cache)
    assert tokens.stat().st_mtime_ns == written
    assert third.facts == first.facts
    stream = np.concatenate(third.train + third.validation)
    assert 255 < stream.max() < 4000
    (saved,) = (cache / "corpus").glob("*.json")
    assert hashlib.sha256(saved.read_bytes()).hexdigest() == first.facts["tokenizer_sha256"]
    suffixes = {path.suffix for path in (cache / "corpus").iterdir()}
    assert suffixes <= {".bin", ".json", ".lengths", ".lock"}

    from tokenizers import Tokenizer

    text = Tokenizer.from_file(str(saved)).decode(stream[:500].tolist())
    library = Path(sysconfig.get_path("stdlib"))
    assert (library / "__future__.py").read_text(encoding="utf-8").startswith(text)


def test_every_twentieth_file_of_the_library_is_held_out(tmp_path: Path) -> None:
    data = {"corpus": "python-stdlib", "held_out": "documents"}
    files = [path.read_bytes() for path in _stdlib_sources()]
    corpus = open_corpus(pretrain(data), tmp_path, tmp_path / "cache")
    (train,), (validation,) = corpus.train, corpus.validation
    assert validation.tobytes() == b"".join(files[19::20])
    kept = [file for index, file in enumerate(files) if index % 20 != 19]
    assert train.tobytes() == b"".join(kept)
    assert corpus.facts["train_tokens"] == len(train)
    assert corpus.facts["validation_tokens"] == len(validation)
    tokens = {**data, "tokenizer": "bpe-4000", "validation": 0.3}
    first, again = (open_corpus(pretrain(tokens), tmp_path, tmp_path / "cache") for _ in range(2))
    from tokenizers import Tokenizer

    (saved,) = (tmp_path / "cache" / "corpus").glob("*.json")
    text = Tokenizer.from_file(str(saved)).decode(first.validation[0].tolist())
    held_out = [files[i] for i in range(len(files)) if (i + 1) * 3 // 10 > i * 3 // 10]
    assert text == b"".join(held_out).decode("utf-8", "replace")
    assert np.array_equal(first.validation[0], again.validation[0])


def test_shards_hold_out_no_documents() -> None:
    with pytest.raises(ValueError, match="shards do not tell where a document ends"):
        pretrain({"shards": ["a.bin"], "held_out": "documents"})


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_raw_shards_are_read_in_order_and_split_at_the_end(tmp_path: Path, dtype: str) -> None:
    np.arange(0, 60, dtype=dtype).tofile(tmp_path / "a.bin")
    np.arange(60, 100, dtype=dtype).tofile(tmp_path / "b.bin")
    data = {"shards": ["a.bin", "b.bin"], "shard_dtype": dtype, "validation": 0.3}
    corpus = open_corpus(pretrain(data), tmp_path, tmp_path)
    assert [s.tolist() for s in corpus.train] == [list(range(60)), list(range(60, 70))]
    assert [s.tolist() for s in corpus.validation] == [list(range(70, 100))]
    assert corpus.facts["shards"] == [
        {"path": "a.bin", "tokens": 60},
        {"path": "b.bin", "tokens": 40},
    ]


@pytest.mark.parametrize(
    ("magic", "version", "dtype"), [(20240520, 1, "<u2"), (20240801, 7, "<u4")]
)
def test_llm_c_header_is_understood(tmp_path: Path, magic: int, version: int, dtype: str) -> None:
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, 200
    body = np.arange(200, dtype=dtype).tobytes()
    (tmp_path / "a.bin").write_bytes(header.tobytes() + body)
    corpus = open_corpus(pretrain({"shards": ["a.bin"]}), tmp_path, tmp_path)
    assert np.concatenate(corpus.train + corpus.validation).tolist() == list(range(200))
    (tmp_path / "a.bin").write_bytes(header.tobytes() + body[:-2])
    assert "its header tells 200 tokens" in refused(pretrain({"shards": ["a.bin"]}), tmp_path)


def test_shards_stay_inside_the_project_and_behind_no_link(tmp_path: Path) -> None:
    root = tmp_path / "project"
    (root / "real").mkdir(parents=True)
    np.arange(100, dtype="<u2").tofile(tmp_path / "outside.bin")
    np.arange(100, dtype="<u2").tofile(root / "real" / "a.bin")
    (root / "file.bin").symlink_to("real/a.bin")
    (root / "folder").symlink_to("real")
    open_corpus(pretrain({"shards": ["real/a.bin"]}), root, root)
    for name, reason in {
        "../outside.bin": "must lie inside",
        str(tmp_path / "outside.bin"): "must lie inside",
        "file.bin": "file.bin is a symbolic link",
        "folder/a.bin": "folder is a symbolic link",
        "real/b.bin": "there is no such file",
        "real": "there is no such file",
    }.items():
        assert reason in refused(pretrain({"shards": [name]}), root)


def test_what_cannot_serve_the_run_is_refused_with_the_numbers(tmp_path: Path) -> None:
    np.arange(100, dtype="<u2").tofile(tmp_path / "a.bin")
    (tmp_path / "odd.bin").write_bytes(b"abc")
    (tmp_path / "empty.bin").write_bytes(b"")
    long = refused(pretrain({"shards": ["a.bin"]}, seq_len=95), tmp_path)
    assert long == (
        "the training split holds 95 tokens in a piece, a window of seq_len 95 needs 96"
    )
    assert "validation split holds 5" in refused(
        pretrain({"shards": ["a.bin"]}, seq_len=5), tmp_path
    )
    unvalidated = pretrain({"shards": ["a.bin"]}, seq_len=5, validation_batches=0)
    assert len(open_corpus(unvalidated, tmp_path, tmp_path).train[0]) == 95
    assert "3 bytes are no tokens of 2 bytes" in refused(
        pretrain({"shards": ["odd.bin"]}), tmp_path
    )
    assert "0 bytes are no tokens" in refused(pretrain({"shards": ["empty.bin"]}), tmp_path)
    with pytest.raises(RunRefusedError, match="reads token 400, the model's vocabulary has 400"):
        refuse_beyond(np.array([[3, 400]]), 400, "step 2")
    refuse_beyond(np.array([[3, 399]]), 400, "step 2")


def test_a_shard_read_in_the_wrong_type_is_refused_when_a_batch_meets_it(tmp_path: Path) -> None:
    np.full(200, 70_000, "<u4").tofile(tmp_path / "a.bin")
    corpus = open_corpus(pretrain({"shards": ["a.bin"]}), tmp_path, tmp_path)
    dealt = Batches(Windows(corpus.train, 4), batch_size=2, vocab=4000, seed=0)
    with pytest.raises(RunRefusedError, match=r"step 0 reads token 4464.*shard_dtype"):
        dealt.batch(0)
