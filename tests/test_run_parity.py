"""Two runs that never met: safetensors against GGUF, in five lines, on small files made here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from checkpoints import gguf_of, saved
from loading import refused
from project import Project, dedented
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models

from pytest_gates.model.sketch import sketches

FIVE_LINES = """
    runs:
      safetensors: {driver: forward, device: cpu, weights: m, sketch: true}
      gguf: {from: safetensors, weights: m.gguf}
    gates:
      - {id: G-GGUF, checks: [{kind: trace_parity, of: [gguf, safetensors]}], verdict: pending}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder `m` as safetensors, three GGUF files of it, and three folders with a flaw each."""
    pytest.importorskip("gguf")
    folder = tmp_path_factory.mktemp("weights")
    saved(folder / "m", "llama", False)
    for kind in KINDS:
        gguf_of(folder / f"{kind}.gguf", folder / "m", "llama", kind)
    for name, (flaw, _) in FLAWS.items():
        shutil.copytree(folder / "m", folder / name)
        tensors = load_file(folder / "m" / "model.safetensors")
        flaw(tensors)
        save_file(tensors, folder / name / "model.safetensors", {"format": "pt"})
    return folder


def _swapped(tensors: dict[str, torch.Tensor]) -> None:
    gate, up = (f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up"))
    tensors[gate], tensors[up] = tensors[up], tensors[gate]


def _negated(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.0.self_attn.o_proj.weight"] *= -1


def _one_channel(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.1.post_attention_layernorm.weight"][3] *= 64


KINDS = ("F32", "F16", "Q8_0")
FLAWS = {
    "swapped": (_swapped, "layer 1 ffn_gate"),
    "negated": (_negated, "layer 0 attn_proj"),
    "channel": (_one_channel, "layer 1 ffn_norm"),
}


def _verdicts(result: pytest.RunResult) -> dict[str, str]:
    return {
        line.split()[0]: line.split()[2] for line in result.stdout.lines if line.startswith("G-")
    }


def test_safetensors_against_gguf_is_five_lines(project: Project, made: Path) -> None:
    shutil.copytree(made / "m", project.root / "m")
    shutil.copy(made / "F32.gguf", project.root / "m.gguf")
    project.contract(FIVE_LINES)
    assert len(dedented(FIVE_LINES).splitlines()) == 5
    assert _verdicts(project.run()) == {"G-GGUF": "PASS"}


def _gate(name: str, a: str, b: str) -> str:
    return (
        f"  - {{id: {name}, checks: [{{kind: trace_parity, of: [{a}, {b}]}}], verdict: pending}}\n"
    )


def test_storage_agrees_and_flaws_are_named_at_their_slot(project: Project, made: Path) -> None:
    shutil.copytree(made, project.root, dirs_exist_ok=True)
    runs = "runs:\n  m: {driver: forward, device: cpu, weights: m, sketch: true}\n"
    gates = "gates:\n"
    for kind in KINDS:
        runs += f"  {kind}: {{from: m, weights: {kind}.gguf}}\n"
        gates += _gate(f"G-{kind}", kind, "m")
    for name in FLAWS:
        runs += f"  {name}: {{from: m, weights: {name}}}\n"
        gates += "".join(_gate(f"G-{name}-{kind}", name, kind) for kind in KINDS)
    project.contract(runs + gates)
    result = project.run()
    flawed = {f"G-{name}-{kind}": "FAIL" for name in FLAWS for kind in KINDS}
    assert _verdicts(result) == {f"G-{kind}": "PASS" for kind in KINDS} | flawed
    text = result.stdout.str()
    for name, (_, slot) in FLAWS.items():
        for kind in KINDS:
            assert f"first divergent slot {slot}: {name} is " in text
            assert f"off {kind}, limit" in text


def test_another_input_is_refused_with_the_difference(project: Project) -> None:
    project.contract(
        dedented("""
        runs:
          a: {driver: forward, device: cpu, model: llama-1m, sketch: true}
          fewer: {from: a, prompt: "x"}
          other: {from: a, prompt: "def main()!\\n"}
          narrow:
            from: a
            model: {hidden: 64, layers: 5, heads: 4, kv_heads: 2, intermediate: 96, vocab: 256}
        gates:
        """)
        + "".join(_gate(f"G-{name}", name, "a") for name in ("fewer", "other", "narrow"))
    )
    result = project.run()
    assert set(_verdicts(result).values()) == {"INCONCLUSIVE"}
    for why in (
        "1 tokens were fed to fewer, 12 to a",
        "12 tokens on both sides, but not the same ones",
        "shapes differ: layer 0 attn_norm of 768 elements against layer 0 attn_norm of 1536",
    ):
        assert f"trace_parity: INCONCLUSIVE: {why}" in result.stdout.str()


def test_two_tokenizers_are_named_where_the_tokens_differ(project: Project, made: Path) -> None:
    shutil.copytree(made / "m", project.root / "m")
    shutil.copy(made / "F32.gguf", project.root / "m.gguf")
    words = {f"w{number}": number for number in range(300)}
    Tokenizer(models.WordLevel(words, unk_token="w0")).save(str(project.root / "m/tokenizer.json"))  # noqa: S106 - a token, no secret
    more = (
        "  same: {from: gguf, tokenizer: m/tokenizer.json}\n"
        "  beside: {from: gguf, weights: m, against: {weights: m.gguf}}\n"
    )
    project.contract(
        dedented(FIVE_LINES).replace("gates:\n", more + "gates:\n")
        + _gate("G-SAME", "same", "safetensors")
        + "  - {id: G-BESIDE, run: beside, checks: [{kind: trace_parity}], verdict: pending}\n"
    )
    result = project.run()
    # A file that has no tokenizer beside it is fed the run's own tokens.
    assert _verdicts(result) == {"G-GGUF": "INCONCLUSIVE", "G-SAME": "PASS", "G-BESIDE": "PASS"}
    told = "12 tokens were fed to gguf, 1 to safetensors (tokenizers: bytes and tokenizer.json "
    assert told in result.stdout.str()


def test_gradients_are_compared_whatever_the_files_say_beside_their_tensors(
    project: Project, made: Path
) -> None:
    """A GGUF file rounds epsilon to float32; a tied model has one parameter less."""
    shutil.copytree(made / "m", project.root / "m")
    saved(project.root / "tied", "llama", True)
    for kind in ("F32", "Q8_0"):
        shutil.copy(made / f"{kind}.gguf", project.root)
    check = "checks: [{kind: trace_parity, direction: backward}], verdict: pending"
    runs = "runs:\n  tied: {driver: forward, device: cpu, weights: tied, against: {weights: m, "
    runs += "backward: true}}\n"
    for kind in ("F32", "Q8_0"):
        runs += f"  {kind}: {{from: tied, weights: m, against: {{weights: {kind}.gguf}}}}\n"
    gates = "".join(f"  - {{id: G-{n}, run: {n}, {check}}}\n" for n in ("F32", "Q8_0", "tied"))
    project.contract(runs + "gates:\n" + gates)
    result = project.run()
    assert _verdicts(result) == {"G-F32": "PASS", "G-Q8_0": "PASS", "G-tied": "INCONCLUSIVE"}
    why = "trace_parity: INCONCLUSIVE: parameters differ: lm_head.weight is the reference's alone"
    assert why in result.stdout.str()


def test_weights_that_cannot_serve_are_told_by_the_gate(project: Project) -> None:
    gate = "{id: G, run: a, checks: [{kind: same_input}, {kind: trace_parity}], verdict: pending}"
    project.contract(f"""
        runs:
          a: {{driver: forward, device: cpu, weights: nowhere, against: {{}}}}
        gates:
          - {gate}
    """)
    text = project.run().stdout.str()
    for check in ("same_input", "trace_parity"):
        why = "run ended CONFIG_REFUSED after 0 steps: weights nowhere: there is no such file"
        assert f"{check}: INCONCLUSIVE: {why}" in text


def test_gradients_beside_a_run_are_no_obstacle(project: Project) -> None:
    """They have no sketch, for they are compared with the run's own reference alone."""
    project.contract(
        dedented("""
        runs:
          sound: {driver: forward, device: cpu, model: llama-1m, sketch: true}
          fp32: {from: sound, against: {backward: true}}
          bf16: {from: fp32, dtype: bf16}
        gates:
        """)
        + _gate("G-TWO", "bf16", "fp32")
    )
    assert _verdicts(project.run()) == {"G-TWO": "PASS"}


SABOTAGED = """
    contract_id: C-TWO
    runs:
      reference: {driver: forward, device: cpu, model: llama-1m, dtype: fp32, sketch: true}
      path: {from: reference, dtype: bf16, against: {}}
    gates:
      - {id: G, checks: [{kind: trace_parity, of: [path, reference]}], verdict: pending}
    falsification_tests:
      - id: F1
        binds_to: G
        inject: {fault: swiglu_slice, layer: 3}
        expect: {verdict: fail, check: trace_parity, slot: layer 3 ffn_swigl}
      - id: F2
        binds_to: G
        inject: {fault: kv_head_missing, layer: 4}
        expect: {verdict: fail, check: trace_parity, slot: layer 4 attn_out}
      - id: F3
        binds_to: G
        inject: {fault: outlier_channel, layer: 2}
        expect: {verdict: fail, check: trace_parity, slot: layer 2 ffn_norm}
"""


def test_a_fault_in_one_of_the_runs_is_named_at_its_slot(project: Project) -> None:
    """Path faults fit a run with `against`, so that the other stays sound."""
    project.contract(SABOTAGED)
    project.run().assert_outcomes(passed=4)
    assert "falsifiers: 3 (3 CAUGHT replayed)" in project.run("--gates-replay").stdout.str()


@pytest.mark.parametrize(
    ("check", "text"),
    [
        ("of: [a, b]", "run b keeps no sketch of its slots; give it `sketch: true`"),
        ("of: [a, a]", "a run equals itself; declare the second one with `from`"),
        ("of: [a]", "expected two runs by name, the path and its reference: [a, b]"),
        ("of: [a, c], direction: backward", "two runs are compared forward; gradients need"),
    ],
)
def test_what_cannot_be_compared_is_refused(check: str, text: str) -> None:
    runs = dedented("""
        contract_id: C
        runs:
          a: {driver: forward, device: cpu, model: llama-1m, sketch: true}
          b: {from: a, sketch: false}
          c: {from: a, seed: 1}
    """)
    (line,) = refused(
        f"gates:\n  - {{id: G, checks: [{{kind: trace_parity, {check}}}]}}\n", runs=runs
    )
    assert text in line


def test_a_sketch_estimates_the_distance_and_sees_signs_and_places() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(20, 4096, generator=draw)
    noise = 1e-3 * torch.randn(20, 4096, generator=draw)
    channel = torch.zeros(20, 64, 64)
    channel[:, :, 5] = 0.01
    for change in (noise, channel.flatten(1), -2 * x, x.roll(1, dims=1) - x):
        told = torch.linalg.vector_norm(sketches(x + change) - sketches(x), dim=1)
        true = torch.linalg.vector_norm(change.double(), dim=1)
        assert (told / true).mean().item() == pytest.approx(1, abs=0.06)
        assert ((told / true) - 1).abs().max().item() < 0.35
