"""Malformed settings, prompt lists and pictures: used or answered in words, soon, without a traceback."""

from __future__ import annotations

import io
import json
import signal
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from faults.figures import Figures
from faults.world import TRIES, World
from kpop.cli_values import read_settings
from kpop.config import EraseConfig, GenerationConfig
from kpop.errors import KpopError
from kpop.evaluation.prompt_table import read_prompts
from kpop.picture_metadata import read_metadata

MOST = 5  # seconds an input may take
LONGEST = 2000  # characters of an answer in words

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=40)
    | st.sampled_from(["church", "", "a" * 5000, "../..", "\0", "null", "1e999", "{}"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = list(EraseConfig.__dataclass_fields__)
fields = st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=10), values, max_size=6)


ODD = (
    "a: &a [*a]", "&a concepts: *a", "concepts: &c [*c]", "[" * 3000, "? [a]\n: b", "\ufeff{}", "--- \n---",
    "concepts: !!python/object/apply:os.system [ls]", "steps: !!timestamp 99", "steps: 1:2:3", "seed: .nan",
    "steps: 0x" + "f" * 4000, "steps: 1" + "0" * 5000,
)  # fmt: skip
COLUMNS = ("prompt", "evaluation_seed", "seed", "case_number", "label", "class", "artist", "", "x")


class TooLong(Exception):
    """An input that was not answered in time."""


def fuzz(world: World, count: int) -> list[Figures]:
    """`count` malformed inputs each for settings, prompt lists and pictures."""
    world.folder.mkdir(parents=True, exist_ok=True)
    seed = world.draw.getrandbits(32)
    kinds = {
        "malformed settings (object, JSON, YAML)": (_settings_inputs(), lambda case: _settings(world, case)),
        "malformed prompt list (CSV)": (_csv_inputs(), lambda case: _prompts(world, case)),
        "malformed picture (PNG)": (_png_inputs(), read_metadata),
    }
    rows = []
    for fault, (inputs, use) in kinds.items():
        figures = Figures(fault, asked=count)
        _run(inputs, use, count, seed, figures)
        rows.append(figures)
    return rows


def _run(inputs, use: Callable, count: int, seed: int, figures: Figures) -> None:
    used = 0

    @hypothesis.seed(seed)
    @settings(
        max_examples=TRIES * count, database=None, deadline=None, derandomize=False,
        phases=[hypothesis.Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @hypothesis.given(inputs)
    def each(case):
        nonlocal used
        if figures.struck >= count:
            return
        figures.times += 1
        try:
            with limit(MOST), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                use(case)
            used += 1
        except KpopError as error:
            figures.struck += 1
            told = figures.shown(str(error))
            if not told.strip():
                figures.bare += 1
                figures.notes.append(f"no words for {case!r:.200}")
            if len(told) > LONGEST:
                figures.lost += 1
                figures.notes.append(f"{len(told)} characters of an answer")
        except TooLong:
            figures.struck += 1
            figures.stuck += 1
            figures.notes.append(f"no answer in {MOST} s: {case!r:.200}")
        except Exception as error:
            figures.struck += 1
            figures.tracebacks += 1
            figures.notes.append(f"{type(error).__name__}: {error!s:.150} from {case!r:.200}")

    each()
    figures.notes.append(f"{used} more could be used, and are not counted.")


@contextmanager
def limit(seconds: float):
    """Raise TooLong in the main thread when the body takes longer."""

    def over(*_):
        raise TooLong

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _settings_inputs():
    bomb = "concepts:\n- &b0 [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"- &b{i} [{', '.join([f'*b{i - 1}'] * 9)}]\n" for i in range(1, 12))
    texts = st.sampled_from([bomb, *ODD])
    written = fields.map(json.dumps)
    files = st.tuples(st.sampled_from([".yaml", ".json"]), (texts | written | st.text(max_size=200)))
    raw = st.tuples(st.sampled_from([".yaml", ".json"]), st.binary(max_size=200))
    nearly = fields.map(lambda some: {"concepts": ["church"]} | dict(list(some.items())[:1]))
    return st.one_of(fields, nearly, values, files, raw)


def _settings(world: World, case: object) -> None:
    if isinstance(case, tuple):
        ending, text = case
        path = world.folder / f"settings{ending}"
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        case = read_settings(path)
    EraseConfig.from_dict(case)
    if isinstance(case, dict):
        GenerationConfig.from_dict({key: case[key] for key in case if key in ("steps", "batch_size")})


def _csv_inputs():
    cells = st.text(max_size=30) | st.sampled_from(
        ["1", "3990.0", "-1", "a prompt", '"', "\0", "9" * 30, "x" * 200_000, "", "٣"]
    )
    header = st.lists(st.sampled_from(COLUMNS), max_size=6)
    rows = st.lists(st.lists(cells, max_size=7), max_size=5)
    text = st.tuples(header, rows).map(lambda both: "\n".join(",".join(row) for row in [both[0], *both[1]]))
    good = rows.map(lambda rows: "prompt,evaluation_seed,label\n" + "\n".join(",".join(row) for row in rows))
    return st.one_of(
        text.map(lambda t: t.encode("utf-8", "surrogatepass")),
        good.map(lambda t: t.encode("utf-8", "surrogatepass")),
        st.binary(max_size=300),
    )


def _prompts(world: World, data: bytes) -> None:
    path: Path = world.folder / "prompts.csv"
    path.write_bytes(data)
    read_prompts(path)


@st.composite
def _png_inputs(draw) -> bytes:
    told = {
        "prompt": "a church", "seed": 3, "variant": "sanitized", "model": "emoji", "model_hash": "0" * 64,
        "run": None, "key": None, "config": GenerationConfig().to_dict(),
    }  # fmt: skip
    for name in draw(st.lists(st.sampled_from(sorted(told)), max_size=3)):
        told[name] = draw(values)
    if draw(st.booleans()) and isinstance(told["config"], dict):
        names = list(GenerationConfig.__dataclass_fields__)
        told["config"] |= draw(st.dictionaries(st.sampled_from(names), values, max_size=3))
    text = draw(st.just(json.dumps(told)) | st.text(max_size=100) | st.just("[" * 15_000))
    info = PngInfo()
    add = draw(st.sampled_from([info.add_itxt, info.add_text]))
    add("kpop", text.encode("utf-8", "replace").decode("utf-8"), zip=draw(st.booleans()))
    buffer = io.BytesIO()
    Image.new("RGB", (draw(st.sampled_from([1, 8, 5000])), 1)).save(buffer, "PNG", pnginfo=info)
    data = bytearray(buffer.getvalue())
    for _ in range(draw(st.integers(0, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.sampled_from([None, draw(st.integers(0, len(data)))]))])
