"""The HTML report in a real browser: it lays out, says what it should, and loads nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
import zlib
from pathlib import Path

import comparisons
import pytest
from project import RECORDED, Project

pytest.importorskip("vl_convert")

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--hide-scrollbars", "--no-first-run", "--host-rules=MAP * 127.0.0.1:9")  # fmt: skip
HOSTILE = "<script>document.title = 'taken over'</script>"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def _browse(page: Path, *flags: str) -> str:
    assert CHROMIUM is not None
    profile = page.parent / "profile"
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()],
        capture_output=True, text=True, timeout=600, check=True,
    )  # fmt: skip
    return done.stdout


@pytest.fixture
def report(project: Project) -> Path:
    project.steps("steps.jsonl", wall_ms=[40.0 + step % 7 for step in range(30)])
    project.contract(RECORDED.replace("The median step is quick.", f'"{HOSTILE}"'))
    project.run("--gates-report", "gates.html").assert_outcomes(passed=1)
    return project.root / "gates.html"


def test_a_browser_shows_the_report_and_no_script_of_a_contract_runs(report: Path) -> None:
    dom = _browse(report, "--dump-dom")
    assert "<title>Gates: 1 of 1 gate passes.</title>" in dom
    assert "&lt;script&gt;document.title" in dom
    assert "taken over</title>" not in dom


def _with_probe(report: Path, script: str) -> str:
    """What a script of ours finds in the page, put into its title; the page's policy lifted."""
    text = report.read_text(encoding="utf-8")
    text = re.sub(r"<meta http-equiv[^>]*>", "", text)
    probe = report.with_name("probe.html")
    probe.write_text(text.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    found = re.search(
        r"<title>(.*?)</title>", _browse(probe, "--dump-dom", "--window-size=500,900")
    )
    assert found is not None
    return found.group(1)


def test_a_matrix_of_many_faults_scrolls_within_itself(report: Path) -> None:
    script = """
      const cells = '<td>not<span class="hidden">not tried</span></td>'.repeat(200);
      const matrix = '<div class="scroll matrix"><table><tr>' + cells + '</tr></table></div>';
      document.querySelector('#gates').insertAdjacentHTML('beforebegin', matrix);
      const inner = document.querySelector('.matrix');
      const page = document.documentElement;
      document.title = [inner.scrollWidth > inner.clientWidth, page.scrollWidth > innerWidth];
    """
    assert _with_probe(report, script) == "true,false"


def test_keyboard_names_and_width_hold(report: Path) -> None:
    script = """
      const wide = document.documentElement.scrollWidth > window.innerWidth;
      const targets = [...document.querySelectorAll('a[href^="#"]')]
        .filter(one => !document.getElementById(one.getAttribute('href').slice(1))).length;
      const nameless = [...document.querySelectorAll('[role=img],[role=region]')]
        .filter(one => !one.ariaLabel && !one.getAttribute('aria-labelledby')).length;
      const unreachable = [...document.querySelectorAll('.scroll')]
        .filter(one => one.tabIndex !== 0).length;
      document.querySelector('#only-red').checked = true;
      const left = [...document.querySelectorAll('tr[data-tone]')]
        .filter(one => getComputedStyle(one).display !== 'none').length;
      document.title = JSON.stringify([wide, targets, nameless, unreachable, left]);
    """
    assert _with_probe(report, script) == "[false,0,0,0,0]"


def test_text_has_contrast_in_light_and_dark(report: Path) -> None:
    script = """
      const light = name => {
        const probe = document.createElement('i');
        probe.style.color = `var(--${name})`;
        document.body.append(probe);
        const parts = getComputedStyle(probe).color.match(/\\\\d+/g).slice(0, 3).map(Number);
        const [r, g, b] = parts.map(v => v / 255)
          .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const paper = light('paper');
      const ratios = ['ink', 'mute', 'accent', 'limit', 'good', 'bad', 'warn'].map(light)
        .map(one => (Math.max(one, paper) + 0.05) / (Math.min(one, paper) + 0.05));
      document.title = Math.min(...ratios).toFixed(2);
    """.replace("\\\\", "\\")
    assert float(_with_probe(report, script)) >= 4.5
    text = report.read_text(encoding="utf-8")
    report.write_text(text.replace("(prefers-color-scheme: dark)", "screen"), encoding="utf-8")
    assert float(_with_probe(report, script)) >= 4.5


def test_it_prints_and_paints(report: Path) -> None:
    pdf, png = report.with_suffix(".pdf"), report.with_suffix(".png")
    _browse(report, "--no-pdf-header-footer", f"--print-to-pdf={pdf}")
    assert pdf.read_bytes().startswith(b"%PDF")
    _browse(report, "--window-size=1000,1400", f"--screenshot={png}")
    pixels = _pixels(png.read_bytes())
    assert len(set(pixels)) > 50  # a page with text and a drawing, no blank sheet


def _pixels(png: bytes) -> bytes:
    """The decompressed pixel data of a PNG file."""
    data, at = b"", 8
    while at < len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        if png[at + 4 : at + 8] == b"IDAT":
            data += png[at + 8 : at + 8 + size]
        at += size + 12
    return zlib.decompress(data)


def test_no_letter_of_a_comparison_is_cut_in_light_or_dark(report: Path) -> None:
    drawn = [
        *comparisons.ratios({"below": 0.55}),
        *comparisons.side_by_side(
            {"of": ["strict", "other-seed-than-that"], "expect": "differ"},
            strict=(comparisons.falling(),),
            **{"other-seed-than-that": (comparisons.falling(by=0.04),)},
        ),
        *comparisons.memory(),
        *comparisons.anatomy(),
    ]
    figures = "".join(f"<figure>{one.svg}</figure>" for one in drawn)
    text = report.read_text(encoding="utf-8")
    script = """
      const cut = [];
      for (const chart of document.querySelectorAll('figure svg.chart')) {
        const frame = chart.getBoundingClientRect();
        for (const text of chart.querySelectorAll('text')) {
          const box = text.getBoundingClientRect();
          if (box.left < frame.left - 1 || box.right > frame.right + 1 ||
              box.top < frame.top - 1 || box.bottom > frame.bottom + 1) cut.push(text.textContent);
        }
      }
      const count = document.querySelectorAll('figure svg.chart').length;
      document.title = JSON.stringify([count, cut]);
    """
    for scheme in ("(prefers-color-scheme: dark)", "screen"):
        page = text.replace("(prefers-color-scheme: dark)", scheme)
        report.write_text(page.replace("</body>", f"{figures}</body>"), encoding="utf-8")
        assert _with_probe(report, script) == "[5,[]]"
        png = report.with_suffix(".png")
        _browse(report, "--window-size=1000,3000", f"--screenshot={png}")
        assert len(set(_pixels(png.read_bytes()))) > 50
