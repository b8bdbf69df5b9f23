"""`pytest-gates trace` as people and programs call it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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


@pytest.mark.skipif(not FIELD.exists(), reason="the field's files are not here")
def test_the_fields_own_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", str(FIELD)]) == 1
    out = capsys.readouterr().out
    assert "first anomaly: layer 3 ffn_swigl 17.2-fold" in out
    assert "cascade: layer 3 ffn_out 53-fold" in out
