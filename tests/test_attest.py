"""The in-toto statement, held against the attestation framework's own types."""

from __future__ import annotations

import hashlib
import json
import subprocess
from typing import Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.test_result.v0.test_result_pb2 import TestResult as Predicate
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as StatementPb
from project import RECORDED, Project

QUICK = [40.0 + step % 7 for step in range(30)]
SLOW = [200.0 + step % 7 for step in range(30)]
PROSE = "\n      - {id: GATE-PROSE, rule: Somebody looked., verdict: pending}\n"


def _attested(project: Project, *args: str) -> dict[str, Any]:
    project.run("--gates-attest", "out.json", *args)
    text = (project.root / "out.json").read_text(encoding="utf-8")
    told = json_format.Parse(text, StatementPb())  # an unknown field is an error
    checked = Statement(b"", "", {})
    checked.pb = told
    checked.validate()
    data: dict[str, Any] = json.loads(text)
    json_format.ParseDict(data["predicate"], Predicate())
    return data


def test_the_statement_is_what_the_framework_reads(project: Project) -> None:
    project.steps("steps.jsonl", wall_ms=QUICK)
    path = project.contract(RECORDED)
    me = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], [*me, "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=project.root, check=True)
    data = _attested(project)
    assert data["_type"] == "https://in-toto.io/Statement/v1"
    assert data["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    predicate = data["predicate"]
    assert predicate["result"] == "PASSED"
    assert predicate["passedTests"] == ["contracts/claims.yaml::GATE-MEDIAN"]
    subjects = {one["name"]: one["digest"] for one in data["subject"]}
    written = hashlib.sha256(path.read_bytes()).hexdigest()
    assert subjects.pop("contracts/claims.yaml") == {"sha256": written}
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=project.root, capture_output=True, text=True, check=True
    )
    assert subjects.pop("commit") == {"gitCommit": head.stdout.strip()}
    ((manifest, digest),) = subjects.items()
    data_of_it = (project.root / manifest).read_bytes()
    assert manifest.startswith("evidence/runs/")
    assert digest == {"sha256": hashlib.sha256(data_of_it).hexdigest()}


def test_red_is_failed_and_blocked_is_a_warning(project: Project) -> None:
    project.steps("steps.jsonl", wall_ms=SLOW)
    project.contract(RECORDED + PROSE)
    predicate = _attested(project)["predicate"]
    assert predicate["result"] == "FAILED"
    assert predicate["failedTests"] == ["contracts/claims.yaml::GATE-MEDIAN"]
    assert predicate["warnedTests"] == ["contracts/claims.yaml::GATE-PROSE"]
    project.steps("steps.jsonl", wall_ms=QUICK)
    assert _attested(project)["predicate"]["result"] == "WARNED"


def test_what_was_only_replayed_says_so(project: Project) -> None:
    project.contract(
        """
        runs: {probe: {driver: probe}}
        gates:
          - id: GATE-PROBE
            run: probe
            checks: [{kind: exit_status, expect: COMPLETED}]
            verdict: pending
        """
    )
    project.run().assert_outcomes(passed=1)
    data = _attested(project, "--gates-replay")
    assert data["subject"][0]["annotations"] == {"GATE-PROBE": "PASS REPLAYED"}


def test_the_framework_refuses_what_is_no_statement() -> None:
    with pytest.raises(json_format.ParseError):
        json_format.Parse('{"_type": "x", "surprise": 1}', StatementPb())
