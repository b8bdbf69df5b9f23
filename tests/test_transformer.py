"""The model against an implementation of its own that shares no code with it."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from pytest_gates.model.config import PRESETS, Architecture
from pytest_gates.model.slots import BLOCK_SLOTS, FINAL_SLOTS
from pytest_gates.model.transformer import Transformer, attention_backend, initialised

CPU = torch.device("cpu")
SMALL = Architecture(
    hidden=24, layers=2, heads=6, kv_heads=2, intermediate=40, vocab=50, rope_theta=50.0
)


def reference_logits(weights: dict[str, Tensor], shape: Architecture, tokens: list[int]) -> Tensor:
    """T V, in float64: one position and one head at a time, RoPE as a complex multiplication."""
    w = {name: value.double() for name, value in weights.items()}
    width, half = shape.head_dim, shape.head_dim // 2
    group = shape.heads // shape.kv_heads

    def norm(x: Tensor, scale: Tensor) -> Tensor:
        return x / torch.sqrt((x * x).mean() + shape.norm_eps) * scale

    def turned(x: Tensor, position: int) -> Tensor:
        out = x.clone()
        for i in range(half):
            angle = position * shape.rope_theta ** (-2 * i / width)
            z = complex(x[i], x[i + half]) * cmath.exp(1j * angle)
            out[i], out[i + half] = z.real, z.imag
        return out

    stream = [w["model.embed_tokens.weight"][t] for t in tokens]
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        normed = [norm(x, w[at + "input_layernorm.weight"]) for x in stream]
        q, k, v = (
            [w[f"{at}self_attn.{name}_proj.weight"] @ x for x in normed] for name in ("q", "k", "v")
        )
        for t in range(len(tokens)):
            heads = []
            for head in range(shape.heads):
                own = slice(head * width, (head + 1) * width)
                shared = slice(head // group * width, (head // group + 1) * width)
                query = turned(q[t][own], t)
                scores = torch.stack([query @ turned(k[s][shared], s) for s in range(t + 1)])
                share = torch.softmax(scores / math.sqrt(width), dim=0)
                heads.append(sum(p * v[s][shared] for s, p in enumerate(share)))
            stream[t] = stream[t] + w[at + "self_attn.o_proj.weight"] @ torch.cat(heads)
        for t, x in enumerate(stream):
            normed_t = norm(x, w[at + "post_attention_layernorm.weight"])
            gate = w[at + "mlp.gate_proj.weight"] @ normed_t
            up = w[at + "mlp.up_proj.weight"] @ normed_t
            stream[t] = x + w[at + "mlp.down_proj.weight"] @ (gate * torch.sigmoid(gate) * up)
    final = torch.stack([norm(x, w["model.norm.weight"]) for x in stream])
    return final @ w["lm_head.weight"].T


def loud(shape: Architecture) -> Transformer:
    """A model whose parameters are all large enough to matter, norms included."""
    model = Transformer(shape)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.5, generator=generator)
    return model


@pytest.mark.parametrize("kv_heads", [1, 2, 6])
@pytest.mark.parametrize("backend", [SDPBackend.FLASH_ATTENTION, SDPBackend.MATH])
def test_logits_equal_an_independent_implementation(kv_heads: int, backend: SDPBackend) -> None:
    shape = SMALL.model_copy(update={"kv_heads": kv_heads})
    model = loud(shape)
    tokens = [7, 3, 49, 0, 3, 3, 21, 8, 30]
    with torch.no_grad(), sdpa_kernel(backend):
        logits = model(torch.tensor([tokens, tokens[::-1]]))
    expected = reference_logits(model.state_dict(), shape, tokens)
    torch.testing.assert_close(logits[0].double(), expected, rtol=1e-4, atol=1e-3)
    reversed_expected = reference_logits(model.state_dict(), shape, tokens[::-1])
    torch.testing.assert_close(logits[1].double(), reversed_expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("tied", "count"), [(False, 373_509_120), (True, 322_045_952)])
def test_llama_370m_has_the_known_number_of_parameters(tied: bool, count: int) -> None:
    shape = PRESETS["llama-370m"].model_copy(update={"tied": tied})
    with torch.device("meta"):
        model = Transformer(shape)
    assert sum(p.numel() for p in model.parameters()) == count == shape.parameters


def test_names_and_shapes_are_the_unfused_hugging_face_ones() -> None:
    shapes = {name: tuple(p.shape) for name, p in loud(SMALL).state_dict().items()}
    block = "model.layers.1."
    assert shapes["model.embed_tokens.weight"] == (50, 24)
    assert shapes[block + "self_attn.q_proj.weight"] == (24, 24)
    assert shapes[block + "self_attn.k_proj.weight"] == (8, 24)
    assert shapes[block + "self_attn.v_proj.weight"] == (8, 24)
    assert shapes[block + "self_attn.o_proj.weight"] == (24, 24)
    assert shapes[block + "mlp.gate_proj.weight"] == (40, 24)
    assert shapes[block + "mlp.up_proj.weight"] == (40, 24)
    assert shapes[block + "mlp.down_proj.weight"] == (24, 40)
    assert shapes[block + "input_layernorm.weight"] == (24,)
    assert shapes[block + "post_attention_layernorm.weight"] == (24,)
    assert shapes["model.norm.weight"] == (24,)
    assert shapes["lm_head.weight"] == (50, 24)
    assert len(shapes) == 2 * 9 + 3


def test_tied_projection_is_the_embeddings_own_storage() -> None:
    model = initialised(SMALL.model_copy(update={"tied": True}), CPU, seed=0)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lm_head.weight" not in dict(model.named_parameters())


@pytest.mark.parametrize("tied", [False, True])
def test_first_loss_lies_near_the_logarithm_of_the_vocabulary(tied: bool) -> None:
    shape = PRESETS["llama-1m"].model_copy(update={"tied": tied})
    tokens = torch.randint(256, (4, 33), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = initialised(shape, CPU, seed=0)(tokens[:, :-1])
    loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(256), abs=0.1)


def test_initialisation_follows_the_seed_and_scales_residual_projections() -> None:
    shape = PRESETS["llama-1m"]
    first, again, other = (initialised(shape, CPU, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    name = "model.layers.0.self_attn.o_proj.weight"
    assert not torch.equal(first[name], other[name])
    expected = 0.02 / math.sqrt(2 * shape.layers)
    assert first[name].std().item() == pytest.approx(expected, rel=0.05)
    query = first["model.layers.0.self_attn.q_proj.weight"]
    assert query.std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.equal(first["model.norm.weight"], torch.ones(128))


def test_observer_sees_every_slot_in_order_and_changes_nothing() -> None:
    model = loud(SMALL)
    tokens = torch.tensor([[1, 2, 3]])
    seen: dict[tuple[int, str], Tensor] = {}
    with torch.no_grad():
        logits = model(tokens, lambda layer, slot, x: seen.update({(layer, slot): x}))
        assert torch.equal(logits, model(tokens))
    blocks = [(layer, slot) for layer in range(SMALL.layers) for slot in BLOCK_SLOTS]
    assert list(seen) == blocks + [(-1, slot) for slot in FINAL_SLOTS]
    assert seen[0, "q_rope"].shape == (1, 6, 3, 4)
    assert seen[0, "k_rope"].shape == (1, 2, 3, 4)
    assert seen[0, "ffn_swigl"].shape == (1, 3, 40)
    assert torch.equal(seen[-1, "logits"], logits)
    mid = seen[1, "residual_mid"]
    assert torch.equal(mid, seen[0, "residual_out"] + seen[1, "attn_proj"])
    assert torch.equal(seen[1, "residual_out"], mid + seen[1, "ffn_out"])


def test_the_chosen_attention_kernel_carries_the_model_out() -> None:
    backend = attention_backend(SMALL, CPU, torch.float32)
    with torch.no_grad(), sdpa_kernel(backend):
        assert loud(SMALL)(torch.tensor([[1, 2]])).shape == (1, 2, 50)
