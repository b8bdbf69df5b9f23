"""`Trainer(..., callbacks=[GatesCallback()])`: what transformers' trainer does, as telemetry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback

from pytest_gates.emit.emitter import Emitter, gradient_norm


class GatesCallback(TrainerCallback):  # type: ignore[misc] # transformers is not typed
    """Tells each optimizer step; the loss is the model's own, and nothing waits for it.

    `clipped_norm` is told of every step. `grad_norm`, the norm before clipping, is known to the
    trainer alone, which tells it where it logs: of every step with `logging_steps=1`.
    """

    def __init__(self, out: Path | None = None) -> None:
        """Tell into `out`; None: into the folder of the run, if there is one."""
        self._out = out
        self._emitter: Emitter | None = None
        self._hook: Any = None
        self._losses: list[tuple[Tensor, bool]] = []
        self._tokens = 0
        self._lr: float | None = None
        self._norm: Tensor | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **said: Any) -> None:
        """The trainer is ready: begin to tell."""
        model, optimizer = said["model"], said.get("optimizer")
        self._emitter = Emitter(model, optimizer, out=self._out, first=state.global_step)
        if self._emitter.active:
            self._hook = model.register_forward_hook(self._fed, with_kwargs=True)

    def _fed(self, model: nn.Module, _: tuple[Any, ...], said: dict[str, Any], given: Any) -> None:
        loss = given.get("loss") if isinstance(given, dict) else getattr(given, "loss", None)
        if not model.training or not isinstance(loss, Tensor):
            return
        # Given the number of all labels of a step, each part's loss is already its share.
        self._losses.append((loss.detach(), said.get("num_items_in_batch") is not None))
        fed = said.get("input_ids")
        self._tokens += fed.numel() if isinstance(fed, Tensor) else 0

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **said: Any) -> None:
        """Gradients are final: take their norm, and the rate they are used with."""
        if self._emitter is not None and self._emitter.active:
            self._norm = gradient_norm(said["model"])
            self._lr = float(said["optimizer"].param_groups[0]["lr"])

    def on_step_end(self, args: Any, state: Any, control: Any, **said: Any) -> None:
        """An optimizer step was launched."""
        if self._emitter is None or not self._emitter.active:
            return
        unclipped = not args.max_grad_norm or args.max_grad_norm <= 0
        self._emitter.step(
            self._mean_loss(),
            lr=self._lr,
            tokens=self._tokens or None,
            grad_norm=self._norm if unclipped else None,
            clipped_norm=None if unclipped else self._norm,
        )
        self._losses, self._tokens, self._norm = [], 0, None

    def _mean_loss(self) -> Tensor | None:
        if not self._losses:
            return None
        shares = all(is_share for _, is_share in self._losses)
        total = sum(loss for loss, _ in self._losses)
        assert isinstance(total, Tensor)
        return total if shares else total / len(self._losses)

    def on_log(self, args: Any, state: Any, control: Any, **said: Any) -> None:
        """The trainer logged: it knows the norm before clipping."""
        norm = (said.get("logs") or {}).get("grad_norm")
        if self._emitter is not None and norm is not None:
            self._emitter.amend(state.global_step - 1, grad_norm=float(norm))

    def on_evaluate(self, args: Any, state: Any, control: Any, **said: Any) -> None:
        """A validation is done."""
        loss = (said.get("metrics") or {}).get("eval_loss")
        if self._emitter is not None and loss is not None:
            self._emitter.epoch(float(loss))

    def on_save(self, args: Any, state: Any, control: Any, **said: Any) -> None:
        """A checkpoint was written: its time is in no step's."""
        if self._emitter is not None:
            self._emitter.resume()

    def on_train_end(self, args: Any, state: Any, control: Any, **said: Any) -> None:
        """The training came to its end."""
        if self._hook is not None:
            self._hook.remove()
        if self._emitter is not None:
            self._emitter.end()
