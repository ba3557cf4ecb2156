"""A visitor in a real browser; pictures of what they saw go to test-results/."""

import os
import re
from pathlib import Path

import pytest

from benchmarks.app_process import REPO

playwright = pytest.importorskip(
    "playwright.sync_api", reason="the browser test needs: pip install playwright"
)
PICTURES = Path(os.environ.get("KPOP_TEST_PICTURES", REPO / "test-results"))
STEP_LIMIT = 400_000  # milliseconds for the longest wait: a training of 20 steps on a busy machine
playwright.expect.set_options(timeout=60_000)
RUNNING = re.compile("Getting ready|Forgetting")


class Visitor:
    """One open page that writes down every request leaving this machine and every script error."""

    def __init__(self, chromium, width: int):
        self.page = chromium.new_page(viewport={"width": width, "height": 900})
        self.width, self.left, self.errors = width, [], []
        self.page.set_default_timeout(60_000)
        self.page.on("request", self._asked)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._said)

    def _said(self, message) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _asked(self, request) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            self.left.append(request.url)

    def open(self, address: str, theme: str = "light") -> None:
        self.page.goto(f"{address}?__theme={theme}")
        self.page.get_by_role("tab", name="1 Concepts").wait_for()

    def step(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def picture(self, name: str) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}-{self.width}.png", full_page=True)

    def findings(self) -> list[str]:
        """What axe-core calls serious or critical on the page at rest, gradio's own toasts left out.

        At rest: gradio fades what it is about to replace, for a moment.
        """
        from axe_playwright_python.sync_playwright import Axe  # beside playwright in requirements-dev.txt

        self.page.wait_for_function(
            """() => !document.querySelector('.pending') && document.getAnimations().every(it =>
              it.playState !== 'running' || it.transitionProperty !== 'opacity')""",
            timeout=STEP_LIMIT,
        )
        asked = {"context": {"exclude": [".toast-wrap"]}, "options": {"resultTypes": ["violations"]}}
        found = Axe().run(self.page, **asked).response["violations"]
        return [
            f"{rule['id']}: {node['html'][:200]} {node.get('failureSummary', '')[:200]}"
            for rule in found
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
        ]

    def reach(self, locator, most: int = 80, key: str = "Tab") -> None:
        """Press Tab, or Shift+Tab, until the focus is there."""
        for _ in range(most):
            if locator.evaluate("it => it === document.activeElement || it.contains(document.activeElement)"):
                return
            self.page.keyboard.press(key)
        raise AssertionError(f"the {key} key does not reach {locator}")

    def moves(self) -> list[str]:
        """What still moves where the visitor wants no motion: elements with their longest time in seconds."""
        return self.page.evaluate("""() => [...document.querySelectorAll('*')].flatMap((it) => {
          const style = getComputedStyle(it);
          const times = `${style.animationDuration},${style.transitionDuration}`.split(',').map(parseFloat);
          return Math.max(...times) > 0.001 ? [`${it.tagName} ${it.className} ${Math.max(...times)}`] : [];
        })""")

    def fits(self) -> bool:
        """Whether nothing makes the page scroll sideways."""
        return self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def sees(locator, timeout: int = 60_000) -> None:
    playwright.expect(locator).to_be_visible(timeout=timeout)
