"""Malformed requests to a running server: each is answered in words, none by a 500, and it lives on."""

from __future__ import annotations

import json
import re
import time
from collections import Counter

import httpx
import hypothesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from faults.figures import Figures
from faults.fuzz import FIELDS, values
from faults.world import TRIES, World, uninterrupted
from kpop import jobs
from kpop.run_status import ENDED
from kpop.ui.boundary import UNEXPECTED

LOGGED = re.compile(r"^handler \S+ failed|Exception in ASGI application", re.MULTILINE)  # faults of ours
TAKEN = ("results", 200)  # such a request was none too malformed, and is not counted
LIMIT = 60  # seconds until a request counts as hanging; a drawing waits for a training step
ENDPOINTS = {
    "start_run": FIELDS,
    "run_status": ["run"],
    "stop_run": ["run"],
    "resume_run": ["run"],
    "list_runs": [],
    "compare": ["run", "prompt", "seeds", "key"],
    "attribute": ["run", "prompt", "seed", "word", "layer", "timestep_band", "key"],
}
POSTED = (
    "queue/join", "call/compare", "call/v2/attribute", "run/predict", "api", "cancel", "reset",
    "component_server", "upload", "run/start_run", "run/run_status", "call/nothing", "call/run_status",
    "call/v2/nothing", "heartbeat/x",
)  # fmt: skip
JOINED = ("data", "fn_index", "session_hash", "event_data", "trigger_id")
READ = (
    "", "config", "gradio_api/info", "gradio_api/queue/data", "gradio_api/call/compare/x",
    "gradio_api/file=/etc/passwd", "gradio_api/upload_progress",
)  # fmt: skip
PART = b'--x\r\nContent-Disposition: form-data; name="files"; filename="../a"\r\n'
jsons = values.filter(lambda value: _is_json(value))
texts = st.text(max_size=30) | st.sampled_from(["..%2f..", "/etc/passwd", "%00", "a" * 3000, "<script>"])


def _is_json(value: object) -> bool:
    try:
        json.dumps(value, allow_nan=False).encode()
        return True
    except ValueError:
        return False


def fuzz_http(world: World, count: int) -> list[Figures]:
    """`count` requests to a server over one finished run."""
    figures = Figures("malformed HTTP request", asked=count)
    statuses = Counter()
    with world:
        world.start()
        run = uninterrupted(world)
        address = world.apps[0].address

        @hypothesis.seed(world.draw.getrandbits(32))
        @settings(
            max_examples=TRIES * count, database=None, deadline=None, phases=[hypothesis.Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @hypothesis.given(_requests(run.id, _events(address)))
        def each(case):
            if figures.struck >= count or time.monotonic() > world.over_at:
                return
            figures.times += 1
            try:
                status = _send(address, case, figures)
                statuses[status] += 1
                figures.struck += status not in TAKEN
            except httpx.TimeoutException:
                figures.struck += 1
                figures.stuck += 1
                figures.notes.append(f"no answer in {LIMIT} s: {case!r:.200}")
            except httpx.HTTPError as error:  # the connection was dropped: does the server still answer?
                figures.struck += 1
                statuses[type(error).__name__] += 1
                world.check(figures)
            _end_what_was_started(world, run.id)

        each()
        world.check(figures)
        good = world.ask("compare", run=run.id, prompt="a church", seeds="3", key="own")
        logged = len(LOGGED.findall(world.apps[0].output.read_text(errors="replace")))
        if logged:
            figures.bare = max(figures.bare, logged)
            figures.notes.append(f"{logged} faults are in the server's log")
        world.check(figures, run)
        if "event: complete" not in good:  # what is well asked is served as ever
            figures.stuck += 1
            figures.notes.append(f"stuck: {figures.shown(good)[:300]}")
    told = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
    figures.notes.append(f"answers: {told}.")
    return [figures]


def _events(address: str) -> list[tuple[int, bool, list]]:
    """The page's own events: (number, whether queued, a strategy for each value)."""
    config = httpx.get(f"{address}config", timeout=LIMIT).json()
    kinds = {one["id"]: one["props"].get("value") for one in config["components"]}
    found = []
    for number, event in enumerate(config["dependencies"]):
        if event["backend_fn"]:
            fields = [st.one_of(jsons, st.none(), st.just(kinds[one])) for one in event["inputs"]]
            found.append((number, event["queue"], fields))
    return found


def _requests(run: str, events: list):
    """("call", endpoint, values) | ("raw", method, path, keyword arguments of httpx)."""
    ids = st.sampled_from([run, run.upper(), "", "..", f"{run}/..", "example-run"]) | texts

    @st.composite
    def calls(draw):
        name = draw(st.sampled_from(sorted(ENDPOINTS)))
        given = {"run": draw(ids | jsons)} if "run" in ENDPOINTS[name] else {}
        if ENDPOINTS[name]:
            for field in draw(st.lists(st.sampled_from(ENDPOINTS[name]), max_size=4, unique=True)):
                given[field] = draw(jsons)
        if draw(st.integers(0, 9)) == 0:
            given[draw(st.text(max_size=8))] = draw(jsons)
        if "steps" in given and given.get("concepts"):
            given["steps"] = draw(st.sampled_from([0, -1, 10**9, "ten", None, [3]]))
        return ("call", name, given)

    @st.composite
    def clicks(draw):
        number, queued, fields = draw(st.sampled_from(events))
        data = [draw(field) for field in fields][draw(st.sampled_from([0] * 9 + [1])) :]
        given = {"fn_index": number, "data": data, "session_hash": "x"}
        if draw(st.booleans()):
            given |= {"event_data": draw(jsons), "trigger_id": draw(st.integers(-1, 200))}
        path = "gradio_api/queue/join" if queued else "gradio_api/run/predict"
        return ("raw", "POST", path, {"json": given})

    bodies = st.binary(max_size=200) | jsons.map(lambda value: json.dumps(value).encode())
    plain = bodies.map(lambda body: {"content": body, "headers": {"content-type": "application/json"}})
    joins = st.fixed_dictionaries({}, optional=dict.fromkeys(JOINED, jsons)).map(lambda join: {"json": join})
    kinds = st.sampled_from(["", "; boundary=x", "; boundary=" + "y" * 300])
    parts = st.tuples(bodies, kinds).map(
        lambda both: {
            "content": PART + both[0],
            "headers": {"content-type": f"multipart/form-data{both[1]}"},
        }
    )
    asked = st.fixed_dictionaries(
        {},
        optional={"run": texts, "step": texts | st.integers(), "session_hash": texts, "upload_id": texts},
    ).map(lambda asked: {"params": asked})
    raw, api = st.just("raw"), st.sampled_from(POSTED).map(lambda path: f"gradio_api/{path}")
    posts = st.tuples(raw, st.just("POST"), api, plain | joins | parts)
    gets = st.tuples(raw, st.just("GET"), st.sampled_from(READ), asked)
    uploads = st.tuples(raw, st.just("POST"), st.just("gradio_api/upload"), parts)
    return st.one_of(calls(), calls(), clicks(), posts, gets, uploads)


def _send(address: str, case: tuple, figures: Figures) -> object:
    """What came back: a status, or how a call ended."""
    with httpx.Client(base_url=address, timeout=LIMIT) as client:
        if case[0] == "call":
            _, name, given = case
            sent = client.post(f"gradio_api/call/v2/{name}", json=given)
            figures.shown(sent.text)
            if sent.status_code != 200:
                return _judged(sent.status_code, case, figures)
            told = client.get(f"gradio_api/call/v2/{name}/{sent.json()['event_id']}").text
            figures.shown(told)
            return _ended(told, case, figures)
        _, method, path, given = case
        with client.stream(method, path, **given) as answer:
            # An event stream without an end of its own is an answer; only its beginning is read.
            if "event-stream" not in answer.headers.get("content-type", ""):
                answer.read()
                figures.shown(answer.text)
            return _judged(answer.status_code, case, figures)


def _ended(told: str, case: tuple, figures: Figures) -> str:
    """How a call's stream of events ended: a refusal has to hold a sentence, and not that we broke."""
    if "event: complete" in told:
        return "results"
    words = _words(told)
    if words is None or words.startswith(UNEXPECTED):
        figures.bare += 1
        figures.notes.append(f"no words: {told[-200:]!r} for {case!r:.300}")
        return "refused without words"
    return "refused in words"


def _words(told: str) -> str | None:
    """The sentence of an event stream that ends in an error; None where there is none."""
    kind, found, data = told.strip().rpartition("\ndata: ")
    if not found or not kind.endswith("event: error"):
        return None
    try:
        said = json.loads(data)
    except ValueError:
        return None
    said = said.get("error") if isinstance(said, dict) else said
    return said if isinstance(said, str) and " " in said.strip() else None


def _judged(status: int, case: tuple, figures: Figures) -> int:
    """A 5xx is a fault of the app, or a refusal that nobody can understand."""
    if status >= 500:
        figures.bare += 1
        figures.notes.append(f"{status}: {case!r:.300}")
    return status


def _end_what_was_started(world: World, finished: str) -> None:
    """Values drawn at random may be good ones: such a run is a valid answer, and need not be trained."""
    for run in world.every_run():
        if run.id != finished and run.status.state not in ENDED:
            jobs.stop(run)
