import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from builders import evidence, pretrain_run, steps_series
from pydantic import ValidationError
from scipy.stats import linregress
from scipy.stats import t as student_t

from pytest_gates.checks.base import Verdict
from pytest_gates.checks.descent import Descent
from pytest_gates.checks.trend import slope_interval, t_quantile
from pytest_gates.evidence import Evidence, Gpu, HostInfo
from pytest_gates.model.config import RecordedRun

FIELD = Path(__file__).resolve().parents[2] / "shared" / "field"
PASS, FAIL, INCONCLUSIVE = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE
START = math.log(50257)


def descent(**said: Any) -> Descent:
    return Descent.model_validate({"kind": "descent", **said})


def trained(losses: Sequence[float], wall_ms: float = 45.0, **said: Any) -> Evidence:
    facts = {"device_resolved": "cuda:0"}
    steps = steps_series(train_loss=losses, wall_ms=[wall_ms] * len(losses))
    return evidence(steps=steps, facts=facts, **said)


def falling(slope: float = -0.02, noise: float = 0.05, n: int = 100, seed: int = 0) -> list[float]:
    source = random.Random(seed)
    return [START + slope * step + source.gauss(0, noise) for step in range(n)]


def test_t_quantile_is_that_of_scipy() -> None:
    for confidence in (0.75, 0.9, 0.95, 0.975, 0.999):
        for freedom in (2, 4, 8, 30):
            expected = student_t.ppf(confidence, freedom)
            assert t_quantile(confidence, freedom) == pytest.approx(expected, rel=1e-9)


def test_slope_and_bounds_are_those_of_a_regression_over_block_means() -> None:
    values = falling()
    blocks = [sum(values[at : at + 10]) / 10 for at in range(0, 100, 10)]
    fit = linregress([at + 4.5 for at in range(0, 100, 10)], blocks)
    found = slope_interval(values, 0.95)
    reach = student_t.ppf(0.95, 8) * fit.stderr
    assert found.slope == pytest.approx(fit.slope)
    assert (found.low, found.high) == (
        pytest.approx(fit.slope - reach),
        pytest.approx(fit.slope + reach),
    )


def test_a_falling_loss_passes_and_a_rising_one_fails() -> None:
    outcome = descent().evaluate(trained(falling()))
    assert outcome.verdict is PASS
    assert outcome.interval is not None
    assert outcome.interval[1] < 0
    assert descent().evaluate(trained(falling(slope=0.02))).verdict is FAIL


def test_a_steep_curve_passes_too() -> None:
    losses = [3 + (START - 3) * math.exp(-step / 8) for step in range(60)]
    run = pretrain_run(steps=60)
    assert descent().evaluate(trained(losses, run=run)).verdict is PASS


def test_a_constant_loss_fails_and_mere_noise_decides_nothing() -> None:
    assert descent().evaluate(trained([START] * 100)).verdict is FAIL
    assert descent().evaluate(trained(falling(slope=0))).verdict is INCONCLUSIVE


def test_noise_that_falls_too_little_fails_where_a_drop_is_asked_for() -> None:
    assert descent(drop=0.5).evaluate(trained(falling(slope=0))).verdict is FAIL
    assert descent(drop=0.5).evaluate(trained(falling())).verdict is PASS
    assert descent(drop=5.0).evaluate(trained(falling())).verdict is FAIL


def test_correlated_noise_rarely_looks_like_a_descent() -> None:
    source = random.Random(1)
    passes = 0
    for _ in range(200):
        losses, level = [], 0.0
        for _ in range(100):
            level = 0.5 * level + source.gauss(0, 0.05)
            losses.append(START + level)
        passes += descent().evaluate(trained(losses)).verdict is PASS
    # 5 % are expected where nothing correlates; an honest margin for blocks of ten.
    assert passes <= 24


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_fails_even_a_blind_check(odd: float) -> None:
    losses = falling()
    losses[50] = odd
    outcome = descent(slope_below=math.inf).evaluate(trained(losses))
    assert outcome.verdict is FAIL
    assert outcome.summary == "train_loss is not finite at step 50"


def test_an_infinite_slope_limit_is_blind() -> None:
    rising = trained(falling(slope=0.02))
    assert descent(slope_below=math.inf).evaluate(rising).verdict is PASS


def test_step_0_must_lie_near_the_logarithm_of_the_vocabulary() -> None:
    low = [loss - 2 for loss in falling()]
    outcome = descent().evaluate(trained(low))
    assert outcome.verdict is FAIL
    assert "off ln(50257) = 10.8249" in outcome.summary
    assert descent(start_tolerance=None).evaluate(trained(low)).verdict is PASS
    assert descent(start_tolerance=0.25).evaluate(trained(low)).verdict is PASS
    assert descent(steps=(20, 99)).evaluate(trained(low)).verdict is FAIL


def test_no_step_is_faster_than_its_flops() -> None:
    floor_ms = pretrain_run().step_flops / 989.5e12 * 1000
    assert descent().evaluate(trained(falling(), wall_ms=floor_ms * 1.001)).verdict is PASS
    outcome = descent().evaluate(trained(falling(), wall_ms=floor_ms * 0.999))
    assert outcome.verdict is FAIL
    assert "16.4 TFLOP take at least 16.6" in outcome.summary
    assert descent().evaluate(trained(falling(), wall_ms=math.nan)).verdict is FAIL


def test_the_ceiling_is_that_of_the_device_the_run_used() -> None:
    unknown = HostInfo(gpu=Gpu("NVIDIA H20", None, None), cpu_flops=1e15)
    on_h20 = trained(falling(), host=unknown)
    outcome = descent().evaluate(on_h20)
    assert outcome.verdict is INCONCLUSIVE
    assert "no matmul ceiling for NVIDIA H20" in outcome.summary
    assert descent().evaluate(on_h20, {"NVIDIA H20": 989.5}).verdict is PASS
    run = pretrain_run(device="cpu")
    steps = steps_series(train_loss=falling(), wall_ms=[45.0] * 100)
    said = {"device_resolved": "cpu"}
    on_cpu = evidence(run, steps=steps, facts=said, host=unknown)
    assert descent().evaluate(on_cpu).verdict is PASS
    slower = evidence(run, steps=steps, facts=said, host=HostInfo(cpu_flops=1e11))
    assert descent().evaluate(slower).verdict is FAIL


def test_a_run_that_ended_early_is_judged_by_its_finished_steps_and_says_so() -> None:
    aborted = trained(falling(n=60), status="ABORTED")
    outcome = descent().evaluate(aborted)
    assert outcome.verdict is PASS
    assert "the run ended ABORTED" in outcome.summary
    assert descent(steps=(0, 99)).evaluate(aborted).verdict is INCONCLUSIVE
    assert descent().evaluate(trained(falling(n=60))).verdict is INCONCLUSIVE
    assert descent().evaluate(trained(falling(), status="KILLED")).verdict is INCONCLUSIVE
    assert descent().evaluate(trained(falling(n=10), status="ABORTED")).verdict is INCONCLUSIVE


def test_refusals() -> None:
    assert list(descent().refusals(pretrain_run())) == []
    (refusal,) = descent(steps=(0, 18)).refusals(pretrain_run())
    assert refusal == (("steps",), "a slope needs 20 steps; the window has 19")
    assert [path for path, _ in descent(steps=(50, 100)).refusals(pretrain_run())] == [("steps", 1)]
    recorded = RecordedRun.model_validate(
        {"driver": "recorded", "files": ({"path": "x", "format": "jsonl"},)}
    )
    (refusal,) = descent().refusals(recorded)
    assert refusal[1] == "the run must declare model, seq_len, batch_size, device"
    for said in ({"start_tolerance": math.inf}, {"drop": 0}, {"slope_below": math.nan}):
        with pytest.raises(ValidationError):
            descent(**said)


@pytest.mark.skipif(not FIELD.exists(), reason="the field's data is not here")
def test_the_field_run_falls_by_what_its_readme_says() -> None:
    lines = (FIELD / "rtx4090-370m-seq512-100step.jsonl").read_text().splitlines()
    said = [json.loads(line) for line in lines]
    run = RecordedRun.model_validate(
        {
            "driver": "recorded",
            "files": ({"path": "x", "format": "jsonl"},),
            "declares": {
                "model": "llama-370m",
                "device": "cuda:0",
                "seq_len": 512,
                "batch_size": 16,
                "steps": 100,
            },
        }
    )
    steps = steps_series(
        train_loss=[line["train_loss"] for line in said], wall_ms=[line["wall_ms"] for line in said]
    )
    host = HostInfo(gpu=Gpu("NVIDIA GeForce RTX 4090", None, None))
    check = descent()
    assert list(check.refusals(run)) == []
    outcome = check.evaluate(evidence(run, steps=steps, status="ABORTED", host=host))
    assert outcome.verdict is PASS
    assert "train_loss 11.0228 to 10.5001, a fall of 0.5227" in outcome.summary
