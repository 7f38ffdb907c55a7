"""A page in headless Chromium, driven through its command line alone: its state, what it said, and answers of a script in it."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--enable-logging=stderr"),
    # Time in the page runs as fast as its work is done, so nothing waits for a clock and a slow machine changes nothing.
    "--virtual-time-budget=60000",
)

# What every page is asked once its charts are drawn; a test adds its own questions.
_PROBE = """
<script>(async () => {
  const answers = {};
  const ready = async () => { while (!document.body.dataset.ready) await new Promise((done) => setTimeout(done, 20)); };
  const shown = (selector) => [...document.querySelectorAll(selector)].filter((node) => node.getClientRects().length);
  const meetings = (nodes) => {
    const boxes = nodes.map((node) => [node.textContent, node.getBoundingClientRect()]).filter(([text]) => text.trim());
    const met = [];
    boxes.forEach(([name, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
      if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2) met.push([name, other]);
    }));
    return met;
  };
  const outside = () => shown(".plot text").filter((node) => {
    const box = node.getBoundingClientRect(), frame = node.closest(".plot").getBoundingClientRect();
    return node.textContent.trim() && !node.closest(".hoverlayer") && (box.left < frame.left - 2 || box.right > frame.right + 2);
  }).map((node) => node.textContent);
  try {
    await ready();
    Object.assign(answers, {
      width: innerWidth, scroll: document.documentElement.scrollWidth,
      plots: shown(".plot").length, drawn: shown(".plot .main-svg:first-child").length,
      names: shown(".textpoint").map((node) => node.textContent).filter(Boolean),
      meetings: shown(".plot").flatMap((plot) => [
        ...meetings([...plot.querySelectorAll(".textpoint")]), ...meetings([...plot.querySelectorAll(".xtick, .x2tick")]),
        ...meetings([...plot.querySelectorAll(".ytick")]),
      ]),
      outside: outside(),
      // Plotly turns the labels of an axis where they would meet.
      turned: shown(".xtick text").filter((node) => /rotate\\((?!0)/.test(node.getAttribute("transform"))).length,
    });
    QUESTIONS
  } catch (error) { answers.error = String(error.stack || error); }
  const told = parent.document.createElement("pre");
  told.id = "answers";
  told.textContent = JSON.stringify(answers);
  parent.document.body.replaceChildren(told);
})()</script>"""


def ask(page: Path, folder: Path, questions: str = "", width: int = 1280, height: int = 800) -> dict[str, Any]:
    """Open a page, run ``questions`` (JavaScript that sets fields of ``answers``) in it, and return the answers.

    Fails if the page raised an error, logged one, or was refused something by its own policy.
    """
    assert CHROMIUM is not None
    inner = html.escape(page.read_text(encoding="utf-8") + _PROBE.replace("QUESTIONS", questions))
    # A window cannot be as narrow as a phone, a frame can.
    frame = f'<body style="margin:0"><iframe style="border:0;width:{width}px;height:{height}px" srcdoc="{inner}"></iframe>'
    asked = folder / "asked.html"
    asked.write_text(f'<!DOCTYPE html><meta charset="utf-8">{frame}', encoding="utf-8")
    command = [
        CHROMIUM,
        *_OPTIONS,
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1400,900",
        "--dump-dom",
        asked.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    said = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    assert not said, said
    found = re.search(r'<pre id="answers">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    answers: dict[str, Any] = json.loads(html.unescape(found[1]))
    assert "error" not in answers, answers["error"]
    return answers
