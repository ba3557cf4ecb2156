"""Assembles the page: header, six steps, explanation, HTTP API."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path

import gradio as gr

from .. import jobs, models, runs
from ..address import others_address, qr_image
from ..exposure import Exposure
from ..visitors import signing_secret
from .about import about_html
from .attribution import build_attribution, wire_attribution
from .boundary import plainly
from .compare import build_compare, wire_compare
from .concepts import build_concepts, wire_concepts
from .evaluate import build_evaluate, wire_evaluate
from .forge import build_forge, wire_forge
from .gate import gate
from .http_api import build_api
from .page import QUIET, SOFT, Page, whenever
from .pulse import build_pulse, wire_pulse
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
    exposure: Exposure | None = None,
    runner: str = "local",
) -> gr.Blocks:
    """The whole app as gradio Blocks, not launched yet; `launch_options` has the rest.

    exposure: how far it is open (default: one person, this machine). runner: where its runs train, "local" or
    "ray". Raises ModelError when the model cannot be used.
    """
    studio = Studio(
        Path(runs_dir or runs.default_runs_dir()), model, device, exposure or Exposure(), runner=runner
    )
    read_only = studio.read_only
    studio.pipe()  # a model that cannot be used is told of now, not at the first click
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 86400), fill_width=True) as demo:
        with gr.Row(elem_id="top", equal_height=False):
            gr.HTML(_brand(), elem_id="brand")
            picker = RunPicker(
                [], value=None, label="Run", elem_id="run-picker", interactive=True, min_width=240, scale=0
            )
            gr.HTML(_machine(studio), elem_id="machine")
            invitation = gr.HTML(elem_id="invite", visible=studio.exposure.shared)
        timer = gr.Timer(2)
        with gr.Tabs(elem_id="steps", overflow_behavior="wrap", selected=1) as tabs:
            with gr.Tab("1 Concepts", id=1, elem_id="step-concepts"):
                concepts = build_concepts(studio)
            with gr.Tab("2 Train", id=2, elem_id="step-train") as train_tab:
                train = build_train(studio)
            with gr.Tab("3 Compare", id=3, elem_id="step-compare") as compare_tab:
                compare = build_compare(studio)
                xy = build_xy(studio)
                forge = None if read_only else build_forge()
            with gr.Tab("4 Attribution", id=4, elem_id="step-attribution") as attribution_tab:
                attribution = build_attribution(studio)
            with gr.Tab("5 Evaluate", id=7, elem_id="step-evaluate") as evaluate_tab:
                evaluate = build_evaluate(studio)
            with gr.Tab("6 Release", id=6, elem_id="step-release", visible=not read_only) as release_tab:
                release = None if read_only else build_release()
            with gr.Tab("What is this?", id=5, elem_id="step-about"):
                gr.HTML(about_html(shared=studio.exposure.shared))
                with gr.Row(elem_classes="tight"):
                    begin = gr.Button(
                        "Choose what to forget →", variant="primary", elem_id="to-concepts", scale=0
                    )
                    look = gr.Button("See the pictures", elem_id="to-pictures", scale=0, min_width=180)
        picked = whenever(picker.change, inputs=picker, js="(id) => { window.kpopAt('run', id); }")
        page = Page(studio, picker, picked, tabs, timer)

        @plainly
        def first(request: gr.Request):
            every = studio.all_runs()
            asked = request.query_params if request else {}
            step = str(asked.get("step", ""))
            return (
                gr.Dropdown(choices=choices(every), value=first_choice(every, asked.get("run"))),
                gr.Tabs(selected=int(step)) if step in ("2", "3", "4", "5", "6", "7") else gr.skip(),
            )

        @plainly
        def names_again():
            # Names only: a late answer that also sent the run chosen before would take a new choice back.
            return gr.Dropdown(choices=choices(studio.all_runs()))

        @plainly
        def asked_for(request: gr.Request):
            wanted = request.query_params.get("run") if request else None
            if wanted:
                studio.run(wanted)

        @plainly
        def invite():
            found = others_address(
                studio.exposure, demo.server_name, demo.server_port, demo.share_url, os.environ
            )
            return _invitation(found) if found else ""

        pulse = build_pulse()
        load = demo.load(first, None, [picker, tabs], **QUIET)
        demo.load(asked_for, None, None, **SOFT)  # in the queue: an error beside it is not shown
        if studio.exposure.shared:
            demo.load(invite, None, invitation, **QUIET)
        pulse.names.change(names_again, None, picker, **QUIET)
        for tab in tabs.children:
            tab.select(None, js=f"() => {{ window.kpopAt('step', '{tab.id}'); }}")
        begin.click(lambda: gr.Tabs(selected=1), None, tabs, **QUIET)
        look.click(lambda: gr.Tabs(selected=3), None, tabs, **QUIET)
        wire_concepts(page, concepts, load)
        wire_pulse(page, pulse, load)
        wire_train(page, train, concepts, train_tab, pulse, load)
        wire_compare(page, compare, compare_tab)
        wire_xy(page, xy, compare)
        if forge is not None:
            wire_forge(page, forge, compare, compare_tab)
        wire_attribution(page, attribution, compare, attribution_tab)
        wire_evaluate(page, evaluate, evaluate_tab, pulse, load)
        if release is not None:
            wire_release(page, release, release_tab, load)
        build_api(studio)
    # The queue is for what takes time; looking at runs goes past it. REST calls may not go round it.
    # A room of thirty who all draw at once waits in it, and no look is refused because of them.
    demo.queue(max_size=200, api_open=False, default_concurrency_limit=4)
    demo._queue.sleep_when_free = 0.01  # s; by itself it wakes a thousand times a second, waiting or idle
    return demo


def launch_options(runs_dir: str | Path, exposure: Exposure | None = None) -> dict:
    """Arguments of `launch` that make the app look right, keep runs unreadable, and let in who may come in.

    exposure: the one given to `build_ui`. Raises RunError when the runs folder cannot be written.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    exposure = exposure or Exposure()
    os.environ["FORWARDED_ALLOW_IPS"] = exposure.proxies  # which the server of gradio, uvicorn, reads
    logins = [(one.user, one.password) for one in (exposure.login, exposure.facilitator) if one]
    return {
        "auth": logins or None,
        "auth_message": "After ten wrong passwords in a minute, wait a minute." if logins else None,
        "share": False,  # see tunnel.py
        "app_kwargs": {"middleware": gate(exposure, signing_secret(Path(runs_dir)))},
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
        "_frontend": False,  # gradio's look at its own page refuses a machine that is busy for 3 s
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


def _invitation(address: str) -> str:
    """HTML: where others reach the page, folded, with a QR code to point a camera at."""
    shown = escape(address, quote=True)
    return (
        f'<details><summary>Invite</summary><div class="card"><img src="{qr_image(address)}" '
        f'alt="QR code of {shown}"><p><a href="{shown}">{shown}</a></p></div></details>'
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
