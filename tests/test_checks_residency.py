from dataclasses import replace
from typing import Any

import pytest
from builders import H200, event, evidence, pretrain_run, steps_series
from pydantic import ValidationError

from pytest_gates.checks.base import Outcome, Verdict
from pytest_gates.checks.layers import State
from pytest_gates.checks.residency import LAYERS, Residency
from pytest_gates.evidence import Allocation, Evidence, Gpu, HostInfo, Sample, Witness
from pytest_gates.model.config import ForwardRun, RecordedRun

PASS, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE
PROVEN, REFUTED, UNAVAILABLE = State.PROVEN, State.REFUTED, State.UNAVAILABLE
PARAMETERS = 373_509_120
HELD = {
    "parameters": {"cuda:0": 4 * PARAMETERS},
    "gradients": {"cuda:0": 4 * PARAMETERS},
    "optimizer": {"cuda:0": 8 * PARAMETERS},
}
FACTS = {
    "device_requested": "cuda:0",
    "device_resolved": "cuda:0",
    "residency_before": HELD,
    "residency_after": HELD | {"gradients": {}},
}
STARTED = event("training_started", at_ms=2000.0)
CENSUS_MIB = 12 * PARAMETERS / 2**20


def seen(used_mib: float | None = 6636.0, pid: int | None = 4711, **other: Any) -> list[Sample]:
    """A sample every 50 ms over 2 s of set-up and 5 s of training."""
    return [
        Sample(at, pid, used_mib if at >= 2050 else 500.0 if used_mib else None, **other)
        for at in range(0, 7000, 50)
    ]


def risen(used_mib: float | None, before: float = 600.0, **other: Any) -> list[Sample]:
    """The device as a whole, without PIDs: `used_mib` from the first step on."""
    return [
        replace(s, device_used_mib=before if used_mib and s.at_ms < 2050 else used_mib, **other)
        for s in seen(None, None)
    ]


def resident(**said: Any) -> Evidence:
    steps = steps_series(
        wall_ms=[50.0] * 100, gpu_ms=[48.0] * 100, memory_mib=[CENSUS_MIB + 1500] * 100
    )
    settings: dict[str, Any] = {
        "steps": steps,
        "facts": FACTS,
        "events": [STARTED],
        "samples": seen(),
    }
    return evidence(**(settings | said))


def layer(name: str, said: Evidence, **gpus: float) -> State:
    return LAYERS[name](said, gpus).state


def residency(**said: Any) -> Residency:
    return Residency.model_validate({"kind": "residency", **said})


def judged(said: Evidence, **check: Any) -> Outcome:
    return residency(**check).evaluate(said)


def test_a_resident_run_passes() -> None:
    outcome = judged(resident())
    assert outcome.verdict is PASS
    assert (outcome.figure, outcome.limit) == ("5 of 5 layers", ">= 4274 MiB")
    assert "L3 PROVEN: PID 4711 holds 6636 MiB or more" in "\n".join(outcome.detail)
    assert judged(resident(), require=["L4"]).verdict is PASS


def test_a_refuted_layer_fails_an_unavailable_one_decides_nothing() -> None:
    on_cpu = resident(facts=FACTS | {"device_resolved": "cpu"})
    outcome = judged(on_cpu)
    assert outcome.verdict is FAIL
    assert "L0 REFUTED: asked for cuda:0, resolved cpu" in outcome.summary
    assert judged(resident(facts={})).verdict is INCONCLUSIVE
    silent = resident(samples=())
    assert judged(silent).verdict is INCONCLUSIVE
    assert judged(silent, require=["L0", "L1", "L2"]).verdict is PASS


def test_of_a_nested_list_one_is_enough() -> None:
    no_pid = resident(samples=seen(pid=None))
    assert judged(no_pid, require=["L0", ["L3"]]).verdict is INCONCLUSIVE
    told = (Allocation(512, 512.0), Allocation(768, 768.0))
    contained = replace(no_pid, witness=Witness(tuple(risen(7000.0)), told))
    assert judged(contained, require=["L0", ["L3", "L3b"]]).verdict is PASS
    refuted = replace(contained, witness=Witness(tuple(seen(600.0)), ()))
    assert judged(refuted, require=[["L3", "L3b"]]).verdict is FAIL


def test_a_run_that_crashed_does_not_pass() -> None:
    outcome = judged(resident(status="OUT_OF_MEMORY"), require=["L0"])
    assert outcome.verdict is INCONCLUSIVE
    assert "run ended OUT_OF_MEMORY after 100 steps" in outcome.summary


def test_l0_reads_what_was_asked_and_what_it_became() -> None:
    assert layer("L0", resident()) is PROVEN
    other = resident(facts=FACTS | {"device_resolved": "cuda:1"})
    assert layer("L0", other) is REFUTED
    lied = resident(facts=FACTS | {"device_requested": "cpu"})
    assert layer("L0", lied) is REFUTED
    assert layer("L0", resident(run=pretrain_run(device="cuda"))) is PROVEN
    assert layer("L0", resident(facts={})) is UNAVAILABLE


@pytest.mark.parametrize(
    ("fact", "value", "state"),
    [
        ("residency_after", HELD | {"optimizer": {"cpu": 8 * PARAMETERS}}, REFUTED),
        ("residency_before", HELD | {"parameters": {"cuda:0": 1, "cpu": 1}}, REFUTED),
        ("residency_before", HELD | {"parameters": {}}, REFUTED),
        ("residency_after", HELD | {"optimizer": {}}, REFUTED),
        ("residency_after", HELD | {"parameters": {"meta": 0}}, REFUTED),
        ("residency_after", None, UNAVAILABLE),
        ("residency_after", {"parameters": "cuda:0"}, UNAVAILABLE),
        ("residency_after", {"parameters": {"cuda:0": "much"}}, UNAVAILABLE),
    ],
)
def test_l1_asks_all_of_the_state_on_the_device(fact: str, value: object, state: State) -> None:
    assert layer("L1", resident()) is PROVEN
    assert layer("L1", resident(facts=FACTS | {fact: value})) is state


def test_l2_is_held_against_the_declared_census() -> None:
    def holding(*mib: float | None) -> Evidence:
        return resident(steps=steps_series(memory_mib=mib), run=pretrain_run(steps=len(mib),
                        optimizer={"warmup_steps": 0}))  # fmt: skip

    assert layer("L2", holding(CENSUS_MIB, CENSUS_MIB + 1)) is PROVEN
    assert layer("L2", holding(CENSUS_MIB, CENSUS_MIB - 1)) is REFUTED
    assert layer("L2", holding(CENSUS_MIB, float("nan"))) is REFUTED
    assert layer("L2", holding(CENSUS_MIB, None)) is UNAVAILABLE
    on_cpu = replace(resident(facts=FACTS | {"device_resolved": "cpu"}))
    assert layer("L2", on_cpu) is REFUTED


def test_l3_needs_the_census_all_through_the_training() -> None:
    samples = seen()
    assert layer("L3", resident()) is PROVEN
    assert layer("L3", resident(samples=seen(512.0))) is REFUTED
    dip = [replace(s, used_mib=700.0) if s.at_ms == 4000 else s for s in samples]
    assert layer("L3", resident(samples=dip)) is REFUTED
    late = [replace(s, used_mib=700.0) if s.at_ms < 5000 else s for s in samples]
    assert layer("L3", resident(samples=late)) is REFUTED


def test_l3_without_the_time_of_training_still_sees_a_dip() -> None:
    assert layer("L3", resident(events=())) is PROVEN
    dip = [replace(s, used_mib=700.0) if s.at_ms == 4000 else s for s in seen()]
    assert layer("L3", resident(events=(), samples=dip)) is REFUTED


def test_l3_is_unavailable_for_reasons_it_names() -> None:
    def reason(said: Evidence) -> str:
        found = LAYERS["L3"](said, {})
        assert found.state is UNAVAILABLE
        return found.reason

    assert "1 sample(s)" in reason(resident(samples=[s for s in seen() if s.at_ms == 4000]))
    assert "PID 4711 is in no sample (in containers" in reason(resident(samples=seen(pid=None)))
    assert "PIDs do not match" in reason(resident(samples=seen(pid=99)))
    assert "NVML does not tell" in reason(resident(samples=seen(None)))
    gone = [s for s in seen() if not 3000 < s.at_ms < 6000]
    assert "no sample of PID 4711 for 3000 ms" in reason(resident(samples=gone))
    no_nvml = replace(resident(), witness=Witness(unavailable="no NVML on this machine"))
    assert reason(no_nvml) == "no NVML on this machine"


@pytest.mark.parametrize(
    ("told", "used_mib", "foreign", "state"),
    [
        (((512, 512.0), (768, 770.0)), 7000.0, 0, PROVEN),
        (((512, 512.0), (768, 771.0)), 7000.0, 0, REFUTED),
        (((512, 0.0), (768, 0.0)), 7000.0, 0, REFUTED),
        (((512, 512.0), (768, 9000.0)), 7000.0, 1, UNAVAILABLE),
        (((512, 512.0),), 7000.0, 0, UNAVAILABLE),
        (((512, 512.0), (768, None)), 7000.0, 0, UNAVAILABLE),
        (((512, 512.0), (768, 768.0)), 600.0, 0, REFUTED),
        (((512, 512.0), (768, 768.0)), None, 0, UNAVAILABLE),
    ],
)
def test_l3b_sees_what_was_told_and_the_census_in_training(
    told: Any, used_mib: float | None, foreign: int, state: State
) -> None:
    samples = risen(used_mib, foreign_pids=foreign)
    said = resident(samples=samples, allocations=[Allocation(*one) for one in told])
    assert layer("L3b", said) is state


def test_l3b_subtracts_what_others_held_before() -> None:
    told = [Allocation(512, 512.0), Allocation(768, 768.0)]
    shared = resident(samples=risen(17_000.0, before=16_000.0), allocations=told)
    assert layer("L3b", shared) is REFUTED
    late = [s for s in risen(7000.0) if s.at_ms > 1500]
    built = [event("model_built", at_ms=1400.0), STARTED]
    assert layer("L3b", resident(samples=late, allocations=told, events=built)) is UNAVAILABLE


def test_l4_prefers_the_witness_to_what_the_run_says() -> None:
    assert layer("L4", resident()) is PROVEN
    assert layer("L4", resident(samples=seen(sm_util_pct=90.0))) is PROVEN
    assert layer("L4", resident(samples=seen(sm_util_pct=1.0))) is REFUTED
    idle = steps_series(wall_ms=[50.0] * 100, gpu_ms=[0.5] * 100)
    assert layer("L4", resident(steps=idle)) is REFUTED
    assert layer("L4", resident(steps=steps_series(wall_ms=[50.0] * 100))) is UNAVAILABLE


@pytest.mark.parametrize(
    ("wall_ms", "host", "state"),
    [
        (50.0, H200, PROVEN),
        (10.0, H200, REFUTED),
        (9000.0, H200, UNAVAILABLE),
        (0.0, H200, REFUTED),
        (float("nan"), H200, REFUTED),
        (50.0, HostInfo(gpu=H200.gpu), UNAVAILABLE),
        (50.0, HostInfo(cpu_flops=1e12), UNAVAILABLE),
        (50.0, HostInfo(gpu=Gpu("NVIDIA H20", None, None), cpu_flops=1e12), UNAVAILABLE),
    ],
)
def test_l5_lies_between_the_cpu_and_the_gpu(wall_ms: float, host: HostInfo, state: State) -> None:
    said = resident(steps=steps_series(wall_ms=[wall_ms] * 100), host=host)
    assert layer("L5", said) is state


def test_l5_takes_ceilings_that_the_contract_adds() -> None:
    host = HostInfo(gpu=Gpu("NVIDIA H20", None, None), cpu_flops=1e12)
    assert LAYERS["L5"](resident(host=host), {"NVIDIA H20": 989.0}).state is PROVEN
    assert LAYERS["L5"](resident(host=host), {"NVIDIA H20": 148.0}).state is REFUTED


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_refused_unless_the_run_asks_for_cuda(device: str) -> None:
    ((_, message),) = residency().refusals(pretrain_run(device=device))
    assert message == f"device {device}: residency needs an explicit cuda or cuda:N"
    assert list(residency().refusals(pretrain_run())) == []


def test_refused_for_runs_that_train_nothing() -> None:
    forward = ForwardRun.model_validate(
        {"driver": "forward", "device": "cuda", "model": "llama-1m"}
    )
    assert len(list(residency().refusals(forward))) == 1


def test_one_sample_of_a_recording_proves_no_run() -> None:
    recorded = RecordedRun.model_validate(
        {
            "driver": "recorded",
            "files": ({"path": "nvidia-smi-during-run.csv", "format": "nvidia-smi-csv"},),
            "declares": {"model": "llama-370m", "device": "cuda:0", "pid": 1658504},
        }
    )
    said = evidence(recorded, pid=None, samples=[Sample(0.0, 1658504, 6636.0)])
    assert LAYERS["L3"](said, {}).state is UNAVAILABLE
    assert judged(said, require=["L3"]).verdict is INCONCLUSIVE


@pytest.mark.parametrize(
    "said", [{"require": []}, {"require": ["L6"]}, {"require": [[]]}, {"floor": 0}]
)
def test_malformed_requirements_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        residency(**said)


@pytest.mark.parametrize("at", [2500, 4000, 6950])
def test_a_sample_that_is_no_number_never_proves_memory(at: float) -> None:
    nan = float("nan")
    odd = tuple(replace(s, used_mib=nan) if s.at_ms == at else s for s in seen())
    assert layer("L3", resident(samples=odd)) is REFUTED
    assert layer("L3", resident(samples=[replace(s, used_mib=nan) for s in seen()])) is REFUTED
