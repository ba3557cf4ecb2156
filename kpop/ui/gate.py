"""What every HTTP request passes before gradio sees it: origin, size, login, visitor.

Gradio answers pages of any other site where the app is not on loopback, leaves some addresses open beside a
login, and does not slow down who guesses passwords; so this stands in front, and what it does not know is
refused.
"""

from __future__ import annotations

from http.cookies import SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from ..exposure import Exposure, loopback
from ..throttle import Throttle
from ..visitors import HOST, LOCAL, cookie_name, new_visitor, visitor_of
from .well_formed import WellFormed

MOST_BYTES = 4_000_000  # of one request; a saved picture has at most 1 MB
READS = ("GET", "HEAD", "OPTIONS")
# What a browser needs for the login page, and what the app asks itself at its start.
BEFORE_LOGIN = ("/", "/login", "/logout", "/theme.css", "/favicon.ico", "/manifest.json", "/robots.txt")
BEFORE_LOGIN += ("/gradio_api/theme.css", "/gradio_api/startup-events", "/gradio_api/app_id")
FILES_BEFORE_LOGIN = ("/assets/", "/static/", "/svelte/")
MOST_NAME = 100  # characters of a user name that are looked at
YEAR = 365 * 24 * 3600


class Gate:
    """ASGI middleware. Leaves in request.state.visitor who asks: LOCAL, HOST or a visitor's id."""

    def __init__(self, app, exposure: Exposure, secret: bytes, throttle: Throttle | None = None):
        self.app, self.exposure, self.secret = app, exposure, secret
        self.throttle = throttle or Throttle()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await _hang_up(scope, receive, send)
            return
        request = Request(scope, receive)
        address = request.client.host if request.client else ""
        guess = request.method == "POST" and request.url.path.rstrip("/") == "/login"
        refused, name = self._refused(request), ""
        if guess and refused is None:
            name, receive = await _user_name(request)
            refused = self._too_many(address, name)
        if refused is not None:
            await refused(scope, receive, send)
            return
        cookie = self._visitor(request)

        async def answer(message) -> None:
            if message["type"] == "http.response.start":
                if guess and message["status"] == 200:
                    self.throttle.passed(address, name)
                headers = MutableHeaders(scope=message)
                headers["X-Content-Type-Options"] = "nosniff"
                headers["Referrer-Policy"] = "same-origin"
                if not self.exposure.space:  # a Space is shown inside a page of the hub
                    headers["Content-Security-Policy"] = "frame-ancestors 'self'"
                if cookie:
                    headers.append("Set-Cookie", cookie)
            await send(message)

        await self.app(scope, receive, answer)

    def _refused(self, request: Request) -> Response | None:
        """The answer to a request that goes no further."""
        host = request.headers.get("host", "")
        if not self.exposure.shared and not loopback(_name(host)):
            # A foreign name that leads here: a page of another site may be behind it (DNS rebinding).
            return _no(403, "Without a login this app is for 127.0.0.1 and localhost only. Set KPOP_AUTH.")
        if not _same_site(request, host):
            return _no(403, "This request came from a page of another site.")
        if request.method not in READS:
            length = request.headers.get("content-length", "")
            if not length.isdecimal():
                return _no(411, "Say how long the request is (Content-Length).")
            if int(length) > MOST_BYTES:
                return _no(413, f"A request may have at most {MOST_BYTES // 1_000_000} MB.")
        if self.exposure.login and not _before_login(request.url.path) and _user(request) is None:
            return _no(401, "Log in first.")
        return None

    def _too_many(self, address: str, name: str) -> Response | None:
        wait = self.throttle.begin(address, name)
        if not wait:
            return None
        seconds = max(1, round(wait))
        answer = _no(429, f"Too many wrong passwords. Try again in {seconds} s.")
        answer.headers["Retry-After"] = str(seconds)
        return answer

    def _visitor(self, request: Request) -> str | None:
        """Note who asks; the Set-Cookie line for a visitor who has none."""
        if not self.exposure.shared:
            request.state.visitor = LOCAL
            return None
        name, line = cookie_name(self.secret), None
        visitor = visitor_of(self.secret, request.cookies.get(name))
        if visitor is None:
            visitor, value = new_visitor(self.secret)
            line = self._cookie(name, value)
        second = self.exposure.facilitator
        request.state.visitor = HOST if second and _user(request) == second.user else visitor
        return line

    def _cookie(self, name: str, value: str) -> str:
        cookie = SimpleCookie({name: value})
        cookie[name] |= {"path": "/", "max-age": YEAR, "httponly": True, "samesite": "Lax"}
        if not self.exposure.space:
            return cookie[name].OutputString()
        # A Space is a frame in a page of the hub: other cookies are not kept there.
        cookie[name] |= {"samesite": "None", "secure": True}
        return f"{cookie[name].OutputString()}; Partitioned"


def gate(exposure: Exposure, secret: bytes) -> list[Middleware]:
    """The middleware of gradio's app, for `app_kwargs`."""
    return [Middleware(Gate, exposure=exposure, secret=secret), Middleware(WellFormed)]


async def _hang_up(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse what is no HTTP: the app has no websocket."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})


async def _user_name(request: Request) -> tuple[str, Receive]:
    """The name that a login is tried for ("" where there is none), and the request's body to read again."""
    body = await request.body()
    told = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def again() -> Message:
        return next(told, None) or await request.receive()

    async def copy() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        name = (await Request(request.scope, copy).form()).get("username", "")
    except (HTTPException, MultiPartException, ValueError):
        name = ""  # a malformed form, which is refused later
    return (name.strip()[:MOST_NAME] if isinstance(name, str) else ""), again


def _no(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"detail": sentence}, status_code=status)


def _user(request: Request) -> str | None:
    """The name somebody logged in with, as gradio keeps it."""
    app = request.app
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return next((app.tokens[t] for n in names if (t := request.cookies.get(n)) in app.tokens), None)


def _before_login(path: str) -> bool:
    return path in BEFORE_LOGIN or path.rstrip("/") in BEFORE_LOGIN or path.startswith(FILES_BEFORE_LOGIN)


def _same_site(request: Request, host: str) -> bool:
    """Whether a request can come from the app's own page, or from a program, which names no origin."""
    origin = request.headers.get("origin")
    if origin is None:
        site = request.headers.get("sec-fetch-site", "none")
        return request.method in READS or site in ("none", "same-origin")
    forwarded = request.headers.get("x-forwarded-host", "")
    return urlsplit(origin).netloc in (host, *(part.strip() for part in forwarded.split(",") if part.strip()))


def _name(host: str) -> str:
    """The host without its port: "[::1]:7860" and "localhost:7860"."""
    return urlsplit(f"//{host}").hostname or ""
