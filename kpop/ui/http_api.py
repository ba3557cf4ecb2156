"""The HTTP API (gradio_client): the page's own functions under fixed names.

/start_run takes EraseConfig's fields; /run_status, /stop_run, /resume_run, /list_runs, /compare, /attribute
take a run's id. Nothing here returns a hidden prompt or a path of this machine.
"""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import gradio as gr

from .. import jobs, models
from ..attribution_measures import head_table
from ..config import EraseConfig
from ..errors import InputError, placeless
from ..run_texts import all_texts
from .boundary import plainly
from .page import GPU
from .pictures import enlarge
from .run_picker import concept_names
from .sheets import draw_sheet, unopened
from .studio import Studio, seeds_from, visitor
from .train import owned
from .watching import first_layer, first_word, save_maps, selected, sentence, watch


def told(studio: Studio, run) -> dict[str, Any]:
    """A run as JSON: what it is and how far it is, without paths and process numbers.

    Its seed only for who may have its key: the same training makes the same key.
    """
    status = run.status
    points = run.metrics(max_points=50)
    base = Path(run.config.base_run).name if run.config.base_run else None
    model = run.config.model if run.config.model in models.MODELS else Path(run.config.model).name
    config = run.config.to_dict() | {"model": model, "base_run": base}
    if not studio.may_train_again(run):
        del config["seed"]
    return {
        "run": run.id,
        "state": status.state,
        "step": status.step,
        "steps": status.steps,
        "eta_s": status.eta_s,
        "error": status.error and placeless(status.error, run.path),
        "concepts": concept_names(run),
        "example": bool(run.is_example),
        "config": config,
        "samples": [step for step, _ in run.samples()],
        "last": {name: value for point in points for name, value in point.items()} or None,  # each kind's
    }


def noted(sentence: str) -> dict[str, str]:
    """What an answer leaves out and why, as a field of it."""
    return {"note": sentence} if sentence else {}


def build_api(studio: Studio) -> None:
    """Register the endpoints in the current Blocks."""
    start = start_endpoint(studio)
    if not studio.read_only:
        gr.api(
            start,
            api_name="start_run",
            api_description="Queue a training. Fields as EraseConfig; a field left "
            "out takes what the base model needs. Answers with the run's id.",
        )

    @plainly
    def run_status(run: str) -> dict:
        return told(studio, studio.run(run))

    @plainly
    def stop_run(run: str, request: gr.Request) -> dict:
        owned(studio, run, request)
        jobs.stop(studio.run(run))
        return told(studio, studio.run(run))

    @plainly
    def resume_run(run: str, request: gr.Request) -> dict:
        owned(studio, run, request)
        studio.resume(studio.run(run))
        return told(studio, studio.run(run))

    @plainly
    def list_runs() -> list:
        return [told(studio, run) for run in studio.all_runs()]

    looking = {"queue": False, "concurrency_limit": None}  # gradio_client goes through the queue all the same
    gr.api(
        run_status,
        api_name="run_status",
        api_description="State, step and last losses of a run.",
        **looking,
    )
    gr.api(list_runs, api_name="list_runs", api_description="All runs, newest first.", **looking)
    if not studio.read_only:
        gr.api(stop_run, api_name="stop_run", api_description="Stop a run and keep what it learned.")
        gr.api(resume_run, api_name="resume_run", api_description="Go on with a stopped or failed run.")
    _picture_endpoints(studio)


def start_endpoint(studio: Studio):
    """A function whose parameters are EraseConfig's fields, all optional but `concepts`."""

    def start_run(request: gr.Request, *values):
        given = {name: value for name, value in zip(known, values, strict=False) if value is not None}
        given["model"] = studio.allowed_model(given.get("model"))
        for name in ("concepts", "retain"):
            if isinstance(given.get(name), str):
                given[name] = [given[name]]
        if studio.exposure.shared and given["model"] != studio.model:
            raise InputError("This app is shared: runs are of its own model. Leave model out.")
        config = EraseConfig.from_dict(given)
        studio.limits().check_run(config.resolved())
        pipe = studio.pipe(config.model)
        if config.base_run is not None:
            # An id of this app's runs, never a path; and its keys come along, so it must be one's own.
            if not studio.run(config.base_run).is_example:
                owned(studio, config.base_run, request)
        for text in all_texts(config.resolved()):
            models.check_text(pipe, text)
        return told(studio, studio.submit(config, visitor(request)))

    known = [each.name for each in dataclasses.fields(EraseConfig)]
    known.sort(key=lambda name: name != "concepts")
    hints = {"concepts": list | str, "model": str | None}
    parameters = [
        inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request)
    ]
    for name in known:
        default = inspect.Parameter.empty if name == "concepts" else None
        hint = hints.get(name, Any)
        parameters.append(
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=hint)
        )
    # gradio reads names, defaults and types of an endpoint from here.
    start_run.__signature__ = inspect.Signature(parameters, return_annotation=dict)
    start_run.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": dict}
    wrapped = plainly(start_run)
    wrapped.__signature__ = start_run.__signature__
    return wrapped


def _picture_endpoints(studio: Studio) -> None:
    """/compare: events of components that are not shown, so that gradio hands the pictures out as files."""

    @plainly
    def compare(run: str, prompt: str, seeds: str = "0-3", key: str = "own"):
        chosen = studio.run(run)
        drawn = draw_sheet(studio, chosen, prompt, seeds_from(seeds), key)
        pictures, words = [], {}
        for variant in drawn.images:
            words[variant] = dict(zip(map(str, drawn.seeds), drawn.words[variant], strict=True))
            for seed, image in zip(drawn.seeds, drawn.images[variant], strict=True):
                pictures.append((enlarge(image), f"{variant}, seed {seed}"))
        facts = {"run": drawn.run_id, "prompt": prompt, "seeds": list(drawn.seeds), "judge": words}
        return pictures, facts | noted(unopened(chosen, drawn.images))

    @plainly
    def attribute(
        run: str,
        prompt: str,
        seed: float = 0,
        word: str = "",
        layer: str = "all",
        timestep_band: str = "all",
        key: str = "own",
    ):
        chosen = studio.run(run)
        at = seeds_from(int(seed or 0), 1)[0]
        watched = watch(studio, chosen, prompt, at, key, word=word, layer=layer, band=timestep_band)
        word = word or first_word(watched, chosen)
        shown = selected(watched, layer, timestep_band)
        figure, _, arrays = save_maps(watched, word, layer, timestep_band, "overlay", studio.scratch())
        facts = {
            "run": chosen.id,
            "prompt": prompt,
            "seed": watched.seed,
            "key": watched.key_name,
            "word": word,
            "words": list(watched.words),
            "layers": list(shown[0].layers),
            "sharpest_layer": first_layer(watched, word),
            "sentence": sentence(shown, word, watched.mask),
            "heads": [dataclasses.asdict(row) for row in head_table(shown, word, watched.mask)],
        }
        return facts | noted(watched.missing), str(figure), str(arrays)

    with gr.Row(visible=False):
        run = gr.Textbox(label="run")
        prompt = gr.Textbox(label="prompt")
        seeds = gr.Textbox("0-3", label="seeds")
        key = gr.Textbox("own", label="key")
        pictures = gr.Gallery(label="pictures", format="png", buttons=["download"])
        facts = gr.JSON(label="judge")
        gr.Button().click(
            compare,
            [run, prompt, seeds, key],
            [pictures, facts],
            api_name="compare",
            api_description="Draw a prompt by the original, the sanitized and, where there is a key, the "
            "recovered model.",
            **GPU,
        )
        seed = gr.Number(0, label="seed", precision=0)
        word = gr.Textbox("", label="word")
        layer = gr.Textbox("all", label="layer")
        band = gr.Textbox("all", label="timestep_band")
        figure = gr.File(label="figure")
        arrays = gr.File(label="arrays")
        gr.Button().click(
            attribute,
            [run, prompt, seed, word, layer, band, key],
            [facts, figure, arrays],
            api_name="attribute",
            api_description="Maps of every attention head for a word: numbers, figure (PNG), arrays (NPZ).",
            **GPU,
        )
