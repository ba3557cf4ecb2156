"""How long a browser that never saw the page needs for it, once the server has started.

    python -m benchmarks.first_paint --rounds 7 --out docs/benchmarks.md

Every round opens the page on loopback in a new browser context, with nothing in its cache, and tells when
something was painted first, when the first step could be used (its words read, its button to be pressed),
and when the six drawings stood there, which the server has from the round before.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

from benchmarks.app_process import running_app
from benchmarks.browser import find_browser
from benchmarks.machine import processor
from benchmarks.marked_part import put

PATIENCE = 300_000  # milliseconds
PAINTED = "performance.getEntriesByName('first-contentful-paint').map((entry) => entry.startTime)[0]"
WHAT = ("something is painted", "the first step can be used", "its six drawings are there")


def load(browser: Browser, address: str) -> tuple[float, float, float]:
    """Seconds from asking for the page to each of WHAT."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    began = time.perf_counter()
    page.goto(address, wait_until="commit")
    expect(page.locator("#verdict").get_by_text("The model knows")).to_be_visible()
    expect(page.locator("#to-train")).to_be_enabled()
    usable = time.perf_counter() - began
    expect(page.locator("#forget-pictures img")).to_have_count(6)
    drawn = time.perf_counter() - began
    painted = page.evaluate(PAINTED) / 1000
    context.close()
    return painted, usable, drawn


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="markdown file whose marked part is replaced")
    asked = parser.parse_args()
    expect.set_options(timeout=PATIENCE)
    with tempfile.TemporaryDirectory() as folder, running_app(Path(folder)) as address:
        with sync_playwright() as tool:
            browser = tool.chromium.launch(executable_path=find_browser(tool.chromium), args=["--no-sandbox"])
            load(browser, address)  # the drawings are made in this one
            busy = os.getloadavg()[0]
            rounds = [load(browser, address) for _ in range(asked.rounds)]
            browser.close()
    put(table(rounds, busy), "first-paint", asked.out)


def table(rounds: list[tuple[float, float, float]], busy: float) -> str:
    """busy: processes that wanted to run before the first round, a mean over a minute."""
    cores = len(os.sched_getaffinity(0))
    rows = [
        f"| {name} | {statistics.median(times):.2f} s | {min(times):.2f} to {max(times):.2f} s |"
        for name, times in zip(WHAT, zip(*rounds, strict=True), strict=True)
    ]
    beside = "other work ran beside" if busy > 1 else "nothing else ran"
    return "\n".join(
        [
            f"    python -m benchmarks.first_paint {shlex.join(sys.argv[1:])}",
            "",
            f"emoji; {processor()}, {cores} cores, {beside} (load {busy:.1f}); {len(rounds)} openings.",
            "",
            "| after opening the page | median | range |",
            "|---|---:|---:|",
            *rows,
        ]
    )


if __name__ == "__main__":
    main()
