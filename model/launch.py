"""How a run of several processes is declared; typed, without torch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StrictInt, StrictStr, model_validator

from pytest_gates.model.settings import Settings

MOST_PROCESSES = 1024

Parallel = Literal["ddp", "fsdp"]


class Launch(Settings):
    """Processes that train together, and who starts them."""

    engine: Literal["torchrun"] = "torchrun"
    """Who starts the processes: torch's own elastic launcher."""
    processes: Annotated[StrictInt, Field(ge=1, le=MOST_PROCESSES)]
    """Processes on each node; on CUDA each has a GPU of its own."""
    nodes: Annotated[StrictInt, Field(ge=1, le=MOST_PROCESSES)] = 1
    """Machines."""
    rendezvous: Annotated[StrictStr, Field(pattern=r"^[A-Za-z0-9._-]+:[0-9]{1,5}$")] | None = None
    """`host:port` at which the nodes meet; a single node meets itself at a port of its own."""

    @model_validator(mode="after")
    def _nodes_meet(self) -> Self:
        if self.nodes > 1 and self.rendezvous is None:
            raise ValueError(f"{self.nodes} nodes need `rendezvous: host:port` to meet at")
        return self

    @property
    def ranks(self) -> int:
        """Processes of all nodes."""
        return self.nodes * self.processes

    def device_of(self, rank: int, device: str) -> str:
        """The device that a rank of a run asks for: on CUDA, each of a node its own."""
        if self.processes == 1 or device == "cpu":
            return device
        return f"cuda:{rank % self.processes}"

    def batch_refusal(self, batch_size: int) -> str | None:
        """Why a step's batch cannot be dealt to the ranks, or None."""
        if batch_size % self.ranks:
            return f"batch_size {batch_size} does not divide among {self.ranks} ranks"
        return None

    def device_refusal(self, device: str) -> str | None:
        """Why ranks cannot share a device, or None."""
        if device == "auto" or (device.startswith("cuda:") and self.processes > 1):
            return f"device {device}: each rank has a device of its own; ask for cpu or cuda"
        return None
