"""Assembles the page: header, five steps, explanation, HTTP API."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path

import gradio as gr

from .. import jobs, models, runs
from .about import about_html
from .attribution import build_attribution, wire_attribution
from .boundary import plainly
from .compare import build_compare, wire_compare
from .concepts import build_concepts, wire_concepts
from .http_api import build_api
from .page import QUIET, Page
from .release import build_release, wire_release
from .run_picker import RunPicker, choices, first_choice
from .studio import Studio
from .theme import ICON, STYLE, head, theme
from .train import build_train, wire_train
from .xy_grid import build_xy, wire_xy

TITLE = "KPOP Studio"
TAGLINE = "Make an image model forget. Keep the key."


def build_ui(
    runs_dir: str | Path | None = None,
    model: str = "emoji",
    device: str = "auto",
    read_only: bool = False,
    runner: str = "local",
) -> gr.Blocks:
    """The whole app as gradio Blocks, not launched yet; `launch_options` has the rest.

    runner: where its runs train, "local" or "ray".

    Raises ModelError when the model cannot be used.
    """
    studio = Studio(Path(runs_dir or runs.default_runs_dir()), model, device, read_only, runner)
    studio.pipe()  # a model that cannot be used is told of now, not at the first click
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 86400), fill_width=True) as demo:
        with gr.Row(elem_id="top", equal_height=False):
            gr.HTML(_brand(), elem_id="brand")
            picker = RunPicker(
                [], value=None, label="Run", elem_id="run-picker", interactive=True, min_width=240, scale=0
            )
            gr.HTML(_machine(studio), elem_id="machine")
        timer = gr.Timer(2)
        with gr.Tabs(elem_id="steps", overflow_behavior="wrap", selected=1) as tabs:
            with gr.Tab("1 Concepts", id=1, elem_id="step-concepts"):
                concepts = build_concepts(studio)
            with gr.Tab("2 Train", id=2, elem_id="step-train") as train_tab:
                train = build_train(studio)
            with gr.Tab("3 Compare", id=3, elem_id="step-compare") as compare_tab:
                compare = build_compare(studio)
                xy = build_xy()
            with gr.Tab("4 Attribution", id=4, elem_id="step-attribution") as attribution_tab:
                attribution = build_attribution(studio)
            with gr.Tab("5 Release", id=6, elem_id="step-release", visible=not read_only) as release_tab:
                release = None if read_only else build_release()
            with gr.Tab("What is this?", id=5, elem_id="step-about"):
                gr.HTML(about_html())
                with gr.Row(elem_classes="tight"):
                    begin = gr.Button(
                        "Choose what to forget →", variant="primary", elem_id="to-concepts", scale=0
                    )
                    look = gr.Button("See the pictures", elem_id="to-pictures", scale=0, min_width=180)
        page = Page(studio, picker, tabs, timer)

        @plainly
        def first(request: gr.Request):
            every = studio.all_runs()
            asked = request.query_params if request else {}
            step = str(asked.get("step", ""))
            return (
                gr.Dropdown(choices=choices(every), value=first_choice(every, asked.get("run"))),
                gr.Tabs(selected=int(step)) if step in ("2", "3", "4", "5", "6") else gr.skip(),
            )

        @plainly
        def names_again(run_id, known):
            found = choices(studio.all_runs())
            return (
                (gr.skip(), gr.skip())
                if found == known
                # A slow page may ask before `first` has chosen: no value then, or it would undo the choice.
                else (gr.Dropdown(choices=found, **({"value": run_id} if run_id else {})), found)
            )

        known = gr.State([])
        load = demo.load(first, None, [picker, tabs], **QUIET)
        timer.tick(names_again, [picker, known], [picker, known], **QUIET)
        picker.change(None, picker, None, js="(id) => { window.kpopAt('run', id); }")
        for tab in tabs.children:
            tab.select(None, js=f"() => {{ window.kpopAt('step', '{tab.id}'); }}")
        begin.click(lambda: gr.Tabs(selected=1), None, tabs, **QUIET)
        look.click(lambda: gr.Tabs(selected=3), None, tabs, **QUIET)
        wire_concepts(page, concepts, load)
        wire_train(page, train, concepts, train_tab, load)
        wire_compare(page, compare, compare_tab)
        wire_xy(page, xy, compare)
        wire_attribution(page, attribution, compare, attribution_tab)
        if release is not None:
            wire_release(page, release, release_tab, load)
        build_api(studio)
    # The queue is for what takes time; looking at runs goes past it. REST calls may not go round it.
    demo.queue(max_size=32, api_open=False, default_concurrency_limit=4)
    return demo


def launch_options(runs_dir: str | Path) -> dict:
    """Arguments of `launch` that make the app look right, stay on this machine and keep runs unreadable."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    return {
        "theme": theme(),
        "css_paths": [STYLE],
        "head": head(),
        "favicon_path": str(ICON),
        "footer_links": [],
        "allowed_paths": [],
        "blocked_paths": [str(Path(runs_dir).resolve())],
        "max_file_size": "1mb",
        "show_error": False,
        "enable_monitoring": False,
        "strict_cors": True,
        "ssr_mode": False,
        "run_history": False,
        "state_session_capacity": 200,
        "quiet": True,
    }


def start_watching(runs_dir: str | Path, runner: str = "local") -> jobs.Watcher:
    """The thread that starts queued runs and notices dead ones. Call .stop() on it at the end."""
    watcher = jobs.Watcher(Path(runs_dir), runner=runner)
    watcher.start()
    return watcher


def _brand() -> str:
    icon = ICON.read_text(encoding="utf-8")
    return f'<div class="brand">{icon}<div><h1>{TITLE}</h1><p>{TAGLINE}</p></div></div>'


def _machine(studio: Studio) -> str:
    """HTML: the model and where it runs."""
    spec = models.MODELS.get(studio.model)
    name = spec.title if spec else Path(studio.model).name
    return (
        f'<dl class="machine"><dt>Model</dt><dd>{escape(name)}</dd><dt>Device</dt>'
        f"<dd>{escape(_device(studio.pipe().device))}</dd></dl>"
    )


def _device(device) -> str:
    """A torch device in words."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "Apple GPU"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"CPU, {cores} core{'s' if cores != 1 else ''}"
