"""The server dies under an open page and comes back: the page says so, and the visitor keeps the run."""

import json
import re
from urllib.parse import urlsplit

from shared_browser import RUNNING, STEP_LIMIT, Visitor, playwright, sees

from benchmarks.app_process import end_trainings, start_app

LOGIN = {"KPOP_AUTH": "room:room-password"}  # so visitors are told apart, by a cookie


def log_in(page) -> None:
    page.get_by_label("username").fill("room")
    page.get_by_label("password").fill("room-password")
    page.get_by_role("button", name="Login").click()
    page.get_by_role("tab", name="1 Concepts").wait_for()


def test_a_run_and_its_visitor_outlive_the_server(chromium, tmp_path):
    app = start_app(tmp_path, **LOGIN)
    try:
        app.wait()
        visitor = Visitor(chromium, 1280)
        page = visitor.page
        page.goto(app.address)
        log_in(page)
        sees(page.locator("#verdict").get_by_text("The model knows"))
        visitor.step("2 Train")
        page.get_by_text("All settings").click()
        short = (("steps", "6"), ("sample_every", "3"), ("batch_size", "1"), ("rollout_steps", "4"))
        for name, value in short:
            page.locator(f"#set-{name} input, #set-{name} textarea").fill(value)
        page.get_by_text("All settings").click()
        page.locator("#train-default").click()
        sees(page.locator("#run-card").get_by_text(RUNNING), STEP_LIMIT)
        (path,) = (tmp_path / "runs").glob("*/status.json")
        pid = json.loads(path.read_text())["pid"]

        app.process.kill()
        app.process.wait()
        sees(page.get_by_text("Connection to the server was lost"))
        visitor.picture("restart-lost")
        app = start_app(tmp_path, port=urlsplit(app.address).port, **LOGIN)
        app.wait()
        log_in(page)  # the page loads itself anew, and the new server knows no login yet
        assert f"run={path.parent.name}" in page.url
        sees(page.locator("#run-card").get_by_text(re.compile("Getting ready|Forgetting|Forgot")))
        visitor.picture("restart-back")
        sees(page.locator("#run-card").get_by_text("Forgot"), STEP_LIMIT)
        status = json.loads(path.read_text())
        assert (status["state"], status["step"], status["pid"]) == ("done", 6, pid)
        playwright.expect(page.locator("#sample-now .now")).to_have_count(5)
        sees(page.locator("#delete-run"))  # only its visitor may
        assert visitor.left == []
        page.close()
    finally:
        app.end()
        end_trainings(tmp_path / "runs")
