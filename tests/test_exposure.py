"""How far the app is open: the table, logins, visitors' ids, throttling, limits, the public link."""

import io
import os
import re
import subprocess
import sys
from urllib.parse import unquote

import numpy as np
import pytest

from benchmarks.app_process import REPO, app_command, free_port
from kpop import EraseConfig, InputError, RunError
from kpop.address import local_address, others_address, qr_image, qr_text
from kpop.exposure import ON_COMMAND_LINE, Exposure, Login, exposure_of
from kpop.limits import ROOM, SPACE, UNLIMITED, Limits
from kpop.throttle import Throttle
from kpop.visitors import SECRET_FILE, cookie_name, new_visitor, signing_secret, visitor_of

GIVEN = {"KPOP_AUTH": "anna:a-long-password"}
HERE, ALL = "127.0.0.1", "0.0.0.0"
SPACE_ID = {"SPACE_ID": "me/kpop"}


@pytest.mark.parametrize(
    ("host", "share", "read_only", "environment", "login", "shared", "shows_only", "limits"),
    [
        (HERE, False, False, {}, None, False, False, UNLIMITED),
        ("::1", False, False, {}, None, False, False, UNLIMITED),
        ("localhost", False, False, {"KPOP_FACILITATOR": "boss:x"}, None, False, False, UNLIMITED),
        (HERE, False, True, {}, None, False, True, UNLIMITED),
        (HERE, False, False, GIVEN, "anna", True, False, ROOM),
        (ALL, False, False, {}, "kpop", True, False, ROOM),
        (ALL, False, False, GIVEN, "anna", True, False, ROOM),
        (ALL, False, True, {}, "kpop", True, True, ROOM),
        ("studio.lan", False, False, {}, "kpop", True, False, ROOM),
        (HERE, True, False, {}, "kpop", True, False, ROOM),
        (HERE, True, True, GIVEN, "anna", True, True, ROOM),
        (ALL, False, False, SPACE_ID, None, True, True, SPACE),
        (ALL, True, False, SPACE_ID, None, True, True, SPACE),
        (ALL, False, False, SPACE_ID | {"KPOP_SPACE_TRAIN": "1"}, None, True, False, SPACE),
        (ALL, False, False, SPACE_ID | {"KPOP_SPACE_TRAIN": "yes"}, None, True, True, SPACE),
        (ALL, False, True, SPACE_ID | {"KPOP_SPACE_TRAIN": "1"}, None, True, True, SPACE),
        (ALL, False, False, SPACE_ID | GIVEN, "anna", True, True, SPACE),
    ],
)
def test_the_table(host, share, read_only, environment, login, shared, shows_only, limits):
    found = exposure_of(host, share, None, read_only, environment)
    assert (found.login.user if found.login else None) == login
    assert (found.shared, found.read_only, found.limits) == (shared, shows_only, limits)
    assert bool(found.facilitator) == bool(found.login)  # whoever asks for a login keeps a second one
    assert found.public == (share and not environment.get("SPACE_ID"))


def test_logins_are_given_asked_for_or_made_up():
    made = exposure_of(ALL, False, None, False, {})
    passwords = {exposure_of(ALL, False, None, False, {}).login.password for _ in range(3)}
    assert made.login.made_up and len(made.login.password) >= 16 and len(passwords) == 3
    assert made.facilitator.user == "facilitator" and made.facilitator.password != made.login.password
    assert made.login.password not in repr(made)
    given = exposure_of(HERE, True, "anna:secret:word", False, GIVEN | {"KPOP_FACILITATOR": "boss:pass"})
    assert given.login == Login("anna", "secret:word") and given.facilitator == Login("boss", "pass")
    assert given.warnings == (ON_COMMAND_LINE,)
    asked = []
    typed = exposure_of(HERE, True, "bert", False, {}, lambda question: asked.append(question) or "typed-in")
    assert typed.login == Login("bert", "typed-in") and not typed.warnings
    assert asked == ["Password for bert: "]
    assert exposure_of(HERE, True, "ask", False, {}, lambda _: "typed").login == Login("kpop", "typed")


@pytest.mark.parametrize(
    ("auth", "environment", "words"),
    [
        ("anna", {}, "Set KPOP_AUTH=anna:PASS"),
        ("ask", {}, "Set KPOP_AUTH=kpop:PASS"),
        ("anna:", {}, "--auth takes a name and a password with a colon between"),
        (":word", {}, "--auth takes a name and a password"),
        ("", {}, "--auth needs a name"),
        (None, {"KPOP_AUTH": "anna"}, "KPOP_AUTH takes a name and a password"),
        (None, GIVEN | {"KPOP_FACILITATOR": "anna:other"}, "another name"),
        (None, GIVEN | {"KPOP_FACILITATOR": "boss"}, "KPOP_FACILITATOR takes a name"),
    ],
)
def test_logins_that_cannot_be_used_are_refused_in_words(auth, environment, words):
    with pytest.raises(InputError, match=words):
        exposure_of(ALL, False, auth, False, environment)


def test_visitors_are_signed_ids_that_outlive_a_restart(tmp_path):
    secret = signing_secret(tmp_path)
    assert signing_secret(tmp_path) == secret and len(secret) == 32
    assert (tmp_path / SECRET_FILE).stat().st_mode & 0o777 == 0o600
    (visitor, cookie), (other, _) = new_visitor(secret), new_visitor(secret)
    assert visitor_of(secret, cookie) == visitor != other
    forged = [visitor, f"{visitor}.", f"{other}.{cookie.partition('.')[2]}", "facilitator", "local", "", None]
    forged += [new_visitor(b"another secret")[1], cookie + "0", "visitor-é.é"]
    assert [visitor_of(secret, text) for text in forged] == [None] * len(forged)
    assert cookie_name(secret) != cookie_name(b"of another runs folder")


def test_guessing_is_slowed_down_and_nobody_is_locked_out_for_long():
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    assert [throttle.begin("10.0.0.1") for _ in range(10)] == [0.0] * 10
    assert throttle.begin("10.0.0.1") == 60.0
    assert throttle.begin("10.0.0.2") == 0.0
    now[0] = 59.0
    assert throttle.begin("10.0.0.1") == 1.0
    now[0] = 60.0
    assert throttle.begin("10.0.0.1") == 0.0  # waiting did not count
    for _ in range(50):
        assert throttle.begin("10.0.0.3") == 0.0
        throttle.passed("10.0.0.3")
    # One right password buys no guesses at the other login.
    for _ in range(9):
        throttle.begin("10.0.0.4")
    throttle.begin("10.0.0.4")
    throttle.passed("10.0.0.4")
    assert (throttle.begin("10.0.0.4"), throttle.begin("10.0.0.4") > 0) == (0.0, True)
    for i in range(10):
        throttle.begin(f"2001:db8::{i}")
    assert throttle.begin("2001:db8::ffff:1") > 0 == throttle.begin("2001:db8:1::1")


def test_guesses_from_many_addresses_at_one_name_are_slowed_down():
    now = [0.0]
    throttle = Throttle(lambda: now[0])
    throttle.begin("10.9.9.9", "ann")
    throttle.passed("10.9.9.9", "ann")  # where she logged in before
    assert not any(throttle.begin(f"10.0.0.{i}", "ann") for i in range(100))
    assert throttle.begin("10.1.0.1", "ann") == 30.0
    assert throttle.begin("10.1.0.1", "boss") == 0.0
    assert throttle.begin("10.9.9.9", "ann") == 0.0 and throttle.begin("10.9.9.9", "boss") == 0.0
    now[0] = 30.0
    assert (throttle.begin("10.1.0.1", "ann"), throttle.begin("10.1.0.2", "ann")) == (0.0, 30.0)
    now[0] = 3631.0
    assert throttle.begin("10.1.0.3", "ann") == 0.0


def test_only_a_declared_proxy_says_who_asks():
    def believed(share=False, **environment):
        return exposure_of("0.0.0.0", share, None, False, environment).proxies

    assert believed() == "none"
    assert believed(share=True) == "127.0.0.1,::1"
    assert "10.0.0.0/8" in believed(SPACE_ID="anna/studio")
    assert believed(KPOP_PROXY="192.0.2.7") == "192.0.2.7"


def test_limits_refuse_in_a_sentence():
    def run(**changes):
        fields = {"steps": 10, "batch_size": 1, "prompt_tokens_factor": 1, "templates": ("{}",)}
        return EraseConfig(concepts=("church",), **fields | changes)

    ROOM.check_run(run())
    for words in (("cat",), ("cat", "dog"), ("cat", "dog", "saw", "horn", "bus")):
        SPACE.check_run(EraseConfig(concepts=words).resolved())  # the defaults are not too much
    for changes, words in (
        ({"steps": 2001}, "at most 2000 steps, not 2001"),
        ({"batch_size": 17}, "at most 16 rows"),
        ({"prompt_tokens_factor": 21}, "at most 20 as the size of the key"),
        ({"retain": tuple(f"word{i}" for i in range(60))}, "at most 60 words.* not 61"),
        ({"templates": tuple(f"{i} {{}}" for i in range(21))}, "at most 20 phrasings"),
    ):
        with pytest.raises(InputError, match=words):
            ROOM.check_run(run(**changes))
        UNLIMITED.check_run(run(**changes))
    limits = Limits(active=1, kept=3, prompt=5, pictures=4, sampling=50)
    limits.check_queue(0, 2)
    limits.check_queue(0, 3, new=False)
    with pytest.raises(RunError, match="1 run a visitor may wait or train"):
        limits.check_queue(1, 1)
    with pytest.raises(RunError, match="may keep 3 runs. Delete one"):
        limits.check_queue(0, 3)
    with pytest.raises(InputError, match="at most 5 characters"):
        limits.check_prompt("church")
    with pytest.raises(InputError, match="at most 4 pictures a click, not 5"):
        limits.check_pictures(5)
    with pytest.raises(InputError, match="at most 50 sampling steps, not 51"):
        limits.check_pictures(4, 51)


def test_limits_of_all_visitors_together_are_told_in_a_sentence():
    limits = Limits(active=2, queue=8, evaluations=2, judging=3, judged=100)
    limits.check_queue(0, 0, everybody=7)
    with pytest.raises(RunError, match="at most 8 runs wait or train at a time. Try again later"):
        limits.check_queue(0, 0, new=False, everybody=8)
    limits.check_evaluations(1, 2)
    with pytest.raises(RunError, match="2 evaluations a visitor may wait or work. Wait for one of yours"):
        limits.check_evaluations(2, 2)
    with pytest.raises(RunError, match="at most 3 evaluations wait or work at a time"):
        limits.check_evaluations(0, 3)
    limits.check_judged(100)
    with pytest.raises(InputError, match="at most 100 pictures, not 101. Take fewer seeds, words or prompts"):
        limits.check_judged(101)
    for own in (ROOM, SPACE):
        assert own.judged >= 24 * 10 * 3  # four objects in all six styles, as the page asks first
    assert (SPACE.queue, SPACE.judging, ROOM.judging) == (8, 3, 6)


def test_what_the_presets_and_both_buttons_ask_for_is_within_the_limits():
    from kpop.presets import list_presets

    for limits in (ROOM, SPACE):
        limits.check_run(EraseConfig(concepts=("church",)).resolved())
        for preset in list_presets():
            if preset.model == "emoji":
                limits.check_run(EraseConfig(model="emoji", preset=preset.name).resolved())
    ROOM.check_run(EraseConfig(concepts=("church",), preset="paper").resolved())


def test_the_address_for_others():
    room, space = Exposure(shared=True), Exposure(shared=True, space=True)
    assert others_address(Exposure(), HERE, 7860, None, {}) is None
    assert others_address(room, HERE, 7860, None, {}) is None  # a login on loopback is still loopback
    assert others_address(room, HERE, 7860, "https://x.gradio.live", {}) == "https://x.gradio.live"
    assert others_address(room, "10.0.0.7", 80, None, {}) == "http://10.0.0.7:80"
    assert re.fullmatch(r"http://(?!127\.|0\.0)\S+:7860", others_address(room, ALL, 7860, None, {}))
    host = {"SPACE_HOST": "me-kpop.hf.space"}
    assert others_address(space, ALL, 7860, None, host) == "https://me-kpop.hf.space"
    assert (local_address(ALL, 1), local_address("::1", 2)) == ("http://127.0.0.1:1", "http://[::1]:2")


def test_the_qr_code_is_the_address():
    import segno

    address, out = "http://10.0.0.7:7860", io.StringIO()
    segno.make(address, error="m").terminal(out, compact=True)
    assert qr_text(address) == out.getvalue() != qr_text(address + "1")
    cv2, resvg = pytest.importorskip("cv2"), pytest.importorskip("resvg_py")
    svg = unquote(qr_image(address).partition(",")[2])
    drawn = np.frombuffer(bytes(resvg.svg_to_bytes(svg_string=svg)), np.uint8)
    assert cv2.QRCodeDetector().detectAndDecode(cv2.imdecode(drawn, cv2.IMREAD_COLOR))[0] == address


class Launched:
    """What open_tunnel and tell need of a launched app."""

    server_name, server_port, share_token, share_url = "127.0.0.1", 7860, "token", None


@pytest.fixture
def room():
    return exposure_of(HERE, True, None, False, {})


def test_share_prints_link_logins_and_code(monkeypatch, capsys, room):
    from gradio import networking

    from app import tell

    asked = []
    monkeypatch.setattr(networking, "setup_tunnel", lambda **a: asked.append(a) or "http://abc.gradio.live")
    tell(Launched(), room, "http://127.0.0.1:7860")
    out = capsys.readouterr().out
    assert (asked[0]["local_host"], asked[0]["local_port"]) == ("127.0.0.1", 7860)
    assert "Others reach it at https://abc.gradio.live" in out
    assert f"kpop  password: {room.login.password}" in out
    assert f"facilitator  password: {room.facilitator.password}" in out
    assert qr_text("https://abc.gradio.live") in out


def test_a_tunnel_that_cannot_start_is_one_sentence(monkeypatch, capsys, room):
    from gradio import networking

    from app import tell

    def broken(**_):
        print("frpc: a log of many lines", file=sys.stderr)
        raise ValueError("no way out")

    monkeypatch.setattr(networking, "setup_tunnel", broken)
    tell(Launched(), room, "http://127.0.0.1:7860")
    said = capsys.readouterr()
    assert said.err == "" and said.out.count("could not be opened") == 1
    assert "The app goes on at http://127.0.0.1:7860." in said.out and "reach it at" not in said.out


def test_an_address_that_loops_back_needs_no_login_and_passwords_leave_the_environment(monkeypatch):
    from app import exposure_from, read_flags

    monkeypatch.setenv("KPOP_AUTH", "anna:a-long-password")
    monkeypatch.setenv("KPOP_FACILITATOR", "boss:another-password")
    found = exposure_from(read_flags(["--host", "0.0.0.0"]))
    assert (found.login.user, found.facilitator.user) == ("anna", "boss")
    assert "KPOP_AUTH" not in os.environ and "KPOP_FACILITATOR" not in os.environ
    assert exposure_from(read_flags([])).login is None


def test_a_login_that_needs_a_terminal_says_so(tmp_path):
    done = subprocess.run(
        app_command("--auth", "anna", "--runs", str(tmp_path), "--port", str(free_port())),
        capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL, cwd=REPO,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    said = "app.py: Nobody can be asked for a password here. Set KPOP_AUTH=anna:PASS instead.\n"
    assert done.stderr == said
