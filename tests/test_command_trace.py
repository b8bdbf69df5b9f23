"""`pytest-gates trace` as people and programs call it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from checkpoints import gguf_of, saved
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from pytest_gates.cli import main

FIELD = Path(__file__).parents[2] / "shared" / "field" / "sub-ffn-per-layer-stds.csv"
TABLE = "layer,ffn_silu,ffn_swigl\n" + "".join(
    f"{layer},{0.3 if layer == 3 else 0.1},{9 if layer == 3 else 0.1}\n" for layer in range(6)
)


def test_a_recorded_table_is_told_with_its_anomaly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, page = tmp_path / "<t>.csv", tmp_path / "page.html"
    table.write_text(TABLE)
    assert main(["trace", str(table), "--html", str(page)]) == 1
    out = capsys.readouterr().out
    (marked,) = (line for line in out.splitlines() if "<- first anomaly" in line)
    assert marked.split()[:2] == ["3", "ffn_swigl"]
    assert "first anomaly: layer 3 ffn_swigl 90-fold" in out
    assert "precursor: layer 3 ffn_silu 3-fold" in out
    text = page.read_text()
    assert "&lt;t&gt;.csv" in text
    assert "<t>" not in text
    assert text.count('class="first"') == 1
    assert "http" not in text


@pytest.mark.parametrize(
    ("table", "statistic", "told"),
    [
        (TABLE.replace("0.3,9", "nan,9"), "std", "first anomaly: std of layer 3 ffn_silu is nan"),
        (TABLE.replace("0.3,9", "inf,9"), "std", "first anomaly: std of layer 3 ffn_silu is inf"),
        (TABLE[: TABLE.index("2,")], "std", "undecided: a leap needs 4 layers to stand out from, "),
        (TABLE, "rms", "the trace tells no rms, only std"),
    ],
    ids=["nan", "inf", "two layers", "another statistic"],
)
def test_a_trace_that_shows_no_leap_is_not_called_sound_for_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: str, statistic: str, told: str
) -> None:
    (tmp_path / "t.csv").write_text(table)
    status = main(["trace", str(tmp_path / "t.csv"), "--statistic", statistic])
    said = capsys.readouterr()
    assert status == (0 if told.startswith("undecided") else 1)
    assert told in said.out + said.err
    assert "no anomaly" not in said.out
    assert ("<- first anomaly" in said.out) is told.startswith("first anomaly")


def test_weights_are_traced_written_and_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "t.csv"
    assert main(["trace", "llama-1m", "--prompt", "hello", "--csv", str(table), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["facts"]["tokens"] == 5
    assert len(said["slots"]) == 5 * 16 + 2
    assert main(["trace", str(table), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert [one["std"] for one in again["slots"]] == [one["std"] for one in said["slots"]]


def test_what_cannot_be_traced_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        ([str(tmp_path / "none.csv")], "none.csv: No such file"),
        ([str(tmp_path / "none")], "CONFIG_REFUSED: weights none: there is no such file or folder"),
        (["llama-1m", "--device", "gpu"], "device: String should match"),
    ):
        assert main(["trace", *arguments]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


@pytest.mark.slow
def test_links_of_a_cache_are_followed_with_what_lies_beside_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such caches hold files under their hashes, and a folder of links a revision."""
    saved(tmp_path / "m", "llama", False)
    gguf_of(tmp_path / "m.gguf", tmp_path / "m", "llama", "F32")
    one = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))  # noqa: S106 - a token, no secret
    one.save(str(tmp_path / "tokenizer.json"))
    blobs, links = tmp_path / "blobs", tmp_path / "snapshots" / "r1"
    blobs.mkdir()
    links.mkdir(parents=True)
    held = [tmp_path / "m.gguf", tmp_path / "tokenizer.json", *(tmp_path / "m").iterdir()]
    for number, file in enumerate(held):
        file.rename(blobs / f"{number:040x}")
        (links / file.name).symlink_to(blobs / f"{number:040x}")
    for path in (links / "m.gguf", links):
        assert main(["trace", str(path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["facts"]["tokens"] == 1
    assert main(["trace", str(links / "m.gguf"), str(links), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["told"] == ["every slot agrees"]
    assert main(["trace", str(links / "model.safetensors")]) == 1
    error = capsys.readouterr().err
    assert error.endswith(f"is a link away from its config.json; name the folder {links}\n")


@pytest.mark.slow
def test_two_sides_are_told_drawn_and_refused_alike(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The terminal, the page and the JSON say the same, also that nothing was compared."""
    saved(tmp_path / "good", "llama", False)
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    tensors = load_file(tmp_path / "bad" / "model.safetensors")
    tensors["model.layers.1.self_attn.o_proj.weight"] *= -1
    save_file(tensors, tmp_path / "bad" / "model.safetensors", {"format": "pt"})
    sides, page = [str(tmp_path / "bad"), str(tmp_path / "good")], tmp_path / "page.html"
    assert main(["trace", *sides, "--html", str(page)]) == 1
    out, text = capsys.readouterr().out, page.read_text()
    (marked,) = (line for line in out.splitlines() if "<- first divergent slot" in line)
    assert marked.split()[:2] == ["1", "attn_proj"]
    assert "Trace of bad against good" in text
    assert "<li>first divergent slot: layer 1 attn_proj</li>" in text
    assert "own_rel_l2 by layer and slot; white is within its limit" in text
    assert text.count('class="first"') == 1
    trap = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))  # noqa: S106 - a token, no secret
    trap.save(str(tmp_path / "bad" / "tokenizer.json"))
    trap.pre_tokenizer = pre_tokenizers.Whitespace()
    trap.save(str(tmp_path / "good" / "tokenizer.json"))
    assert main(["trace", *sides, "--html", str(page), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)["refused"]
    assert told.startswith("not compared: 1 tokens were fed to the path, 3 to the reference (tok")
    text = page.read_text()
    assert f"<li>{told}</li>" in text
    assert "no anomaly" not in text.lower()
    assert "own_rel_l2" not in text


@pytest.mark.skipif(not FIELD.exists(), reason="the field's files are not here")
def test_the_fields_own_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", str(FIELD)]) == 1
    out = capsys.readouterr().out
    assert "first anomaly: layer 3 ffn_swigl 17.2-fold" in out
    assert "cascade: layer 3 ffn_out 53-fold" in out
