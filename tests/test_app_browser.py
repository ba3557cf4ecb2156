"""The whole path in a real browser, from concepts to attribution; pictures of it in test-results/."""

import json
import os
import re
import shutil
import time
import zipfile
from pathlib import Path

import pytest

from benchmarks.app_process import REPO, running_app
from benchmarks.browser import find_browser
from kpop.runs import EXAMPLE

playwright = pytest.importorskip(
    "playwright.sync_api", reason="the browser test needs: pip install playwright"
)
PICTURES = Path(os.environ.get("KPOP_TEST_PICTURES", REPO / "test-results"))
STEP_LIMIT = 400_000  # milliseconds for the longest wait: a training of 20 steps on a busy machine
playwright.expect.set_options(timeout=60_000)
RUNNING = re.compile("Getting ready|Forgetting")


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as tool:
        found = find_browser(tool.chromium)
        if found is None:
            pytest.skip("no chromium here: apt-get install chromium, or playwright install chromium")
        chromium = tool.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def address(folder):
    with running_app(folder) as address:
        yield address


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
        """What axe-core calls serious or critical on the page as it stands."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
        found = axe.run(self.page, options={"resultTypes": ["violations"]}).response["violations"]
        return [
            f"{rule['id']}: {node['html'][:200]} {node.get('failureSummary', '')[:200]}"
            for rule in found
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"]
        ]

    def reach(self, locator, most: int = 80) -> None:
        """Press Tab until the focus is there."""
        for _ in range(most):
            if locator.evaluate("it => it === document.activeElement || it.contains(document.activeElement)"):
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"the Tab key does not reach {locator}")

    def fits(self) -> bool:
        """Whether nothing makes the page scroll sideways."""
        return self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def sees(locator, timeout: int = 60_000) -> None:
    playwright.expect(locator).to_be_visible(timeout=timeout)


def test_from_a_word_to_the_heads(chromium, address):
    visitor = Visitor(chromium, 1280)
    page = visitor.page
    visitor.open(address)
    sees(page.locator("#verdict").get_by_text("The model knows"))
    playwright.expect(page.locator("#forget-pictures img")).to_have_count(6, timeout=STEP_LIMIT)
    shown = page.locator("#forget-pictures img").first
    assert shown.evaluate("image => image.naturalWidth") >= 256
    visitor.picture("1-concepts")
    page.locator("#keep .remove-all").click()  # one sibling: a short training
    page.locator("#keep input").fill("castle")
    page.locator("#keep input").press("Enter")
    # The strips of the presets may be drawn first.
    playwright.expect(page.locator("#keep-pictures figure")).to_have_count(2, timeout=STEP_LIMIT)

    page.locator("#to-train").click()
    page.get_by_text("All settings").click()
    for name, value in (("steps", "20"), ("sample_every", "10"), ("batch_size", "1"), ("rollout_steps", "4")):
        page.locator(f"#set-{name} input, #set-{name} textarea").fill(value)
    page.get_by_text("All settings").click()
    page.locator("#train-default").click()
    sees(page.locator("#run-card").get_by_text(RUNNING), STEP_LIMIT)
    assert re.search(r"[?&]run=\d{8}-\d{6}-", page.url)

    assert visitor.errors == []
    page.reload()  # the run is on the server, and the address names run and step
    page.get_by_role("tab", name="1 Concepts").wait_for()
    visitor.errors.clear()  # what the reload cut off, as gradio's client says it
    sees(page.locator("#run-card").get_by_text(re.compile("Getting ready|Forgetting|Forgot")))
    second = Visitor(chromium, 1280)
    second.page.goto(page.url)
    sees(second.page.locator("#run-card").get_by_text(re.compile("Getting ready|Forgetting|Forgot")))
    second.page.close()
    sees(page.locator("#run-card").get_by_text("Forgot"), STEP_LIMIT)
    sees(page.locator("#charts .chart").first)
    playwright.expect(page.locator("#sample-now .now")).to_have_count(4)
    page.locator("#scrub input[type=range]").press("Home")
    sees(page.get_by_role("heading", name="Step 10"))
    sees(page.locator("#runs .state.done").first)
    visitor.picture("2-train")

    visitor.step("3 Compare")
    playwright.expect(page.locator("#compare-grid .sheet-row img")).to_have_count(12, timeout=STEP_LIMIT)
    page.locator("#seeds input, #seeds textarea").fill("7")
    page.locator("#draw").click()
    sees(page.get_by_role("img", name=re.compile("recovered, seed 7")), STEP_LIMIT)
    page.get_by_role("button", name=re.compile("Show large: .*sanitized, seed 7")).click()
    sees(page.locator("dialog#viewer"))
    page.keyboard.press("Escape")
    visitor.picture("3-compare")
    page.get_by_text("Slide between two").click()
    sees(page.locator("#slider img").first)
    visitor.picture("3-compare-slider")

    visitor.step("4 Attribution")
    sees(page.locator("#maps .maps img"), STEP_LIMIT)
    assert "church" in page.locator("#maps .told").inner_text()
    before = page.locator("#maps img").get_attribute("src")
    page.locator("#band label").filter(has_text="noise").click()
    playwright.expect(page.locator("#maps img")).not_to_have_attribute("src", before)
    with page.expect_download() as saved:
        page.locator("#save-svg").click()
    assert saved.value.suggested_filename == "attention.svg"
    visitor.picture("4-attribution")

    visitor.step("2 Train")
    own = page.locator(f'#runs [data-run="{re.search(r"run=([^&]+)", page.url).group(1)}"]')
    playwright.expect(own).to_have_count(1)
    page.locator("#delete-run").click()
    page.locator("#delete-yes").click()
    playwright.expect(own).to_have_count(0)
    sees(page.locator("#runs .state.done").first)  # the example stays
    assert (visitor.left, visitor.errors) == ([], [])
    page.close()


def test_every_step_fits_a_phone_in_both_themes(chromium, address):
    for theme in ("light", "dark"):
        visitor = Visitor(chromium, 400)
        visitor.open(address, theme)
        sees(visitor.page.locator("#verdict").get_by_text("The model knows"))
        assert visitor.page.evaluate("document.body.classList.contains('dark')") is (theme == "dark")
        steps = ("1 Concepts", "2 Train", "3 Compare", "4 Attribution", "5 Evaluate", "6 Release")
        for name in (*steps, "What is this?"):
            visitor.step(name)
            time.sleep(1.5)  # let the step draw itself before it is photographed
            visitor.picture(f"phone-{theme}-{re.sub('[^a-z]', '', name.lower())}")
            assert visitor.fits(), name
            assert visitor.findings() == [], name
        assert (visitor.left, visitor.errors) == ([], [])
        visitor.page.close()


def test_an_unknown_word_is_answered_on_the_page(chromium, address):
    visitor = Visitor(chromium, 1280)
    visitor.open(address)
    sees(visitor.page.locator("#verdict").get_by_text("The model knows"))
    field = visitor.page.locator("#keep input")
    field.fill("church")
    field.press("Enter")
    sees(visitor.page.locator("#verdict").get_by_text("stands on both sides"))
    visitor.page.close()


@pytest.mark.skipif(os.environ.get("KPOP_EMOJI_DIR") is not None, reason="that model has no word list")
def test_a_word_never_seen_is_answered_with_three(chromium, address):
    visitor = Visitor(chromium, 1280)
    visitor.open(address)
    sees(visitor.page.locator("#verdict").get_by_text("The model knows"))
    field = visitor.page.locator("#forget input")
    field.fill("zzgl")
    field.press("Enter")
    sees(visitor.page.locator("#verdict").get_by_text(re.compile("does not know the word 'zzgl'")))
    visitor.page.locator("#verdict .instead").first.click()
    sees(visitor.page.locator("#verdict").get_by_text("The model knows"))
    visitor.page.close()


def test_the_keyboard_alone_gets_from_the_first_step_to_the_key(chromium, address):
    """Tab, Enter and arrows: open step 3, draw another seed, look through the views, forge the key."""
    visitor = Visitor(chromium, 1280)
    page, press = visitor.page, visitor.page.keyboard.press
    visitor.open(address)
    sees(page.locator("#verdict").get_by_text("The model knows"))
    visitor.reach(page.get_by_role("tab", name="3 Compare"))
    press("Enter")
    playwright.expect(page.locator("#compare-grid .sheet-row img")).to_have_count(12, timeout=STEP_LIMIT)
    visitor.reach(page.locator("#seeds textarea, #seeds input"))
    press("ControlOrMeta+a")
    page.keyboard.type("9")
    visitor.reach(page.locator("#key input"))
    press("ControlOrMeta+a")
    page.keyboard.type("random")
    press("Enter")
    playwright.expect(page.locator("#key input")).to_have_value("a random key")
    visitor.reach(page.locator("#draw"))
    press("Enter")
    sees(page.get_by_role("img", name=re.compile("recovered, seed 9")), STEP_LIMIT)
    sees(page.locator("#compare-grid").get_by_text("with another key"))
    visitor.reach(page.locator("#compare-view input").first)
    press("ArrowRight")
    sees(page.locator("#slider img").first)
    press("ArrowRight")
    flip = page.locator("#hover .flip").first
    sees(flip)
    over = flip.locator(".over")
    assert over.evaluate("it => getComputedStyle(it).opacity") == "0"
    visitor.reach(flip)
    assert over.evaluate("it => getComputedStyle(it).opacity") == "1"
    visitor.picture("keyboard-3-compare")
    assert visitor.findings() == []
    assert (visitor.left, visitor.errors) == ([], [])
    page.close()


def test_a_saved_picture_dropped_back_restores_its_settings(chromium, address, tmp_path):
    visitor = Visitor(chromium, 1280)
    page = visitor.page
    visitor.open(address)
    sees(page.locator("#verdict").get_by_text("The model knows"))
    visitor.step("3 Compare")
    playwright.expect(page.locator("#compare-grid .sheet-row img")).to_have_count(12, timeout=STEP_LIMIT)
    page.get_by_role("button", name=re.compile("Show large: .*sanitized, seed 2")).click()
    with page.expect_download() as saved:
        page.locator("#viewer .viewer-save").click()
    saved.value.save_as(tmp_path / "saved.png")
    page.keyboard.press("Escape")
    page.locator("#prompt input, #prompt textarea").fill("a castle")
    page.get_by_text("Another run, guidance").click()
    page.locator("#restore input[type=file]").set_input_files(tmp_path / "saved.png")
    playwright.expect(page.locator("#prompt input, #prompt textarea")).to_have_value("a church")
    playwright.expect(page.locator("#seeds input, #seeds textarea")).to_have_value("2")
    playwright.expect(page.locator("#compare-grid .sheet-row img")).to_have_count(3, timeout=STEP_LIMIT)
    assert (visitor.left, visitor.errors) == ([], [])
    page.close()


def test_an_evaluation_fills_its_table_and_outlives_a_reload(chromium, address, folder, tmp_path):
    own = shutil.copytree(EXAMPLE, folder / "runs" / "20260101-120000-church-ab12")
    status = json.loads((own / "status.json").read_text())
    (own / "status.json").write_text(json.dumps(status | {"owner": "local"}))
    visitor = Visitor(chromium, 1280)
    page = visitor.page
    page.goto(f"{address}?run={own.name}&step=7")
    sees(page.locator("#evaluate-start"))
    sees(page.locator("#evaluate-about").get_by_text("pictures, about"))  # the page has settled
    assert "parachute" in page.locator("#evaluate-words").inner_text()
    page.locator("#evaluate-words .remove-all").click()
    page.locator("#evaluate-words input").fill("church")
    page.locator("#evaluate-words input").press("Enter")
    page.locator("#evaluate-pictures input[type=number]").fill("1")
    page.locator("#evaluate-pictures input[type=number]").press("Tab")
    sees(page.locator("#evaluate-about").get_by_text("3 pictures"))
    visitor.reach(page.locator("#evaluate-start"))
    page.keyboard.press("Enter")
    sees(page.locator("#evaluation-card").get_by_text("church, 1 picture each"))
    assert page.locator("#evaluation-figures tbody th[scope=row]").count() == 1
    assert visitor.errors == []
    page.reload()
    sees(page.locator("#evaluation-card").get_by_role("heading", name="Evaluated"), STEP_LIMIT)
    visitor.errors.clear()  # what the reload cut off, as gradio's client says it
    playwright.expect(page.locator("#evaluation-figures .whiskers i")).to_have_count(3)
    assert visitor.fits() and visitor.findings() == []
    with page.expect_download() as saved:
        page.locator("#evaluation-save").click()
    saved.value.save_as(tmp_path / "report.zip")
    names = {name.rpartition("/")[2] for name in zipfile.ZipFile(tmp_path / "report.zip").namelist()}
    assert {"report.md", "metrics.json", "predictions.csv", "detection.png"} <= names
    page.get_by_text("The paper’s tables").click()
    sees(page.locator("#paper-shown table"))
    visitor.picture("5-evaluate")
    assert (visitor.left, visitor.errors) == ([], [])
    page.close()
