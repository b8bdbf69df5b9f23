"""Checkpoints of both families: the logits of transformers, and one clear line for each flaw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pytest_gates.model.prompt import fed, refuse_unfit
from pytest_gates.model.telemetry import RunRefusedError
from pytest_gates.model.weights import loaded, open_weights

CPU = torch.device("cpu")
SHAPE = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
TOKENS = torch.tensor([[1, 7, 299, 0, 42, 42, 13, 5, 100, 250]])


def _saved(folder: Path, family: str, tied: bool, shard: str = "1GB", **said: Any) -> Tensor:
    """A random model of `transformers`, saved as it saves; its logits for TOKENS."""
    transformers = pytest.importorskip("transformers")
    kind = {"llama": "Llama", "qwen2": "Qwen2"}[family]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        **SHAPE, tie_word_embeddings=tied, rms_norm_eps=1e-5, initializer_range=0.1, **said
    )
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("bias", "norm.weight")):
                parameter.normal_(0.5, 0.3)
        logits: Tensor = model(TOKENS).logits
    model.save_pretrained(folder, max_shard_size=shard)
    return logits


def _logits(root: Path, location: str) -> Tensor:
    model = loaded(open_weights(root, location), CPU, torch.float32).eval()
    with torch.no_grad():
        found: Tensor = model(TOKENS)
    return found


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_logits_agree_with_transformers(tmp_path: Path, family: str, tied: bool) -> None:
    expected = _saved(tmp_path / "m", family, tied)
    torch.testing.assert_close(_logits(tmp_path, "m"), expected, rtol=0, atol=1e-5)
    model = loaded(open_weights(tmp_path, "m"), CPU, torch.float32)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    assert (model.get_submodule("model.layers.0.self_attn.q_proj").bias is None) is (
        family == "llama"
    )


def test_shards_behind_an_index_and_another_rope_base(tmp_path: Path) -> None:
    rope = {"rope_theta": 50.0, "rope_type": "default"}
    expected = _saved(tmp_path / "m", "qwen2", False, shard="60KB", rope_parameters=rope)
    assert len(list((tmp_path / "m").glob("*.safetensors"))) > 1
    assert open_weights(tmp_path, "m").architecture.rope_theta == 50.0
    torch.testing.assert_close(_logits(tmp_path, "m"), expected, rtol=0, atol=1e-5)


def _gguf(folder: Path, source: Path, family: str, kind: str, **said: Any) -> None:
    """The checkpoint as llama.cpp converts it: pairs of a Llama's q and k lie interleaved."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(folder, family)
    facts = {"context_length": 64, "embedding_length": 64, "block_count": 2,
             "feed_forward_length": 96, "head_count": 4, "head_count_kv": 2} | said  # fmt: skip
    for name, value in facts.items():
        getattr(writer, f"add_{name}")(value)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    quant = gguf.GGMLQuantizationType[kind]
    names = {"embed_tokens": "token_embd", "lm_head": "output", "q_proj": "attn_q",
             "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
             "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
             "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}  # fmt: skip
    for name, tensor in load_file(source / "model.safetensors").items():
        parts = name.split(".")
        block = f"blk.{parts[2]}." if parts[1] == "layers" else ""
        own = "output_norm" if name == "model.norm.weight" else names[parts[-2]]
        values = tensor.float().numpy()
        if family == "llama" and parts[-2] in {"q_proj", "k_proj"}:
            heads = 4 if parts[-2] == "q_proj" else 2
            paired = values.reshape(heads, 2, -1, values.shape[1])
            values = paired.swapaxes(1, 2).reshape(values.shape)
        if values.ndim == 1:
            writer.add_tensor(f"{block}{own}.{parts[-1]}", values)
        else:
            data = gguf.quantize(np.ascontiguousarray(values), quant)
            writer.add_tensor(f"{block}{own}.{parts[-1]}", data, raw_dtype=quant)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(("kind", "atol"), [("F32", 1e-5), ("F16", 0.02), ("Q8_0", 0.3)])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_gguf_is_the_same_model(tmp_path: Path, family: str, kind: str, atol: float) -> None:
    expected = _saved(tmp_path / "m", family, family == "qwen2")
    _gguf(tmp_path / "m.gguf", tmp_path / "m", family, kind)
    assert kind in open_weights(tmp_path, "m.gguf").types
    torch.testing.assert_close(_logits(tmp_path, "m.gguf"), expected, rtol=0, atol=atol)


def _refusal(root: Path, location: str) -> str:
    with pytest.raises(RunRefusedError) as caught:
        open_weights(root, location)
    assert caught.value.status == "CONFIG_REFUSED"
    assert "\n" not in caught.value.reason
    return caught.value.reason


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    _saved(folder / "m", "llama", False)
    return folder / "m"


def _changed(root: Path, checkpoint: Path, config: dict[str, Any] | None = None) -> dict[str, Any]:
    """A copy of the checkpoint with another config; its tensors."""
    (root / "m").mkdir()
    said = json.loads((checkpoint / "config.json").read_text())
    (root / "m" / "config.json").write_text(json.dumps(said | (config or {})))
    (root / "m" / "model.safetensors").write_bytes((checkpoint / "model.safetensors").read_bytes())
    return load_file(checkpoint / "model.safetensors")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "mamba"}, "m: unknown architecture 'mamba'; known are llama, qwen2"),
        ({"hidden_act": "gelu"}, "m: activation 'gelu' is not supported"),
        ({"head_dim": 32}, "m: heads of 32, hidden / heads is 16"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "m: rope scaling 'yarn' is not supported"),
        ({"vocab_size": None}, "m: config.json has no vocab_size"),
        ({"num_attention_heads": 5}, "m: config.json: Value error, hidden 64 is not divisible"),
        ({"num_hidden_layers": 3}, "m: 9 tensors missing: model.layers.2.input_layernorm.weight"),
        ({"num_hidden_layers": 1}, "m: 9 tensors not known to the architecture: model.layers.1."),
        (
            {"intermediate_size": 97},
            "m: model.layers.0.mlp.gate_proj.weight is [96, 64], the architecture asks for [97,",
        ),
        ({"tie_word_embeddings": True}, "m: says it is tied, but has an lm_head.weight of its own"),
    ],
)
def test_a_config_that_does_not_fit_is_one_line(
    tmp_path: Path, checkpoint: Path, config: dict[str, Any], message: str
) -> None:
    _changed(tmp_path, checkpoint, config)
    assert _refusal(tmp_path, "m").startswith(message)


def test_files_that_are_no_checkpoint_are_one_line(tmp_path: Path, checkpoint: Path) -> None:
    assert _refusal(tmp_path, "nowhere").endswith("there is no such file or folder")
    assert _refusal(tmp_path, "../m").endswith("must lie inside the project")
    tensors = _changed(tmp_path, checkpoint)
    file = tmp_path / "m" / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert _refusal(tmp_path, "m").startswith("model.safetensors: truncated, or no safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)
    save_file(tensors, file)
    assert _refusal(tmp_path, "m").startswith("m: unsupported quantisation I8")
    file.unlink()
    assert "has neither model.safetensors nor" in _refusal(tmp_path, "m")
    (tmp_path / "link").symlink_to(tmp_path / "m")
    assert _refusal(tmp_path, "link").endswith("link is a symbolic link")


def test_gguf_files_that_do_not_serve_are_one_line(tmp_path: Path, checkpoint: Path) -> None:
    _gguf(tmp_path / "m.gguf", checkpoint, "llama", "F32")
    whole = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "m.gguf").write_bytes(whole[: len(whole) // 2])
    assert _refusal(tmp_path, "m.gguf").startswith("m.gguf: truncated, or no GGUF file")
    (tmp_path / "m.gguf").write_bytes(b"no such thing")
    assert _refusal(tmp_path, "m.gguf").startswith("m.gguf: truncated, or no GGUF file")
    _gguf(tmp_path / "q.gguf", checkpoint, "llama", "Q4_0")
    assert _refusal(tmp_path, "q.gguf").startswith("q.gguf: unsupported quantisation Q4_0 of ")
    _gguf(tmp_path / "l.gguf", checkpoint, "llama", "F32", block_count=3)
    assert _refusal(tmp_path, "l.gguf").startswith("l.gguf: 9 tensors missing: model.layers.2.")


def test_a_prompt_and_a_tokenizer_that_do_not_fit_are_one_line(
    tmp_path: Path, checkpoint: Path
) -> None:
    shape = open_weights(checkpoint.parent, "m").architecture
    refuse_unfit(fed("x" * 64, None, None, tmp_path), shape)
    with pytest.raises(RunRefusedError, match="the prompt has 65 tokens, the model's context is 6"):
        refuse_unfit(fed("x" * 65, None, None, tmp_path), shape)
    small = shape.model_copy(update={"vocab": 255})
    with pytest.raises(RunRefusedError, match=r"tokenizer bytes has 256 ids, .* only 255"):
        refuse_unfit(fed("x", "bytes", None, tmp_path), small)
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(RunRefusedError, match=r"t\.json: no tokenizer"):
        fed("x", "t.json", None, tmp_path)
