import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import H200, event, evidence, pretrain_run, steps_series
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pytest_gates.checks.base import Verdict
from pytest_gates.checks.bounds import Bounded
from pytest_gates.checks.budget import Budget
from pytest_gates.evidence import Evidence, Gpu, HostInfo, Sample, Telemetry, Witness
from pytest_gates.model.config import RecordedRun

FIELD = Path(__file__).resolve().parents[2] / "shared" / "field"
PASS, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE


def budget(**said: Any) -> Budget:
    settings = {"kind": "budget", "metric": "wall_ms", "steps": (0, 29), "below": 60}
    if "above" in said:
        del settings["below"]
    return Budget.model_validate(settings | said)


def timed(walls: Sequence[float | None], **said: Any) -> Evidence:
    return evidence(steps=steps_series(wall_ms=walls), **said)


def jumbled(bad: int, n: int = 30, good: float = 50.0, over: float = 70.0) -> list[float]:
    """`bad` of n samples over the limit, spread so that neighbours do not correlate."""
    return [over if index * bad // n != (index + 1) * bad // n else good for index in range(n)]


def test_median_of_thirty_allows_ten_over() -> None:
    assert budget().evaluate(timed(jumbled(10))).verdict is PASS
    assert budget().evaluate(timed(jumbled(11))).verdict is INCONCLUSIVE
    assert budget().evaluate(timed(jumbled(19))).verdict is INCONCLUSIVE
    assert budget().evaluate(timed(jumbled(20))).verdict is FAIL


def test_two_looks_share_alpha() -> None:
    assert budget(looks=2).evaluate(timed(jumbled(10))).verdict is INCONCLUSIVE
    assert budget(looks=2).evaluate(timed(jumbled(9))).verdict is PASS
    assert budget(looks=2).alpha == budget(confidence=0.975).alpha


def test_the_limit_itself_is_over_budget_and_one_ulp_below_is_not() -> None:
    under, over = math.nextafter(60.0, 0), math.nextafter(60.0, 100)
    assert budget().evaluate(timed([under] * 30)).verdict is PASS
    assert budget().evaluate(timed([60.0] * 30)).verdict is FAIL
    assert budget().evaluate(timed([over] * 30)).verdict is FAIL
    assert budget(above=60).evaluate(timed([over] * 30)).verdict is PASS
    assert budget(above=60).evaluate(timed([60.0] * 30)).verdict is FAIL


@pytest.mark.parametrize("limit", [{"below": 60}, {"above": 60}])
def test_nan_never_passes(limit: dict[str, float]) -> None:
    assert budget(**limit).evaluate(timed([math.nan] * 30)).verdict is FAIL


def test_infinite_samples_lie_where_they_lie() -> None:
    assert budget().evaluate(timed([-math.inf] * 30)).verdict is PASS
    assert budget().evaluate(timed([math.inf] * 30)).verdict is FAIL
    assert budget(above=60).evaluate(timed([math.inf] * 30)).verdict is PASS


@given(
    st.lists(st.floats(0, 59), max_size=20),
    st.lists(st.one_of(st.floats(60, 1e9), st.just(math.nan), st.just(math.inf)), min_size=21),
    st.randoms(use_true_random=False),
)
def test_never_passes_with_more_than_half_over(good: Any, bad: Any, order: Any) -> None:
    walls = [*good, *bad]
    order.shuffle(walls)
    outcome = budget(steps=(0, len(walls) - 1)).evaluate(timed(walls))
    assert outcome.verdict is not PASS


@given(st.lists(st.floats(40, 80), min_size=30, max_size=60), st.randoms(use_true_random=False))
def test_order_changes_nothing_but_the_correlation_term(walls: list[float], order: Any) -> None:
    check = budget(steps=(0, len(walls) - 1))
    shuffled = list(walls)
    order.shuffle(shuffled)
    one, other = check.evaluate(timed(walls)), check.evaluate(timed(shuffled))
    assert (one.value, one.n, one.headroom_pct) == (other.value, other.n, other.headroom_pct)
    correlated = any("autocorrelation" in line for line in (*one.detail, *other.detail))
    assert correlated or (one.verdict, one.interval) == (other.verdict, other.interval)


@given(st.lists(st.floats(1, 100, width=16), min_size=30, max_size=60))
def test_the_verdict_turns_at_the_ends_of_the_interval(walls: list[float]) -> None:
    check = budget(steps=(0, len(walls) - 1))
    interval = check.evaluate(timed(walls)).interval
    assert interval is not None
    low, high = interval
    for limit in {*walls, 0.5, 101.0}:
        verdict = budget(steps=check.steps, below=limit).evaluate(timed(walls)).verdict
        expected = PASS if limit > high else FAIL if limit <= low else INCONCLUSIVE
        assert verdict is expected


@given(st.lists(st.floats(), min_size=30, max_size=30), st.sampled_from(["above", "below"]))
def test_the_verdict_alone_is_that_of_the_whole_outcome(walls: list[float], side: str) -> None:
    check = budget(**{side: 9})
    bounds = Bounded.model_validate({"kind": "bounded", "metric": "wall_ms", side: 9})
    for told in (timed(walls), timed(walls[:20]), timed([*walls[:-1], None])):
        assert check.verdict_of(told) is check.evaluate(told).verdict
        assert bounds.verdict_of(told) is bounds.evaluate(told).verdict


def test_a_drifting_series_cannot_decide() -> None:
    outcome = budget().evaluate(timed([50 + step * 0.1 for step in range(30)]))
    assert outcome.verdict is INCONCLUSIVE
    assert any("30 steps are worth" in line for line in outcome.detail)


def test_a_missing_metric_or_value_is_named() -> None:
    outcome = budget(metric="gpu_ms").evaluate(timed([50.0] * 30))
    assert outcome.verdict is INCONCLUSIVE
    assert outcome.summary == "no gpu_ms in the telemetry; there are step, wall_ms"
    outcome = budget().evaluate(timed([50.0] * 29 + [None]))
    assert outcome.verdict is INCONCLUSIVE
    assert outcome.summary == "wall_ms is null at step 29"


def test_an_unfinished_window_cannot_decide_and_a_finished_one_can() -> None:
    short = timed([50.0] * 20, status="ABORTED")
    outcome = budget().evaluate(short)
    assert outcome.verdict is INCONCLUSIVE
    assert "run ended ABORTED after 20 steps" in outcome.summary
    whole = budget().evaluate(timed([50.0] * 40, status="ABORTED"))
    assert whole.verdict is PASS
    assert "the run ended ABORTED" in whole.summary
    killed = budget().evaluate(timed([50.0] * 40, status="KILLED"))
    assert killed.verdict is INCONCLUSIVE
    assert "run ended KILLED" in killed.summary


def test_steps_said_twice_are_no_window() -> None:
    said = steps_series(wall_ms=[50.0] * 31)
    columns = dict(said.columns) | {"step": (0.0, *said.columns["step"][:-1])}
    outcome = budget().evaluate(evidence(steps=replace(said, columns=columns)))
    assert outcome.verdict is INCONCLUSIVE


def test_limits_by_gpu() -> None:
    check = budget(below={"NVIDIA H200": 60, "NVIDIA GeForce RTX 4090": 500})
    on_4090 = HostInfo(gpu=Gpu("NVIDIA GeForce RTX 4090", None, None))
    on_a100 = HostInfo(gpu=Gpu("NVIDIA A100-SXM4-80GB", None, None))
    assert check.evaluate(timed([50.0] * 30)).verdict is PASS
    assert check.evaluate(timed([300.0] * 30)).verdict is FAIL
    assert check.evaluate(timed([300.0] * 30, host=on_4090)).verdict is PASS
    blocked = check.evaluate(timed([1.0] * 30, host=on_a100))
    assert blocked.verdict is Verdict.BLOCKED
    assert blocked.summary == (
        "no limit for NVIDIA A100-SXM4-80GB; the check names NVIDIA H200, NVIDIA GeForce RTX 4090"
    )
    assert check.evaluate(timed([1.0] * 30, host=HostInfo())).verdict is Verdict.BLOCKED


def sample(at_ms: float, **seen: Any) -> Sample:
    return Sample(at_ms, None, None, **seen)


THROTTLED = {"reasons": 0x40}


@pytest.mark.parametrize(
    "seen", [THROTTLED, {"reasons": 0x08}, {"reasons": 0x80}, {"foreign_pids": 1}]
)
def test_contamination_excuses_a_fail_and_leaves_a_pass(seen: dict[str, int]) -> None:
    samples = [sample(100.0, **seen)]
    slow = budget().evaluate(timed([70.0] * 30, samples=samples))
    assert slow.verdict is INCONCLUSIVE
    assert budget().evaluate(timed([50.0] * 30, samples=samples)).verdict is PASS


def test_contamination_that_would_help_spoils_a_pass() -> None:
    samples = [sample(100.0, **THROTTLED)]
    assert budget(above=60).evaluate(timed([70.0] * 30, samples=samples)).verdict is INCONCLUSIVE
    assert budget(above=60).evaluate(timed([50.0] * 30, samples=samples)).verdict is FAIL


def test_the_power_cap_is_no_contamination_and_memory_does_not_throttle() -> None:
    capped = [sample(100.0, reasons=0x04)]
    assert budget().evaluate(timed([70.0] * 30, samples=capped)).verdict is FAIL
    memory = evidence(
        steps=steps_series(memory_mib=[70.0] * 30), samples=[sample(100.0, **THROTTLED)]
    )
    assert budget(metric="memory_mib").evaluate(memory).verdict is FAIL


def test_only_contamination_within_the_window_counts() -> None:
    check = budget(steps=(10, 39))
    said = timed([70.0] * 40, events=[event("training_started", at_ms=1000.0)])
    before = Witness((sample(1000 + 5 * 70, **THROTTLED),))
    within = Witness((sample(1000 + 15 * 70, **THROTTLED),))
    assert check.evaluate(replace(said, witness=before)).verdict is FAIL
    assert check.evaluate(replace(said, witness=within)).verdict is INCONCLUSIVE


def test_a_compilation_within_the_window_excuses_a_fail_and_leaves_a_pass() -> None:
    check = budget(steps=(10, 39))
    slow, quick = timed([70.0] * 40), timed([50.0] * 40)
    within = Telemetry(steps=slow.main.steps, events=(event("compiled", 12, graphs=1),))
    before = Telemetry(steps=slow.main.steps, events=(event("compiled", 9, graphs=1),))
    found = check.evaluate(replace(slow, telemetry=(within,)))
    assert found.verdict is INCONCLUSIVE
    assert "contaminated: compiled during 1 step(s), first 12" in found.detail
    assert check.evaluate(replace(slow, telemetry=(before,))).verdict is FAIL
    same = Telemetry(steps=quick.main.steps, events=within.events)
    assert check.evaluate(replace(quick, telemetry=(same,))).verdict is PASS


def refusals(check: Budget, **run: Any) -> list[str]:
    return [message for _, message in check.refusals(pretrain_run(**run))]


def test_refused_when_the_window_is_too_short_to_decide() -> None:
    p95 = budget(statistic="p95")
    assert refusals(p95) == [
        "p95 at confidence 0.95 needs 101 steps (1.7 times the bare 59); the window has 30"
    ]
    assert refusals(budget(statistic="p95", steps=(0, 100)), steps=101) == []
    assert refusals(budget(steps=(0, 7))) != []
    assert refusals(budget(steps=(0, 8))) == []


def test_refused_beyond_the_run_on_the_cpu_and_without_a_run() -> None:
    assert refusals(budget(steps=(20, 100))) == [
        "window [20, 100] is longer than the run: its 100 steps are 0 to 99"
    ]
    (message,) = refusals(budget(), device="cpu", host={"cuda": "hidden"})
    assert "absolute CPU times are no claim" in message
    assert refusals(budget(), device="auto") != []
    assert refusals(budget(metric="memory_mib"), device="cpu") == []
    assert [message for _, message in budget().refusals(None)] == ["the gate names no `run` for it"]


def test_refused_for_an_unknown_gpu_unless_the_contract_adds_it() -> None:
    check = budget(below={"NVIDIA H20": 60})
    ((path, message),) = check.refusals(pretrain_run())
    assert path == ("below", "NVIDIA H20")
    assert "did you mean `NVIDIA H200`?" in message
    assert list(check.refusals(pretrain_run(), {"NVIDIA H20"})) == []


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"below": math.nan}, "NaN is no limit"),
        ({"below": math.inf}, "infinite limit"),
        ({"below": "1e-5"}, "expected a number"),
        ({"below": "fast"}, "expected a number"),
        ({"below": True}, "expected a number"),
        ({"below": {"NVIDIA H200": math.nan}}, "NVIDIA H200: NaN is no limit"),
        ({"below": {"NVIDIA H200": "1e3"}}, "NVIDIA H200: expected a number, found '1e3'"),
        ({"below": {}}, "at least one GPU"),
        ({"metric": "wall"}, "did you mean `wall_ms`?"),
        ({"metric": "val_loss"}, "a metric of epochs, not of steps"),
        ({"steps": (30, 20)}, "first step 30 lies after its last 20"),
        ({"confidence": "0.95"}, "expected a number"),
        ({"confidence": 1.0}, "less than 1"),
        ({"statistic": "mean"}, "'median', 'p90', 'p95' or 'p99'"),
        ({"below": None}, "give either below or above"),
    ],
)
def test_malformed_settings_are_refused(said: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as refused:
        budget(**said)
    assert told in str(refused.value)
    assert refused.value.error_count() == 1


def test_both_limits_are_refused() -> None:
    with pytest.raises(ValidationError, match="give either below or above"):
        Budget.model_validate(
            {"kind": "budget", "metric": "wall_ms", "steps": (0, 29), "below": 1, "above": 0}
        )


@pytest.mark.skipif(not FIELD.exists(), reason="the field's data is not here")
def test_the_field_run_gives_the_figures_of_its_readme() -> None:
    lines = (FIELD / "rtx4090-370m-seq512-100step.jsonl").read_text().splitlines()
    walls = [json.loads(line)["wall_ms"] for line in lines]
    run = RecordedRun.model_validate(
        {"driver": "recorded", "files": ({"path": "x", "format": "jsonl"},)}
    )
    host = HostInfo(gpu=Gpu("NVIDIA GeForce RTX 4090", None, None))
    recorded = evidence(run, steps=steps_series(wall_ms=walls), status="ABORTED", host=host)
    whole = budget(steps=(0, 99), below=500).evaluate(recorded)
    window = budget(steps=(20, 49), below={"NVIDIA GeForce RTX 4090": 500}).evaluate(recorded)
    assert (whole.verdict, whole.figure) == (PASS, "median 264.72 ms")
    assert whole.value == (264.70258 + 264.73752) / 2
    assert (window.verdict, window.n) == (PASS, 30)
    assert window.value == pytest.approx(265.95, abs=0.005)
    assert window.headroom_pct is not None
    assert round(window.headroom_pct) == 47
    assert round(500 / whole.value, 1) == 1.9
    assert H200.gpu is not None
