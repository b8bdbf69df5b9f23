"""Faults of the forward path, without torch: each spoils one slot, which parity must name."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StrictFloat

from pytest_gates.model.config import ForwardRun, PretrainRun, ProbeRun
from pytest_gates.model.settings import Count, Index, Positive, Settings


class _OfThePath(Settings):
    meaning: ClassVar[str]
    """What it does to the run."""
    incident: ClassVar[str]
    """The real incident it comes from."""
    slot: ClassVar[str]
    """The slot that it spoils, and that parity must name."""

    @abstractmethod
    def misfit(self, run: PretrainRun | ForwardRun | ProbeRun) -> str | None:
        """Why the fault cannot apply to this run, or None: a precondition over the run alone."""


class _OfALayer(_OfThePath):
    layer: Index = 1
    """Block in which it happens."""

    def misfit(self, run: PretrainRun | ForwardRun | ProbeRun) -> str | None:
        """Fits a forward run that has the layer."""
        if not isinstance(run, ForwardRun):
            return f"driver {run.driver} traces no slots"
        if run.architecture is not None and self.layer >= run.architecture.layers:
            return f"layer {self.layer} lies beyond the model's {run.architecture.layers}"
        return None


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

    def misfit(self, run: PretrainRun | ForwardRun | ProbeRun) -> str | None:
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


class DetachedGate(_OfALayer):
    """The gradient does not flow through the gate; the forward pass is untouched."""

    fault: Literal["detached_gate"]
    meaning = "the backward pass of SwiGLU leaves the gate's branch out"
    incident = "a hand-written kernel whose backward pass forgot one of two factors"
    slot = "grad mlp.gate_proj.weight"


class RopeBase(_OfThePath):
    """Queries and keys are rotated with another base."""

    fault: Literal["rope_base"]
    theta: Positive = 500_000.0
    meaning = "rotary tables are made with base `theta` instead of the model's"
    incident = "a checkpoint of one model family run with the base of another"
    slot = "q_rope"

    def misfit(self, run: PretrainRun | ForwardRun | ProbeRun) -> str | None:
        """Fits a forward run whose base is another one."""
        if not isinstance(run, ForwardRun):
            return f"driver {run.driver} traces no slots"
        shape = run.architecture
        same = shape is not None and float(shape.rope_theta) == float(self.theta)
        return f"the run declares rope_theta {self.theta} itself" if same else None


class FewerTokens(_OfThePath):
    """The path is fed the beginning of the prompt alone; the reference all of it."""

    fault: Literal["fewer_tokens"]
    keep: Count = 1
    meaning = "the path is fed the first `keep` tokens"
    incident = "one side of a comparison was fed 7 tokens, the other 1, for weeks"
    slot = "refused"

    def misfit(self, run: PretrainRun | ForwardRun | ProbeRun) -> str | None:
        """Fits a forward run with a reference."""
        if not isinstance(run, ForwardRun) or run.against is None:
            return "the run has no reference beside it"
        return None


FORWARD_FAULTS: tuple[type[_OfThePath], ...] = (
    SwigluSlice,
    SwappedGateUp,
    UnmaskedAttention,
    KvHeadMissing,
    OutlierChannel,
    DetachedGate,
    RopeBase,
    FewerTokens,
)

ForwardFault = (
    SwigluSlice
    | SwappedGateUp
    | UnmaskedAttention
    | KvHeadMissing
    | OutlierChannel
    | DetachedGate
    | RopeBase
    | FewerTokens
)
