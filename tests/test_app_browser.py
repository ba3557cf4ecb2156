"""The whole path in a real browser, from concepts to attribution; pictures of it in test-results/."""

import json
import os
import re
import shutil
import time
import zipfile

import pytest
from shared_browser import RUNNING, STEP_LIMIT, Visitor, playwright, sees

from benchmarks.app_process import running_app
from kpop.runs import EXAMPLE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def address(folder):
    with running_app(folder) as address:
        yield address


def test_from_a_word_to_the_heads(chromium, address):
    visitor = Visitor(chromium, 1280)
    page = visitor.page
    visitor.open(address)
    sees(page.locator("#verdict").get_by_text("The model knows"))
    playwright.expect(page.locator("#forget-pictures img")).to_have_count(6, timeout=STEP_LIMIT)
    shown = page.locator("#forget-pictures img").first
    assert shown.evaluate("image => image.naturalWidth") >= 256
    visitor.picture("1-concepts")
    # From here to the training by keyboard alone.
    visitor.reach(page.locator("#keep input"))
    for _ in range(page.locator("#keep .token").count()):
        page.keyboard.press("Backspace")
    page.keyboard.type("castle")  # one sibling: a short training
    page.keyboard.press("Enter")
    # The strips of the presets may be drawn first.
    playwright.expect(page.locator("#keep-pictures figure")).to_have_count(2, timeout=STEP_LIMIT)

    visitor.reach(page.locator("#to-train"))
    page.keyboard.press("Enter")
    visitor.reach(page.locator("#all-settings > button"))
    page.keyboard.press("Enter")
    for name, value in (("steps", "20"), ("batch_size", "1"), ("rollout_steps", "4"), ("sample_every", "10")):
        visitor.reach(page.locator(f"#set-{name} input, #set-{name} textarea"))
        page.keyboard.type(value)
    visitor.reach(page.locator("#train-default"), key="Shift+Tab")
    page.keyboard.press("Enter")
    sees(page.locator("#run-card").get_by_text(RUNNING), STEP_LIMIT)
    assert re.search(r"[?&]run=\d{8}-\d{6}-", page.url)
    page.locator("#stop-run").click()
    sees(page.locator("#resume-run"), STEP_LIMIT)
    sees(page.locator("#run-card").get_by_text("Stopped while forgetting"))
    playwright.expect(page.locator("#said")).to_have_text("Stopped while forgetting church")
    page.locator("#resume-run").click()
    sees(page.locator("#run-card").get_by_text(RUNNING), STEP_LIMIT)
    assert visitor.findings() == []  # while it trains

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
    playwright.expect(page.locator("#sample-now .now")).to_have_count(5)
    sees(page.get_by_role("heading", name="Step 20", exact=True), STEP_LIMIT)  # the last sample is followed
    scrub = page.locator("#scrub input[type=range]")
    for key, step in (("Home", 0), ("ArrowRight", 10), ("ArrowRight", 20)):  # it stops at samples alone
        scrub.press(key)
        sees(page.get_by_role("heading", name=f"Step {step}", exact=True))
    sees(page.locator("#runs .state.done").first)
    visitor.picture("2-train")
    page.locator("#all-settings > button").click()  # closed again by the reload
    steps = page.locator("#set-steps input, #set-steps textarea")
    playwright.expect(steps).to_have_value("")  # after the reload
    page.locator("#clone-run").click()
    playwright.expect(steps).to_have_value("20")
    playwright.expect(page.locator("#keep .token")).to_have_text(["castle"])

    visitor.step("3 Compare")
    playwright.expect(page.locator("#compare-grid .sheet-row img")).to_have_count(12, timeout=STEP_LIMIT)
    page.locator("#seeds input, #seeds textarea").fill("7")
    page.locator("#draw").click()
    sees(page.get_by_role("img", name=re.compile("recovered, seed 7")), STEP_LIMIT)
    playwright.expect(page.locator("#said")).to_contain_text(re.compile("of 1 original"))
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
    page.locator("#band-last input[type=range]").press("Home")  # noise alone
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


def test_every_step_fits_a_phone_and_wide_screens_in_both_themes(chromium, address):
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
            for width in (1280, 1600):
                visitor.page.set_viewport_size({"width": width, "height": 900})
                assert visitor.fits(), (name, width)
            visitor.page.set_viewport_size({"width": visitor.width, "height": 900})
        visitor.page.emulate_media(reduced_motion="reduce")
        assert visitor.moves() == []
        visitor.page.emulate_media(reduced_motion="no-preference")
        assert len(visitor.moves()) > 0  # or the line above says nothing
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


def rests(page, asked: list) -> None:
    """Wait until the page has asked for nothing more in six seconds, as it does unless it runs in circles."""
    for _ in range(20):
        before = len(asked)
        page.wait_for_timeout(6000)
        if len(asked) == before:
            return
    raise AssertionError(f"the page goes on asking: {asked[-5:]}")


def test_words_taken_out_quickly_are_answered_once(chromium, address):
    visitor = Visitor(chromium, 1280)
    page, asked = visitor.page, []
    visitor.open(address)
    sees(page.locator("#verdict").get_by_text("The model knows"))
    page.on("request", lambda request: asked.append(request.url) if "queue/join" in request.url else None)
    rests(page, asked)  # after what the page asks for by itself while it opens
    page.locator("#keep input").focus()
    for _ in range(6):
        page.keyboard.press("Backspace")
    playwright.expect(page.locator("#keep .token")).to_have_count(6)
    rests(page, asked)
    page.reload()
    sees(page.locator("#verdict").get_by_text("The model knows"))
    playwright.expect(page.locator("#keep .token")).to_have_count(6)  # as it was left
    page.close()


@pytest.mark.skipif(os.environ.get("KPOP_EMOJI_DIR") is not None, reason="that model has no word list")
def test_a_word_never_seen_is_answered_with_three(chromium, address):
    visitor = Visitor(chromium, 1280)
    visitor.open(address)
    sees(visitor.page.locator("#verdict").get_by_text("The model knows"))
    field = visitor.page.locator("#forget input")
    field.fill("zzgl")
    field.press("Enter")
    sees(visitor.page.locator("#verdict").get_by_text(re.compile("does not know the word 'zzgl'")))
    playwright.expect(visitor.page.locator("#keep .token")).to_have_count(12)
    visitor.page.locator("#verdict .instead").first.click()
    sees(visitor.page.locator("#verdict").get_by_text("The model knows"))
    # Two words to forget now, and nobody has touched what to keep: it is all others.
    playwright.expect(visitor.page.locator("#keep .token").nth(30)).to_be_attached()
    visitor.page.locator("#keep .token-remove").first.click()
    visitor.page.locator("#forget .token-remove").first.click()
    playwright.expect(visitor.page.locator("#forget .token")).to_have_count(1)
    visitor.page.wait_for_timeout(3000)
    playwright.expect(visitor.page.locator("#keep .token").nth(30)).to_be_attached()  # touched: it stays
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

    page.locator("#prompt input, #prompt textarea").fill("a knife")  # sensitive, and not what the run forgets
    page.locator("#draw").click()
    shown = page.get_by_role("img", name=re.compile("a knife, (original|sanitized|recovered), seed 2"))
    playwright.expect(shown).to_have_count(3, timeout=STEP_LIMIT)
    filters = "every => every.map(one => getComputedStyle(one).filter)"
    assert shown.evaluate_all(filters) == ["blur(14px)"] * 3
    page.locator("#compare-grid .pic-open").nth(1).focus()
    page.keyboard.press("Enter")
    assert shown.evaluate_all(filters) == ["blur(14px)", "none", "blur(14px)"]
    playwright.expect(page.locator("dialog#viewer")).to_be_hidden()
    assert (visitor.left, visitor.errors) == ([], [])
    page.close()


def test_what_is_shown_is_what_was_asked_last(chromium, address, folder):
    shutil.copytree(EXAMPLE, folder / "runs" / "20260101-110000-church-cd34")
    visitor = Visitor(chromium, 1280)
    page = visitor.page
    page.goto(f"{address}?run=example-run&step=3")
    playwright.expect(page.locator("#compare-grid .sheet-row img")).to_have_count(12, timeout=STEP_LIMIT)
    prompt = page.locator("#prompt input, #prompt textarea")
    page.locator("#seeds input, #seeds textarea").fill("3")
    for asked in ("a castle", "a dog"):  # the second while the first is drawn
        prompt.fill(asked)
        page.locator("#draw").click()
    page.get_by_text("Slide between two").click()
    seeds = page.locator("#slider-seed label")
    playwright.expect(seeds).to_have_text(["3"], timeout=STEP_LIMIT)
    sees(page.locator("#slider img").first)  # in the view that was chosen while they were drawn
    page.get_by_text("All pictures").click()
    drawn = page.locator('#compare-grid img[alt^="a dog, sanitized, seed 3"]')
    playwright.expect(drawn).to_have_count(1, timeout=STEP_LIMIT)
    prompt.fill("a house")
    page.locator("#draw").click()
    page.locator("#run-picker input").click()
    page.get_by_role("option").filter(has_text="church").first.click()
    playwright.expect(prompt).to_have_value("a church")
    churches = page.locator('#compare-grid img[alt^="a church"]')
    playwright.expect(churches).to_have_count(12)
    page.wait_for_timeout(12_000)  # the houses are drawn by now, of the run before
    assert page.locator('#compare-grid img[alt^="a house"]').count() == 0
    assert churches.count() == 12

    # Another run is chosen before the server has heard of the press.
    late = []
    page.locator("#seeds input, #seeds textarea").fill("3")
    page.route("**/queue/join*", lambda request: late.append(request), times=1)
    with page.expect_request("**/queue/join*"):
        page.locator("#draw").click()
    page.locator("#run-picker input").click()
    page.get_by_role("option").filter(has_text="example").first.click()
    page.wait_for_timeout(2000)
    for request in late:
        request.continue_()
    playwright.expect(churches).to_have_count(12)
    page.wait_for_timeout(5000)
    playwright.expect(churches).to_have_count(12)  # not one row, of seed 3
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
    sees(page.locator("#evaluate-about").get_by_text("6 pictures"))
    seeds = page.locator("#evaluate-seeds input, #evaluate-seeds textarea")
    playwright.expect(seeds).to_have_value("500")
    seeds.fill("nine")
    sees(page.locator("#evaluate-about").get_by_text("Seeds are written as 0-3 or 1,5,9, not 'nine'."))
    seeds.fill("9")
    sees(page.locator("#evaluate-about").get_by_text("6 pictures"))
    visitor.reach(page.locator("#evaluate-start"))
    page.keyboard.press("Enter")
    sees(page.locator("#evaluation-card").get_by_text("church, 1 picture each (seeds 9)"))
    assert page.locator("#evaluation-figures tbody th[scope=row]").count() == 2
    assert visitor.errors == []
    page.reload()
    sees(page.locator("#evaluation-card").get_by_role("heading", name="Evaluated"), STEP_LIMIT)
    visitor.errors.clear()  # what the reload cut off, as gradio's client says it
    playwright.expect(page.locator("#evaluation-figures .whiskers i")).to_have_count(6)
    sees(page.locator("#evaluation-figures").get_by_text("Nothing asked for"))
    assert visitor.fits() and visitor.findings() == []
    with page.expect_download() as saved:
        page.locator("#evaluation-save").click()
    saved.value.save_as(tmp_path / "report.zip")
    names = {name.rpartition("/")[2] for name in zipfile.ZipFile(tmp_path / "report.zip").namelist()}
    assert {"report.md", "metrics.json", "predictions.csv", "detection.png"} <= names
    page.get_by_text("The paper’s tables").click()
    sees(page.locator("#paper-shown table"))
    visitor.picture("5-evaluate")
    page.locator("#evaluation-delete").click()
    page.locator("#evaluation-delete-yes").click()
    sees(page.locator("#evaluations").get_by_text("No evaluation of this run yet"))
    playwright.expect(page.locator("#evaluation-card")).to_be_hidden()
    assert (visitor.left, visitor.errors) == ([], [])
    page.close()
