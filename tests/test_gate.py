"""What stands before gradio: logins, other sites, guesses at passwords, and what is no HTTP."""

import asyncio
from dataclasses import replace

import httpx
import pytest
from shared_app import ROOM_EXPOSURE, ROOM_LOGIN

from kpop.exposure import TUNNEL
from kpop.ui.gate import Gate

OPEN = {"/", "/login", "/logout", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt"}
OPEN |= {"/gradio_api/theme.css", "/gradio_api/startup-events", "/gradio_api/app_id"}
FILES = {"/assets/{path:path}", "/static/{path:path}", "/svelte/{path:path}"}


def routes(app):
    """(method, path) of everything the server answers."""
    found, stack = [], list(app.routes)
    while stack:
        route = stack.pop()
        stack += getattr(getattr(route, "original_router", None), "routes", [])  # gradio's own, included
        found += [(method, route.path) for method in getattr(route, "methods", None) or ()]
    return found


def filled(path):
    """A route's path with something in its fields."""
    return path.replace("{path:path}", "x").replace("{", "").replace("}", "").replace(":path", "")


def test_nothing_but_the_login_page_is_answered_without_a_login(address, served):
    stranger = httpx.Client(base_url=address)
    known = routes(served.app)
    assert len(known) > 40 and ("POST", "/gradio_api/queue/join") in known
    answered = set()
    for method, path in known:
        body = {"json": {}} if method == "POST" else {}
        if stranger.request(method, filled(path), **body).status_code != 401:
            answered.add(path.rstrip("/") or "/")
    assert answered <= OPEN | FILES
    for path in ("/config", "/gradio_api/info", "/gradio_api/file=/etc/passwd", "/monitoring/summary"):
        assert stranger.get(path).status_code == 401
    page = stranger.get("/").text
    assert '"auth_required":true' in page.replace(" ", "") and "run-picker" not in page


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_sites_cannot_act_for_a_visitor(ann, served, headers):
    answer = ann.http.post("/gradio_api/call/list_runs", json={"data": []}, headers=headers)
    assert (answer.status_code, answer.json()["detail"]) == (
        403,
        "This request came from a page of another site.",
    )
    for method, path in routes(served.app):  # all that changes anything, known to gradio or to us
        if method not in ("GET", "HEAD"):
            answer = ann.http.request(method, filled(path), json={}, headers=headers)
            assert answer.status_code == 403, (method, path)
    assert ann.get("/config", headers=headers).status_code == (403 if "Origin" in headers else 200)
    own = {"Origin": ann.address, "Sec-Fetch-Site": "same-origin"}
    assert ann.http.post("/gradio_api/call/list_runs", json={"data": []}, headers=own).status_code == 200
    proxied = {"Origin": "https://studio.example", "X-Forwarded-Host": "studio.example"}
    assert ann.get("/config", headers=proxied).status_code == 200


@pytest.mark.parametrize("public", [True, False])
def test_guessing_the_password_is_slowed_down(open_app, public):
    """By address; which that is, only a proxy says that the way of starting the app declares: a tunnel."""
    proxies = TUNNEL if public else "none"
    address = open_app(replace(ROOM_EXPOSURE, public=public, proxies=proxies))

    def tries(password, sender, user=ROOM_LOGIN.user):
        data = {"username": user, "password": password}
        return httpx.post(f"{address}/login", data=data, headers={"X-Forwarded-For": sender})

    assert {tries(f"guess {i}", "198.51.100.7").status_code for i in range(10)} == {400}
    refused = tries(ROOM_LOGIN.password, "198.51.100.7")
    assert refused.status_code == 429 and 0 < int(refused.headers["retry-after"]) <= 60
    assert "Try again in" in refused.json()["detail"]
    assert tries(ROOM_LOGIN.password, "198.51.100.8").status_code == (200 if public else 429)
    if public:
        guesses = [tries("x", f"198.51.100.{100 + i // 9}", "boss").status_code for i in range(102)]
        assert (guesses[:100], guesses[101]) == ([400] * 100, 429)  # of many addresses at one name
        assert tries(ROOM_LOGIN.password, "198.51.100.8").status_code == 200


def test_nothing_but_http_comes_in():
    said, seen = [], []

    async def app(scope, receive, send):
        seen.append(scope["type"])

    async def receive():
        return {"type": "websocket.connect"}

    async def send(message):
        said.append(message)

    front = Gate(app, ROOM_EXPOSURE, b"secret")
    for kind in ("lifespan", "websocket", "other"):
        asyncio.run(front({"type": kind, "path": "/"}, receive, send))
    assert seen == ["lifespan"] and said == [{"type": "websocket.close", "code": 1008}]
