"""The app as a workshop shares it, in this process, and people in front of it."""

import json
import re
import shutil
import socket
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

import kpop
from kpop.exposure import Exposure, Login
from kpop.limits import ROOM
from kpop.runs import Run

CONCEPT = "zeppelin"
ROOM_LOGIN, HOST_LOGIN = Login("room", "room-password"), Login("boss", "boss-password")
ROOM_EXPOSURE = Exposure(login=ROOM_LOGIN, facilitator=HOST_LOGIN, shared=True, limits=ROOM)


def launch(folder: Path, model: str, exposure: Exposure, **options):
    """The app over `folder`/runs, launched; close() it."""
    from kpop.ui.app import build_ui, launch_options  # gradio takes seconds, and conftest imports this file

    (folder / "runs").mkdir(parents=True, exist_ok=True)
    demo = build_ui(folder / "runs", model, "cpu", exposure)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    demo.launch(
        server_name="127.0.0.1", server_port=port, prevent_thread_lock=True,
        **launch_options(folder / "runs", exposure) | options,
    )  # fmt: skip
    return demo


def copied(run: Run, name: str, owner: str, **status) -> Run:
    """A copy of a finished run under another id, started by `owner`."""
    copy = Run(shutil.copytree(run.path, run.path.parent / name))
    copy.update_status(owner=owner, **status)
    return copy


@dataclass
class Person:
    """A browser in front of the app: keeps its cookies, sends the page's own events."""

    address: str
    login: Login | None = None
    heard: list[bytes] = field(default_factory=list)  # every answer, as it came

    def __post_init__(self):
        self.http = httpx.Client(base_url=self.address, timeout=120, event_hooks={"response": [self._hear]})
        self.get("/")
        if self.login:
            data = {"username": self.login.user, "password": self.login.password}
            assert self.http.post("/login", data=data).status_code == 200
        self.config = self.get("/config").json()

    def _hear(self, response):
        self.heard.append(str(response.headers).encode() + response.read())

    def get(self, path, **more):
        return self.http.get(path, **more)

    @property
    def visitor(self) -> str:
        """The id in the cookie."""
        return next(v.partition(".")[0] for n, v in self.http.cookies.items() if n.startswith("kpop-visitor"))

    def event(self, number: int, data: list, session: str = "session") -> tuple[bool, object]:
        """One event of the page, by its number: whether it worked, and what it gave or said."""
        body = {"fn_index": number, "data": data, "session_hash": session}
        if not self.config["dependencies"][number]["queue"]:
            answer = self.http.post("/gradio_api/run/predict", json=body)
            return answer.status_code == 200, answer.json()
        joined = self.http.post("/gradio_api/queue/join", json=body)
        if joined.status_code != 200:
            return False, joined.text
        said = self.get("/gradio_api/queue/data", params={"session_hash": session}).text
        ends = [json.loads(line[6:]) for line in said.splitlines() if line.startswith("data: ")]
        end = next(one for one in ends if one["msg"] == "process_completed")
        return end["success"], end["output"]

    def call(self, name: str, **fields) -> tuple[bool, object]:
        """A documented endpoint, as gradio_client calls it."""
        answer = self.http.post(f"/gradio_api/call/v2/{name}", json=fields)
        if answer.status_code != 200:
            return False, answer.text
        said = self.get(f"/gradio_api/call/{name}/{answer.json()['event_id']}").text
        kind, _, data = said.strip().rpartition("\ndata: ")
        return "event: complete" in kind.splitlines()[-1], json.loads(data)


def rows_of_three(text):
    """Every three numbers that follow one another, to three decimals: one alone may be met by chance."""
    numbers = [number[: number.index(".") + 4] for number in re.findall(r"-?\d+\.\d{3,}", text)]
    return set(zip(numbers, numbers[1:], numbers[2:], strict=False))


def run_events(person):
    """(number, place, kinds): the page's events and the fields of them that take a run's id."""
    components = {one["id"]: one for one in person.config["components"]}
    for number, event in enumerate(person.config["dependencies"]):
        kinds = [components[one]["props"] for one in event["inputs"]]
        for place, props in enumerate(kinds):
            takes = props.get("elem_id") in ("run-picker", "rival", "xy-runs") or props.get("label") == "run"
            if event["backend_fn"] and takes:
                yield number, place, kinds


def by_element(person, name, **more):
    """Number and inputs of the event of the element of that id, or of the first that hangs on it."""
    components = {one["id"]: one["props"].get("elem_id") for one in person.config["components"]}
    begun = []
    for number, event in enumerate(person.config["dependencies"]):
        own = any(components.get(target) == name for target, _ in event["targets"])
        begun += [event["id"]] if own and not event["backend_fn"] else []
        if event["backend_fn"] and (own or event["trigger_after"] in begun):
            return number, [components[one] for one in event["inputs"]]
    raise AssertionError(name)


def pressed(person, name, run, **fields):
    """A button of the page, with a run chosen and these values in fields; others are as the page opens.

    What follows on it is done as well, as the page does it: the answer holds all of it.
    """
    parts = {one["id"]: one["props"] for one in person.config["components"]}
    given, every = {"run-picker": run.id, **fields}, person.config["dependencies"]

    def done(number):
        asked = [parts[one] for one in every[number]["inputs"]]
        worked, said = person.event(
            number, [given.get(one.get("elem_id"), one.get("value")) for one in asked]
        )
        for event in every:
            follows = event["trigger_after"] == number and event["backend_fn"]
            if worked and follows and not event["trigger_only_on_failure"]:
                worked, more = done(event["id"])
                said = [said, more] if worked else more
        return worked, said

    return done(by_element(person, name)[0])


def listed(person):
    worked, runs = person.call("list_runs")
    assert worked, runs
    return {run["run"] for run in runs[0] if not run["example"]}


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def shared_model(shared_folder, tiny_folder):
    return str(shutil.copytree(tiny_folder, shared_folder / "model"))


@pytest.fixture(scope="module")
def trained(shared_folder, shared_model, tiny_config):
    """A finished run of the person at the machine."""
    config = tiny_config(model=shared_model, concepts=(CONCEPT,), sample_every=2)
    run = kpop.train(config, shared_folder / "runs", device="cpu")
    words = ("a", "church", "castle", "house", "photo", "of")  # and not CONCEPT, which would be suggested
    (shared_folder / "model" / "words.json").write_text(json.dumps({word: 1 for word in words}))
    return run


@pytest.fixture(scope="module")
def served(shared_folder, shared_model, trained):
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(shared_folder / "gradio"))
    (shared_folder / "tmp").mkdir()
    patch.setattr(tempfile, "tempdir", str(shared_folder / "tmp"))
    demo = launch(shared_folder, shared_model, ROOM_EXPOSURE)
    yield demo
    demo.close()
    patch.undo()


@pytest.fixture(scope="module")
def address(served):
    return served.local_url.rstrip("/")


@pytest.fixture(scope="module")
def ann(address):
    return Person(address, ROOM_LOGIN)


@pytest.fixture(scope="module")
def bob(address):
    return Person(address, ROOM_LOGIN)


@pytest.fixture(scope="module")
def boss(address):
    return Person(address, HOST_LOGIN)


@pytest.fixture(scope="module")
def anns(trained, ann):
    """A finished run that Ann started."""
    return copied(trained, "20260101-000000-hers-0a11", ann.visitor)


@pytest.fixture(scope="module")
def hosts(trained):
    """A finished run of the person at the machine whose id does not tell what it forgets."""
    return copied(trained, "20260101-000000-host-0b22", "local")


@pytest.fixture
def open_app(tmp_path, shared_model, monkeypatch):
    """Launches the app with another exposure; closes it at the end."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    launched = []

    def start(exposure):
        launched.append(launch(tmp_path, shared_model, exposure))
        return launched[-1].local_url.rstrip("/")

    yield start
    for demo in launched:
        demo.close()
