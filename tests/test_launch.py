"""How several processes are declared: what is refused, where it is said, and who can start them."""

from __future__ import annotations

import pytest
from fake_nvml import Device, FakeNvml
from pydantic import ValidationError
from torch.distributed.run import config_from_args, get_args_parser

from pytest_gates.model.config import PretrainRun
from pytest_gates.model.launch import Launch
from pytest_gates.model.parallel.command import kubernetes, shell, srun, torchrun
from pytest_gates.model.parallel.place import LAUNCHER, Place
from pytest_gates.run.gpus import Gpus, find_gpus
from pytest_gates.run.host import capability
from pytest_gates.run.plan import describe
from tests.builders import pretrain_run
from tests.project import Project

NO_GPU = Gpus(None, unavailable="NVML is not there: none in this test")
TWO_NODES = "the run needs 2 nodes with 8 GPUs each, this session starts it on one"
TWO = Launch(processes=8, nodes=2, rendezvous="node-0:29400")

CONTRACT = """
    contract_id: C-RANKS
    version: 1.0.0
    runs:
      several:
        driver: pretrain
        device: {device}
        model: llama-1m
        data: {{corpus: python-stdlib}}
        seq_len: 32
        batch_size: {batch}
        steps: 20
        {more}
      alone: {{from: several, launch: null}}
    gates:
      - id: GATE-1
        run: {run}
        checks: [{check}]
        verdict: pending
"""
FINITE = "{kind: finite, metrics: [train_loss]}"


@pytest.mark.parametrize(
    ("changes", "line", "said"),
    [
        ({"batch": "3"}, 10, "batch_size 3 does not divide among 2 ranks"),
        ({"more": "launch: {processes: 2}\n        micro_batches: 3"}, 13,
         "2 sequences of a rank do not divide into 3 micro-batches"),
        ({"more": "launch: {processes: 2}\n        micro_batches: [1, 1]"}, 13,
         "under launch all micro-batches are equal: give their number"),
        ({"device": "cuda:0"}, 6, "each rank has a device of its own; ask for cpu or cuda"),
        ({"device": "auto"}, 6, "each rank has a device of its own; ask for cpu or cuda"),
        ({"more": "launch: {processes: 2}\n        stimulus: {kind: nan, rank: 2, step: 1}"}, 13,
         "rank 2 is none of the run's 2"),
        ({"more": "parallel: fsdp"}, 12, "parallel fsdp needs `launch: {processes: N}`"),
        ({"more": "launch: {processes: 2, nodes: 2}"}, 12,
         "2 nodes need `rendezvous: host:port` to meet at"),
        ({"more": "launch: {processes: 2, rendezvous: 'a b:1'}"}, 12, "rendezvous"),
        ({"more": "launch: {processes: 2}\n        statistics: [1]"}, 12,
         "statistics and anatomy look at one process"),
        ({"more": "launch: {processes: 16}", "batch": "16"}, 12,
         "16 processes on a node exceed the cap of 8; raise `gates_max_processes`"),
        ({"more": "launch: {procesess: 2}"}, 12, "procesess"),
        ({"check": "{kind: finite, metrics: [train_loss], ranks: [0, 2]}"}, 17,
         "rank 2 is none of the run's 2"),
        ({"check": "{kind: finite, metrics: [train_loss], ranks: []}"}, 17,
         "expected `all`, or a list of ranks: [0, 1]"),
        ({"check": "{kind: finite, metrics: [train_loss], ranks: all}", "run": "alone"}, 17,
         "the run is one process; give it `launch: {processes: N}`"),
        ({"check": "{kind: equal_ranks}", "run": "alone"}, 17, "the run has no two ranks"),
        ({"check": "{kind: equal_ranks, ranks: [1]}"}, 17, "one rank has none to be compared with"),
        ({"check": "{kind: exit_status, ranks: all, within_s: 9}"}, 17,
         "the time is that of the whole run; leave `ranks` out"),
        ({"check": "{kind: residency}", "device": "cuda"}, 17,
         "the run has several processes; say whose: `ranks: all`"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_at_its_place(
    project: Project, changes: dict[str, str], line: int, said: str
) -> None:
    values = {"device": "cpu", "batch": "4", "more": "launch: {processes: 2}", "run": "several",
              "check": FINITE} | changes  # fmt: skip
    project.contract(CONTRACT.format(**values))
    result = project.run()
    result.assert_outcomes(errors=1)
    found = [one for one in result.stdout.lines if f"claims.yaml:{line}:" in one and said in one]
    assert found, result.stdout.str()


def test_more_processes_may_be_allowed(project: Project) -> None:
    project.pytester.makeini("[pytest]\ngates_max_processes = 16\n")
    project.contract(CONTRACT.format(device="cpu", batch="16", more="launch: {processes: 16}",
                                     run="several", check=FINITE))  # fmt: skip
    result = project.run("--collect-only")
    result.stdout.fnmatch_lines(["*1 test collected*"])


def test_a_run_without_launch_is_declared_as_before() -> None:
    plain = pretrain_run()
    assert (plain.ranks, plain.rank_batch_size, plain.sharded) == (1, 16, False)
    assert "launch" not in plain.model_dump(exclude_defaults=True)
    with pytest.raises(ValidationError, match="rank 1 is none of the run's 1"):
        pretrain_run(stimulus={"kind": "kill", "step": 1, "rank": 1})


def test_each_rank_of_a_node_has_a_device_of_its_own() -> None:
    run = pretrain_run(device="cuda", batch_size=16, launch=TWO.model_dump())
    assert [run.rank_device(rank) for rank in (0, 7, 8)] == ["cuda:0", "cuda:7", "cuda:0"]
    assert pretrain_run(device="cuda", launch={"processes": 1}).rank_device(0) == "cuda"
    assert "ddp over 16 ranks" in describe(run)


@pytest.mark.parametrize(
    ("there", "processes", "nodes", "said"),
    [
        (0, 1, 1, "1 GPU missing: the run needs 1, here are 0"),
        (0, 8, 1, "8 GPUs missing: the run needs 8, here are 0"),
        (1, 8, 1, "7 GPUs missing: the run needs 8, here are 1"),
        (2, 2, 1, None),
        (1, 8, 2, f"{TWO_NODES}: 15 GPUs missing"),
    ],
)  # fmt: skip
def test_the_number_of_missing_gpus_is_told(
    there: int, processes: int, nodes: int, said: str | None
) -> None:
    devices = [Device(uuid=f"GPU-{number}") for number in range(there)]
    gpus = find_gpus(FakeNvml(*devices)) if there else NO_GPU
    run = pretrain_run(
        device="cuda",
        launch={"processes": processes, "nodes": nodes, "rendezvous": "a:1"},
    )
    found = capability(run, gpus, {}, lambda: ("CUDA devices visible", there))
    assert found == said


def test_ranks_on_cpus_need_no_gpu() -> None:
    run = PretrainRun.model_validate({
        "driver": "pretrain", "device": "cpu", "model": "llama-1m", "seq_len": 8, "batch_size": 4,
        "data": {"corpus": "python-stdlib"}, "steps": 20, "launch": {"processes": 2},
    })  # fmt: skip
    assert capability(run, NO_GPU, {}, lambda: ("", 0)) is None


# --- who starts the ranks -----------------------------------------------------------------------


def test_the_command_of_torchrun_is_one_that_torch_reads() -> None:
    command = torchrun(TWO, "run.json", "out", "/usr/bin/python3")
    assert command == [
        "/usr/bin/python3", "-P", "-m", "torch.distributed.run", "--rdzv-backend=c10d",
        "--rdzv-endpoint=node-0:29400", "--rdzv-id=pytest-gates", "--nnodes=2",
        "--nproc-per-node=8", "--max-restarts=0", "--no-python",
        "/usr/bin/python3", "-P", "-m", "pytest_gates.model", "run.json", "out",
    ]  # fmt: skip
    config, program, arguments = config_from_args(get_args_parser().parse_args(command[4:]))
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node) == (2, 2, 8)
    assert (config.rdzv_backend, config.rdzv_endpoint) == ("c10d", "node-0:29400")
    assert config.max_restarts == 0
    assert (program, *arguments) == tuple(command[11:])
    assert "--standalone" in torchrun(Launch(processes=2), "run.json", "out")


def test_the_command_of_srun() -> None:
    assert srun(TWO, "run.json", "out") == [
        "srun", "--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--kill-on-bad-exit=1",
        "--unbuffered", "--export=ALL,MASTER_ADDR=node-0,MASTER_PORT=29400",
        "python", "-P", "-m", "pytest_gates.model", "run.json", "out",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="srun needs `rendezvous: host:port`"):
        srun(Launch(processes=8), "run.json", "out")
    assert shell(["srun", "--nodes=2"]) == "srun \\\n  --nodes=2"


def test_the_job_of_kubernetes_runs_torchrun_in_a_pod_a_node() -> None:
    job = kubernetes(TWO, "/shared/run.json", "/shared/out", name="gates", image="team/torch",
                     claim="shared", mount="/shared")  # fmt: skip
    spec = job["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    pod = spec["template"]["spec"]
    assert (pod["subdomain"], pod["restartPolicy"]) == ("gates", "Never")
    (container,) = pod["containers"]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 8}}
    meets = TWO.model_copy(update={"rendezvous": "gates-0.gates:29500"})
    assert container["command"] == torchrun(meets, "/shared/run.json", "/shared/out")


def test_a_rank_is_told_by_torchrun_or_by_srun() -> None:
    torch = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}
    assert Place.of(torch) == Place(3, 1, 4)
    assert Place.of(torch | {LAUNCHER: "17 900"}) == Place(3, 1, 4, 17, 900)
    slurm = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_NTASKS": "4"}
    assert Place.of(slurm) == Place(3, 1, 4)
    assert Place.of({"RANK": "3"}) is None
    assert Place.of({}) is None
