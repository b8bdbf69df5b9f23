"""Command lines that start the ranks of a run on other machines; pure, without torch.

Each starts the one entry of a run's process, `python -m pytest_gates.model run.json out/`, which
takes its rank from what torchrun or srun put into its environment. All nodes must see the folders
of request and output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pytest_gates.model.launch import Launch

PORT = 29500
"""Where nodes meet unless `rendezvous` says otherwise; torch's own default."""


def entry(request: str, out: str, python: str = "python") -> list[str]:
    """The process of one rank. -P: what lies in the working folder is no module of ours."""
    return [python, "-P", "-m", "pytest_gates.model", request, out]


def torchrun(launch: Launch, request: str, out: str, python: str = "python") -> list[str]:
    """What to run on each node, once; a rank that ends badly ends all, and none is restarted."""
    return started(launch, entry(request, out, python), python)


def started(launch: Launch, words: Sequence[str], python: str) -> list[str]:
    """Any program as the ranks of a launch, by torchrun."""
    if launch.rendezvous is None:
        meeting = ["--standalone"]
    else:
        meeting = [
            "--rdzv-backend=c10d", f"--rdzv-endpoint={launch.rendezvous}",
            "--rdzv-id=pytest-gates",
        ]  # fmt: skip
    return [
        python, "-P", "-m", "torch.distributed.run", *meeting, f"--nnodes={launch.nodes}",
        f"--nproc-per-node={launch.processes}", "--max-restarts=0", "--no-python",
        *words,
    ]  # fmt: skip


def srun(launch: Launch, request: str, out: str, python: str = "python") -> list[str]:
    """What to run inside an allocation of Slurm, once: srun itself starts every rank.

    All ranks of a node see all its GPUs, for each takes the one of its own number.

    Raises:
        ValueError: the run does not say where its ranks meet.
    """
    if launch.rendezvous is None:
        raise ValueError(
            "srun needs `rendezvous: host:port`, the first node's name and a free port"
        )
    host, _, port = launch.rendezvous.partition(":")
    return [
        "srun", f"--nodes={launch.nodes}", f"--ntasks-per-node={launch.processes}",
        f"--gpus-per-node={launch.processes}", "--kill-on-bad-exit=1", "--unbuffered",
        f"--export=ALL,MASTER_ADDR={host},MASTER_PORT={port}", *entry(request, out, python),
    ]  # fmt: skip


def kubernetes(
    launch: Launch, request: str, out: str, *, name: str, image: str, claim: str, mount: str
) -> dict[str, Any]:
    """An indexed Job, a pod a node, each of which runs torchrun; apply it with its Service.

    Args:
        launch: what the run declares; its `rendezvous` is that of the Service, not used here.
        request: path of `run.json` below `mount`.
        out: path of the run's folder below `mount`.
        name: of the Job and of its headless Service.
        image: has Python, torch and pytest-gates.
        claim: PersistentVolumeClaim that all pods may write.
        mount: where it is mounted.
    """
    meets = launch.model_copy(update={"rendezvous": f"{name}-0.{name}:{PORT}"})
    container = {
        "name": "ranks",
        "image": image,
        "command": torchrun(meets, request, out),
        "resources": {"limits": {"nvidia.com/gpu": launch.processes}},
        "volumeMounts": [{"name": "shared", "mountPath": mount}],
    }
    pod = {
        "subdomain": name,
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": claim}}],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "completionMode": "Indexed",
            "completions": launch.nodes,
            "parallelism": launch.nodes,
            "backoffLimit": 0,
            "template": {"metadata": {"labels": {"job": name}}, "spec": pod},
        },
    }


def shell(command: Sequence[str]) -> str:
    """A command line as people write it in a script, a backslash a line."""
    return " \\\n  ".join(command)
