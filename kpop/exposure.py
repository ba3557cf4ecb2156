"""How far the app is open: who may come in, who is told apart, what a visitor may do. One function.

who reaches it       login                                read-only                   limits
this machine         none, or a given one                 --read-only                 none; ROOM with a login
--host or --share    given, KPOP_AUTH, asked or made up   --read-only                 ROOM
a Space (SPACE_ID)   none, or KPOP_AUTH                   unless KPOP_SPACE_TRAIN=1   SPACE
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .errors import InputError
from .limits import ROOM, SPACE, UNLIMITED, Limits

USER, FACILITATOR = "kpop", "facilitator"  # names of logins that are made up
NOBODY = "none"  # no address
TUNNEL = "127.0.0.1,::1"  # where gradio's tunnel comes from
SPACE_PROXIES = f"{TUNNEL},10.0.0.0/8,172.16.0.0/12,192.168.0.0/16"  # the hub's own network
ON_COMMAND_LINE = (
    "--auth with a password in it shows in this machine's list of processes. "
    "Use KPOP_AUTH=USER:PASS, or --auth USER and type it in."
)


@dataclass(frozen=True)
class Login:
    """A name and a password of the page. made_up: by us, so that it has to be told."""

    user: str
    password: str = field(repr=False)
    made_up: bool = False


@dataclass(frozen=True)
class Exposure:
    """How an app is open. The default is the app of one person on one machine.

    login: what everybody types; facilitator: the second login, which sees and may end every run.
    shared: visitors are told apart. public: a tunnel is opened. space: it runs in a Hugging Face Space.
    proxies: addresses whose word on who asks (X-Forwarded-For) is believed, with commas between.
    why: one sentence; warnings: what the person who starts it should know.
    """

    login: Login | None = None
    facilitator: Login | None = None
    shared: bool = False
    read_only: bool = False
    public: bool = False
    space: bool = False
    limits: Limits = UNLIMITED
    proxies: str = NOBODY
    why: str = "Only this machine reaches it, so it asks for no login."
    warnings: tuple[str, ...] = ()


def exposure_of(
    host: str,
    share: bool,
    auth: str | None,
    read_only: bool,
    environment: Mapping[str, str],
    ask: Callable[[str], str] | None = None,
) -> Exposure:
    """The table above. ask: types a password in after a question; None where nobody can be asked.

    Raises InputError when a login cannot be used.
    """
    space, proxies = bool(environment.get("SPACE_ID")), environment.get("KPOP_PROXY")
    login, warnings = _given(auth, environment.get("KPOP_AUTH"), ask)
    second = environment.get("KPOP_FACILITATOR")
    if second and login is None and space:
        warnings += ("KPOP_FACILITATOR is left out: without KPOP_AUTH this Space asks nobody for a login.",)
    if space:
        closed = read_only or environment.get("KPOP_SPACE_TRAIN") != "1"
        does = "shows runs and starts none" if closed else "lets visitors train within limits"
        return Exposure(
            login=login,
            facilitator=_facilitator(second, login),
            shared=True,
            read_only=closed,
            space=True,
            limits=SPACE,
            proxies=proxies or SPACE_PROXIES,
            why=f"It runs in a Space and {does}.",
            warnings=warnings,
        )
    reached = share or not loopback(host)
    if reached and login is None:
        login = Login(USER, secrets.token_urlsafe(12), made_up=True)
    if login is None:
        return Exposure(read_only=read_only, proxies=proxies or NOBODY, warnings=warnings)
    return Exposure(
        login=login,
        facilitator=_facilitator(second, login),
        shared=True,
        read_only=read_only,
        public=share,
        limits=ROOM,
        proxies=proxies or (TUNNEL if share else NOBODY),
        why="Others reach it, so it asks for a login." if reached else "A login was given.",
        warnings=warnings,
    )


def loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _given(
    auth: str | None, variable: str | None, ask: Callable[[str], str] | None
) -> tuple[Login | None, tuple[str, ...]]:
    """The login of --auth, else of KPOP_AUTH, and what to warn of."""
    if auth is None:
        return (_login("KPOP_AUTH", variable) if variable else None), ()
    if ":" in auth:
        return _login("--auth", auth), (ON_COMMAND_LINE,)
    user = USER if auth == "ask" else auth
    if not user:
        raise InputError("--auth needs a name: --auth anna asks for the password.")
    if ask is None:
        raise InputError(f"Nobody can be asked for a password here. Set KPOP_AUTH={user}:PASS instead.")
    password = ask(f"Password for {user}: ")
    if not password:
        raise InputError("No password was typed. Start again, or leave --auth out: one is made up.")
    return Login(user, password), ()


def _login(name: str, text: str) -> Login:
    user, _, password = text.partition(":")
    if not (user and password) or user != user.strip():
        raise InputError(f"{name} takes a name and a password with a colon between: anna:a-long-password.")
    return Login(user, password)


def _facilitator(text: str | None, login: Login | None) -> Login | None:
    """The second login: as given, or made up beside any first one."""
    if login is None:
        return None
    if not text:
        user = FACILITATOR if login.user != FACILITATOR else "host"
        return Login(user, secrets.token_urlsafe(12), made_up=True)
    second = _login("KPOP_FACILITATOR", text)
    if second.user == login.user:
        raise InputError("KPOP_FACILITATOR needs another name than the login that everybody types.")
    return second
