"""The HTML report through its public faces: `--gates-report` and `pytest-gates report`."""

from __future__ import annotations

import hashlib
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from project import RECORDED, Project

from pytest_gates.cli import main

# Imported here, or pytester would drop it after a session, and it loads once a process.
pytest.importorskip("vl_convert")

HOSTILE = "</title><script>alert('x')</script>"
VOID = {"meta", "input", "br", "link"}


class Page(HTMLParser):
    """What a browser would find: elements, attributes, text; and whether the tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def judged(project: Project) -> Project:
    project.steps("steps.jsonl", wall_ms=[float(40 + step % 7) for step in range(30)])
    text = RECORDED.replace("The median step is quick.", f'"{HOSTILE} & `ticks`"')
    project.contract(text)
    project.run("--gates-report", "out/gates.html").assert_outcomes(passed=1)
    return project


def _page(project: Project, name: str = "out/gates.html") -> Page:
    page = Page((project.root / name).read_text(encoding="utf-8"))
    assert page.open == []
    return page


def test_the_report_shows_the_impact_and_all_that_the_verdict_stands_on(judged: Project) -> None:
    page = _page(judged)
    (record,) = judged.records
    manifests = list((judged.root / "evidence" / "runs").glob("*/manifest.json"))
    sha = hashlib.sha256(manifests[0].read_bytes()).hexdigest()
    telemetry = hashlib.sha256((manifests[0].parent / "telemetry-0.jsonl").read_bytes())
    for part in ("1 of 1 gate passes", "pending", "median 43 ms", "< 100 ms", "+57.0 %",
                 record.stem[:12], sha, telemetry.hexdigest(), "claims.yaml:12"):  # fmt: skip
        assert part in page.text, part
    assert "evidence/runs/" in page.text
    assert ".pytest_gates" not in page.text


def test_strings_of_a_contract_stay_text(judged: Project) -> None:
    page = _page(judged)
    assert page.all("script") == []
    assert HOSTILE in page.text
    assert all(not name.startswith("on") for _, attributes in page.elements for name in attributes)


def test_hostile_ids_and_files_stay_text(project: Project) -> None:
    project.contract(
        f"""
        contract_id: "{HOSTILE}"
        gates:
          - {{id: "\\"><img src=x onerror=alert(1)>", rule: It works., verdict: pass}}
        """,
        "a<b>&.yaml",
    )
    project.run("--gates-report", "gates.html").assert_outcomes(failed=1)
    page = _page(project, "gates.html")
    assert page.all("script") == page.all("img") == []
    assert '"><img src=x onerror=alert(1)>' in page.text


NO_CACHE = ("-p", "no:cacheprovider")  # pytest's own cannot keep such a name


def test_a_report_takes_no_devices_place_and_shows_a_name_that_is_no_text(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project.steps("steps.jsonl", wall_ms=[40.0 + step % 7 for step in range(30)])
    contract = project.contract(RECORDED)
    contract.rename(os.fsdecode(os.fsencode(project.contracts) + b"/\xff.yaml"))
    pipe = tmp_path_factory.mktemp("elsewhere") / "pipe"
    os.mkfifo(pipe)
    result = project.run("--gates-report", str(pipe), *NO_CACHE)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines([f"not written: {pipe}: cannot be written (not a regular file)"])
    assert pipe.is_fifo()
    project.run("--gates-report", "r.html", *NO_CACHE).assert_outcomes(passed=1)
    assert "contracts/\\udcff.yaml" in (project.root / "r.html").read_text(encoding="utf-8")


def test_one_file_that_asks_nobody_for_anything(judged: Project) -> None:
    text = (judged.root / "out" / "gates.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not re.search(r"""(?:src|href)=["'](?!#)""", text)
    assert "url(" not in text.replace("url(#", "")
    assert "@import" not in text
    (policy,) = [one["content"] for one in page.all("meta") if "http-equiv" in one]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_each_link_leads_somewhere_and_each_id_is_one(judged: Project) -> None:
    page = _page(judged)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {str(one["href"]) for one in page.all("a")}
    assert targets <= {f"#{one}" for one in ids}
    assert "#C-STEPS--GATE-MEDIAN" in targets
    labels = [value for _, attributes in page.elements
              if (value := attributes.get("aria-labelledby")) is not None]  # fmt: skip
    assert set(labels) <= set(ids)


def test_a_picture_says_in_words_what_it_shows(judged: Project) -> None:
    page = _page(judged)
    (picture,) = [one for one in page.all("div") if one.get("role") == "img"]
    assert "wall_ms by step" in str(picture["aria-label"])
    assert "0 of 30 steps 0..29 at or over it" in str(picture["aria-label"])
    assert len(page.all("svg")) == 1
    assert "limit 100 ms" in page.text


def test_the_report_of_what_is_recorded_runs_and_writes_nothing_else(
    judged: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(judged.root)
    (judged.root / "steps.jsonl").unlink()  # not even the source of the recording is needed
    before = _files(judged.root)
    assert main(["report", "contracts", "-o", "recorded.html"]) == 0
    assert _files(judged.root) - before == {judged.root / "recorded.html"}
    page = _page(judged, "recorded.html")
    assert "nothing was run" in page.text
    assert "PASS" in page.text
    assert "REPLAYED" in page.text
    assert len(page.all("svg")) == 1


def _files(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.is_file()}


def test_tampered_evidence_is_told_in_the_report(
    judged: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (telemetry,) = (judged.root / "evidence").glob("runs/*/telemetry-0.jsonl")
    telemetry.write_bytes(telemetry.read_bytes().replace(b"43", b"23", 1))
    monkeypatch.chdir(judged.root)
    assert main(["report", "contracts", "-o", "recorded.html"]) == 0
    page = _page(judged, "recorded.html")
    assert "1 is TAMPERED" in page.text
    assert "telemetry-0.jsonl: SHA-256 is" in page.text


def test_history_and_prose_and_blocked_gates_are_shown(project: Project) -> None:
    project.steps("steps.jsonl", wall_ms=[40.0 + step % 7 for step in range(30)])
    prose = "\n      - {id: GATE-PROSE, rule: Somebody looked., verdict: pending}\n"
    project.contract(RECORDED + prose)
    project.run()
    project.steps("steps.jsonl", wall_ms=[200.0 + step % 7 for step in range(30)])
    project.run("--gates-report", "gates.html").assert_outcomes(failed=1, skipped=1)
    page = _page(project, "gates.html")
    assert "2 records" in page.text
    assert "Verdicts over time" in page.text
    assert "1 gate with nothing to execute" in page.text
    assert "Somebody looked." in page.text
    assert "0 of 1 gate pass, 1 fails." in page.text


FALSIFIED = """
    contract_id: C-QUICK
    runs:
      cuda:
        driver: pretrain
        device: cuda:0
        model: llama-1m
        data: {corpus: python-stdlib}
        seq_len: 16
        batch_size: 1
        steps: 2
        optimizer: {warmup_steps: 1}
        host: {cuda: hidden}
    gates:
      - id: GATE-REFUSES
        rule: CUDA never becomes the CPU.
        run: cuda
        checks: [{kind: exit_status, expect: DEVICE_UNAVAILABLE}]
        verdict: pending
    falsification_tests:
      - id: FALSIFY-REFUSES
        binds_to: GATE-REFUSES
        inject: {fault: silent_cpu_fallback}
        expect: {verdict: fail, check: exit_status}
        if_fails: it cannot tell
"""


def test_the_matrix_shows_which_fault_each_gate_has_caught(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.contract(FALSIFIED)
    project.run("--gates-report", "gates.html").assert_outcomes(passed=2)
    monkeypatch.chdir(project.root)
    assert main(["report", "contracts", "-o", "recorded.html"]) == 0
    for name in ("gates.html", "recorded.html"):
        page = _page(project, name)
        assert "silent cpu fallback" in page.text
        assert "✓CAUGHT" in page.text
        assert "FALSIFY-REFUSES" in page.text
        assert "a trainer built without its CUDA feature" in page.text
        assert "with fault silent_cpu_fallback" in page.text


@pytest.mark.slow
def test_workers_of_xdist_make_the_same_report(project: Project) -> None:
    project.steps("steps.jsonl", wall_ms=[40.0 + step % 7 for step in range(30)])
    project.contract(RECORDED)
    project.process(
        "-p", "xdist.plugin", "-n", "2", "--gates-report", "gates.html"
    ).assert_outcomes(passed=1)
    page = _page(project, "gates.html")
    assert "1 of 1 gate passes" in page.text
    assert len(page.all("svg")) == 1


def test_a_report_that_cannot_be_written_is_said_and_costs_no_verdict(project: Project) -> None:
    project.steps("steps.jsonl", wall_ms=[40.0] * 15 + [41.0] * 15)
    path = project.contract(RECORDED)
    (project.root / "taken").write_text("a file, no folder", encoding="utf-8")
    result = project.run("--gates-report", "taken/gates.html")
    result.stdout.fnmatch_lines(["not written: *taken/gates.html: cannot be written*"])
    assert "verdict_basis" in path.read_text(encoding="utf-8")
    assert len(project.records) == 1


def test_without_the_extra_the_remedy_comes_before_any_run(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pytest_gates.report.html.NEEDED", ("no_such_module_at_all",))
    project.contract(RECORDED)
    result = project.run("--gates-report", "gates.html")
    result.stderr.fnmatch_lines(["*pip install 'pytest-gates[[]report]'*"])
    assert not (project.root / "gates.html").exists()
    assert not (project.root / ".pytest_gates").exists()


def test_a_waived_failure_is_told_everywhere_and_is_no_error(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = project.root / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    project.steps("steps.jsonl", wall_ms=[200.0 + step % 7 for step in range(30)])
    waiver = '\n        waiver: {reason: a slow disk, owner: Ada, until: "2999-01-01"}\n'
    project.contract(RECORDED + waiver)
    result = project.run("--gates-report", "gates.html", "--gates-attest", "out.json")
    assert "::error" not in result.stdout.str()
    page = _page(project, "gates.html")
    assert "FAIL WAIVED" in page.text
    assert "Waived until 2999-01-01 by Ada: a slow disk" in page.text
    assert "FAIL WAIVED" in summary.read_text(encoding="utf-8")
    told = (project.root / "out.json").read_text(encoding="utf-8")
    assert '"result": "WARNED"' in told
    assert '"GATE-MEDIAN": "FAIL DECLARED WAIVED"' in told
