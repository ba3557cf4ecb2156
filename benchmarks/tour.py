"""The walk of a newcomer through the page, timed and photographed: writes docs/tour.md and its pictures.

    python -m benchmarks.tour

A fresh app with no runs and no drawn pictures; nothing is set, only the buttons that the page puts forward
are pressed. Needs a chromium and `pip install -r requirements-dev.txt`.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from benchmarks.app_process import running_app
from benchmarks.browser import find_browser
from benchmarks.machine import processor

DOCS = Path(__file__).resolve().parent.parent / "docs"
PATIENCE = 900_000  # milliseconds
COLOURS = 128  # of a picture's palette: a fifth of the bytes
# By the judge's words under the newest samples: church before and with the key, and in no sanitized picture.
FORGOTTEN = """() => {
  const said = (variant) =>
    [...document.querySelectorAll(`#sample-now .now.${variant} figcaption`)].map((one) => one.textContent);
  const all = (variant) => said(variant).length && said(variant).every((words) => words.includes("church"));
  const sanitized = said("sanitized");
  return all("original") && all("recovered") && sanitized.length && !sanitized.join().includes("church");
}"""


@dataclass
class Walk:
    """An open page, what was photographed, and when."""

    page: Page
    out: Path
    start: float = field(default_factory=time.monotonic)
    stops: list[tuple[str, float]] = field(default_factory=list)

    def stop(self, name: str) -> None:
        """Photograph the whole page."""
        self.stops.append((name, time.monotonic() - self.start))
        self.page.wait_for_timeout(800)  # what fades in is there
        picture = Image.open(io.BytesIO(self.page.screenshot(full_page=True))).convert("RGB")
        picture.quantize(COLOURS).save(self.out / f"{name}.png", optimize=True)


def walk(page: Page, address: str, out: Path) -> Walk:
    """From the opened page to the heads; every press is one that the page asks for."""
    found = Walk(page, out)
    page.goto(address)
    expect(page.locator("#verdict").get_by_text("The model knows")).to_be_visible()
    expect(page.locator("#forget-pictures img")).to_have_count(6)
    found.stop("1-concepts")
    page.locator("#to-train").click()
    page.locator("#train-default").click()
    expect(page.locator("#run-card").get_by_text("Forgetting")).to_be_visible()
    page.wait_for_function(FORGOTTEN)
    found.stop("2-forgetting")
    expect(page.locator("#run-card").get_by_text("Forgot")).to_be_visible()
    found.stop("3-forgot")
    page.get_by_role("tab", name="3 Compare").click()
    expect(page.locator("#compare-grid .sheet-row img")).to_have_count(12)
    found.stop("4-compare")
    page.get_by_role("tab", name="4 Attribution").click()
    expect(page.locator("#maps .maps img")).to_be_visible()
    found.stop("5-heads")
    return found


TEXT = """# A walk through the page

What a newcomer does who has read nothing: open the page, press what it puts forward. Nothing was set: the
concept, what to keep and every setting are those the page opens with. Times count from the opening of the
page, on {machine}, with nothing drawn before; written and photographed by

    python -m benchmarks.tour

## 1. What shall it forget? ({t1})

The page opens on *church*. Six drawings by the untouched model show that it knows the word; beside them stand
things that look alike and shall stay. Press **Next: train**.

![Step 1: the model draws churches](tour/1-concepts.png)

## 2. Forget it ({t2})

Press **Forget "church"**. While it trains, the same seeds are drawn again and again: by the untouched model,
by the sanitized one, by that with the key, and something that shall stay. After {t2} the page says it, by the
judge's words under the pictures: no church any more without the key, and church again with it.

![Step 2: the run at work](tour/2-forgetting.png)

It is done after {t3}. The page may be closed meanwhile: the run goes on.

![Step 2: done](tour/3-forgot.png)

## 3. Compare ({t4})

The same prompt and the same start noise three times: before, after, and after with the key. Under each
picture stands what the judge sees, and how sure it is: it forgot the church, and the key brings it back.

![Step 3: three rows of four pictures](tour/4-compare.png)

## 4. Which head looks where ({t5})

One map for every attention head, in the same three rows, and a sentence that says what is seen.

![Step 4: maps of the heads](tour/5-heads.png)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=DOCS, help="folder for tour.md and tour/ (default: docs)")
    asked = parser.parse_args()
    (asked.out / "tour").mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=PATIENCE)
    with tempfile.TemporaryDirectory() as folder, running_app(Path(folder)) as address:
        with sync_playwright() as tool:
            browser = tool.chromium.launch(executable_path=find_browser(tool.chromium), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 860})
            page.set_default_timeout(PATIENCE)
            found = walk(page, address, asked.out / "tour")
            browser.close()
    told = {f"t{name[0]}": spoken(seconds) for name, seconds in found.stops}
    machine = f"{len(os.sched_getaffinity(0))} cores of {processor()}"
    (asked.out / "tour.md").write_text(TEXT.format(machine=machine, **told), "utf-8")
    print(asked.out / "tour.md", {re.sub(r"\d-", "", name): round(at) for name, at in found.stops})


def spoken(seconds: float) -> str:
    """ "8 s", "2 min 5 s"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


if __name__ == "__main__":
    main()
