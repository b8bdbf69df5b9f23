"""Faults of one place of the forward path: each spoils one slot, which parity must name."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictFloat

from pytest_gates.model.config import ForwardRun
from pytest_gates.model.faults.base import BaseFault, Injectable, absent, modelless
from pytest_gates.model.settings import Count, Index


class _OfThePath(BaseFault):
    slot: ClassVar[str]
    """The slot that it spoils, and that parity must name."""
    checks: ClassVar[tuple[str, ...]] = ("trace_parity", "property")
    fits = "forward runs with a reference, that have the layer"


class _OfALayer(_OfThePath):
    layer: Index = 1
    """Block in which it happens."""

    def misfit(self, run: Injectable) -> str | None:
        """Fits a forward run that has the layer."""
        if not isinstance(run, ForwardRun):
            return f"driver {run.driver} traces no slots"
        if run.against is None and not run.properties:
            return "the run compares its path with nothing"
        shape = run.architecture
        why = None if shape is None else absent("layer", self.layer, shape.layers)
        return why or modelless(run)


class SwigluSlice(_OfALayer):
    """The up half of a fused SwiGLU is read one column further on."""

    fault: Literal["swiglu_slice"]
    meaning = "the gate is multiplied with the up projection shifted by one column"
    incident = "a fused gate and up matrix sliced one column too late"
    slot = "ffn_swigl"


class SwappedGateUp(_OfALayer):
    """Gate and up projections change places."""

    fault: Literal["swapped_gate_up"]
    meaning = "the up projection's weights are used as the gate's, and the other way round"
    incident = "a converter that took the two halves of a fused matrix in the wrong order"
    slot = "ffn_gate"


class UnmaskedAttention(_OfALayer):
    """Attention without its causal mask."""

    fault: Literal["unmasked_attention"]
    meaning = "every position sees those after it"
    incident = "a kernel called without its causal flag"
    slot = "attn_out"


class KvHeadMissing(_OfALayer):
    """The last group of query heads reads the key and value head before its own."""

    fault: Literal["kv_head_missing"]
    meaning = "one key and value head too few is read; the one before stands in for it"
    incident = "a key/value head count that was off by one"
    slot = "attn_out"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a forward run with more than one key and value head."""
        why = super().misfit(run)
        if why is None and isinstance(run, ForwardRun) and run.architecture is not None:
            return "the model has one kv head" if run.architecture.kv_heads == 1 else None
        return why


class OutlierChannel(_OfALayer):
    """One channel of a norm is scaled up."""

    fault: Literal["outlier_channel"]
    channel: Index = 0
    factor: Annotated[StrictFloat, Field(gt=1, le=1e6)] = 64.0
    meaning = "one weight of the norm before the feed-forward layer is `factor` times too large"
    incident = "a norm's weight read with the scale of another tensor"
    slot = "ffn_norm"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a forward run with that channel."""
        why = super().misfit(run)
        if why is None and isinstance(run, ForwardRun) and run.architecture is not None:
            return absent("channel", self.channel, run.architecture.hidden)
        return why


class DetachedGate(_OfALayer):
    """The gradient does not flow through the gate; the forward pass is untouched."""

    fault: Literal["detached_gate"]
    meaning = "the backward pass of SwiGLU leaves the gate's branch out"
    incident = "a hand-written kernel whose backward pass forgot one of two factors"
    slot = "grad mlp.gate_proj.weight"


class _OfTheInput(_OfThePath):
    checks = ("same_input",)
    fits = "forward runs with a reference"
    slot = "refused"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a forward run with a reference."""
        if not isinstance(run, ForwardRun) or run.against is None:
            return "the run has no reference beside it"
        return None


class FewerTokens(_OfTheInput):
    """The path is fed the beginning of the prompt alone; the reference all of it."""

    fault: Literal["fewer_tokens"]
    keep: Count = 1
    meaning = "the path is fed the first `keep` tokens"
    incident = "one side of a comparison was fed 7 tokens, the other 1, for weeks"


class ShiftedPositions(_OfTheInput):
    """The path is fed the prompt at later positions than the reference."""

    fault: Literal["shifted_positions"]
    by: Annotated[Count, Field(le=1_000_000)] = 1
    meaning = "the path is fed the prompt at positions that begin at `by`, not at 0"
    incident = "a cache's length added to the positions twice; no logit shows it"


PATH_FAULTS: tuple[type[_OfThePath], ...] = (
    SwigluSlice,
    SwappedGateUp,
    UnmaskedAttention,
    KvHeadMissing,
    OutlierChannel,
    DetachedGate,
    FewerTokens,
    ShiftedPositions,
)
