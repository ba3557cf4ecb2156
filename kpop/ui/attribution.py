"""Step 4: where each attention head looks for a word: before forgetting, after it, and with the key."""

from __future__ import annotations

import time
from dataclasses import dataclass

import gradio as gr

from ..attention_recorder import BANDS
from ..errors import RunError
from ..kept import first_prompt
from .boundary import plainly
from .compare import CompareStep
from .page import GPU, NEWEST, SOFT, Page, heading, whenever
from .pictures import notice
from .run_picker import has_result, subject
from .studio import Studio, seeds_from
from .watching import (
    Watched,
    band_between,
    first_layer,
    first_word,
    layer_choices,
    maps_html,
    maps_kept,
    profile_html,
    save_maps,
    watch,
)

VIEWS = [("over the picture", "overlay"), ("maps alone", "heat"), ("what changed", "difference")]
FILES = ("PNG", "SVG", "NPZ", "CSV")
SCREEN = (
    "(...values) => [...values.slice(0, -1), (document.body.classList.contains('dark') ? 'dark' : 'light')"
    " + (window.innerWidth <= 720 ? ' narrow' : '')]"
)


@dataclass(frozen=True)
class AttributionStep:
    """Components of the step.

    watched: this visitor's kept sums; screen: its theme and whether it is narrow, filled in by the browser;
    lacking: changes when the step opens on what nothing is kept of.
    """

    prompt: gr.Textbox
    seed: gr.Number
    draw: gr.Button
    choices: gr.Row
    word: gr.Radio
    layer: gr.Dropdown
    first: gr.Slider
    last: gr.Slider
    view: gr.Radio
    maps: gr.HTML
    profile: gr.HTML
    saving: gr.Row
    buttons: tuple[gr.Button, ...]
    files: tuple[gr.DownloadButton, ...]
    watched: gr.State
    screen: gr.Textbox
    lacking: gr.State


def build_attribution(studio: Studio) -> AttributionStep:
    """Lay the step out; the choices appear with the first maps."""
    heading(4, "Attribution", "Where each attention head looks for a word while the picture is drawn.")
    with gr.Row(elem_classes="ask", equal_height=False):
        prompt = gr.Textbox(
            label="Prompt", elem_id="attribution-prompt", max_length=400, max_lines=1, scale=6, min_width=240
        )
        seed = gr.Number(
            0, label="Seed", precision=0, minimum=0, elem_id="attribution-seed", scale=1, min_width=96
        )
        draw = gr.Button("Watch the heads", variant="primary", elem_id="watch", scale=1, min_width=176)
    with gr.Row(elem_classes="choices", visible=False) as choices:
        word = gr.Radio([], label="Word", elem_id="word", elem_classes="chips", min_width=160)
        first, last = (
            gr.Slider(1, BANDS, value, step=1, label=label, elem_id=f"band-{end}", min_width=160, buttons=[])
            for end, value, label in (
                ("first", 1, "Steps of the drawing, from fifth (1 noise)"),
                ("last", BANDS, f"to fifth ({BANDS} picture)"),
            )
        )
        view = gr.Radio(
            VIEWS, value="overlay", label="Shown", elem_id="view", elem_classes="chips", min_width=320
        )
        layer = gr.Dropdown(
            [("all layers", "all")], value="all", label="Layers", elem_id="layer", min_width=176
        )
    maps = gr.HTML(notice("No maps yet", "Press “Watch the heads”."), elem_id="maps")
    with gr.Row(visible=False, elem_classes="downloads") as saving:
        buttons = tuple(
            gr.Button(f"Save {kind}", size="sm", elem_id=f"save-{kind.lower()}", scale=0, min_width=120)
            for kind in FILES
        )
        files = tuple(
            gr.DownloadButton(kind, visible="hidden", elem_id=f"file-{kind.lower()}") for kind in FILES
        )
    profile = gr.HTML("", elem_id="profile")
    return AttributionStep(
        prompt,
        seed,
        draw,
        choices,
        word,
        layer,
        first,
        last,
        view,
        maps,
        profile,
        saving,
        buttons,
        files,
        gr.State(None, time_to_live=3600),
        gr.Textbox("light", visible=False),
        gr.State(0),
    )


def wire_attribution(page: Page, step: AttributionStep, compare: CompareStep, tab: gr.Tab) -> None:
    """Connect the step: drawing watches anew, every choice only reads the kept sums."""
    studio = page.studio
    shown = [step.choices, step.word, step.layer, step.maps, step.saving, step.watched]
    read = [step.watched, step.word, step.layer, step.first, step.last, step.view, step.screen]

    def empty(title: str, text: str = "") -> list:
        return [gr.Row(visible=False), gr.skip(), gr.skip(), notice(title, text), gr.Row(visible=False), None]

    @plainly
    def other_run(run_id):
        if not run_id:
            return [gr.skip(), *empty("No maps yet", "Train a run in step 2, or choose one at the top.")]
        run = studio.run(run_id)
        ready = has_result(run)
        title = "No maps yet" if ready else f"“{subject(run)}” is not forgotten yet"
        text = "Press “Watch the heads”." if ready else "When it is done, or stopped and kept, look here."
        return [first_prompt(run), *empty(title, text)]

    def shown_of(run, found: Watched, band, view, screen) -> list:
        word = first_word(found, run)
        layer = first_layer(found, word)
        return [
            gr.Row(visible=True),
            gr.Radio(choices=list(found.words) or [word], value=word),
            gr.Dropdown(choices=layer_choices(found), value=layer),
            maps_html(found, word, layer, band, view, *of_screen(screen)),
            gr.Row(visible=True),
            found,
        ]

    def drawn(run, prompt, seed, key, passphrase, progress) -> Watched:
        def count(step, steps):
            progress((step, steps), desc="watching")

        return watch(studio, run, prompt, seeds_from(seed, 1)[0], key, count, passphrase)

    @plainly
    def draw(run_id, prompt, seed, key, passphrase, progress=gr.Progress()):  # noqa: B008
        return drawn(studio.run(run_id), prompt, seed, key, passphrase, progress)

    @plainly
    def place(fresh, run_id, first, last, view, screen):
        """What was watched, as it is looked at by now; not of a run chosen before."""
        if not isinstance(fresh, Watched) or fresh.run_id != run_id:
            return [gr.skip()] * len(shown)
        return shown_of(studio.run(run_id), fresh, band_between(first, last), view, screen)

    @plainly
    def tab_opened(watched, run_id, prompt, seed, key, first, last, view, screen):
        """What is kept, at once; what is not, `draw` draws when it is its turn."""
        as_it_is, known = [gr.skip()] * len(shown), isinstance(watched, Watched)
        if not run_id:
            return [*as_it_is, gr.skip(), gr.skip()]
        run, typed = studio.run(run_id), prompt
        prompt, at = prompt or first_prompt(run), seeds_from(seed, 1)[0]  # fields may be filled only later
        if not has_result(run) or (known and watched.answers(run_id, prompt, at, key)):
            return [*as_it_is, gr.skip(), gr.skip()]
        found = maps_kept(studio, run, prompt, at, key)
        lacks = found is None and studio.quick(run.config.model)
        if found:
            now = shown_of(run, found, band_between(first, last), view, screen)
        elif known and not lacks:  # what is shown was drawn with another prompt, seed or key
            now = empty("No maps of this yet", "Press “Watch the heads”.")
        else:
            now = as_it_is
        return [*now, gr.skip() if typed else prompt, time.time_ns() if lacks else gr.skip()]

    @plainly
    def again(watched, word, layer, first, last, view, screen):
        band = band_between(first, last)
        return maps_html(kept(watched), word, layer, band, view, *of_screen(screen))

    @plainly
    def profiled(watched, word, layer, screen):
        if not isinstance(watched, Watched):
            return ""
        return profile_html(watched, word, layer, *of_screen(screen))

    question = [page.picker, step.prompt, step.seed, compare.key]
    look = [step.first, step.last, step.view, step.screen]
    fresh = gr.State(None, time_to_live=3600)
    drawing = {"show_progress_on": step.maps, "api_visibility": "private", **NEWEST, **GPU}
    page.picked.then(other_run, page.picker, [step.prompt, *shown], **NEWEST, **SOFT)
    made = whenever(step.draw.click, step.prompt.submit, step.lacking.change).then(
        draw, [*question, compare.passphrase], fresh, **drawing
    )
    made.success(place, [fresh, page.picker, *look], shown, js=SCREEN, **NEWEST, **SOFT)
    tab.select(
        tab_opened, [step.watched, *question, *look], [*shown, step.prompt, step.lacking], js=SCREEN, **SOFT
    )
    steered = [step.word.input, step.layer.input, step.first.input, step.last.input, step.view.input]
    profiling = [profiled, [step.watched, step.word, step.layer, step.screen], step.profile]
    step.watched.change(*profiling, js=SCREEN, **NEWEST, **SOFT)
    for events, whole in ((steered[:2], True), (steered[2:], False)):
        maps = whenever(*events).then(
            again, read, step.maps, js=SCREEN, show_progress="minimal", api_visibility="private", **NEWEST
        )
        if whole:  # after the maps, which are what one waits for
            maps.then(*profiling, js=SCREEN, **NEWEST, **SOFT)
    for kind, button, file in zip(FILES, step.buttons, step.files, strict=True):

        @plainly
        def save(watched, word, layer, first, last, view, screen, kind=kind):
            band = band_between(first, last)
            kinds = (kind.lower(),)
            return str(save_maps(kept(watched), word, layer, band, view, studio.scratch(), kinds)[0])

        # The file is made when asked for; the browser then presses the button that holds it.
        press = f"() => document.querySelector('#{file.elem_id}').click()"
        button.click(save, read, file, api_visibility="private", show_progress="hidden").success(
            None, js=press
        )


def of_screen(screen: str) -> tuple[str, bool]:
    """Theme, and whether the figure has to be a narrow one."""
    return ("dark" if "dark" in screen else "light"), "narrow" in screen


def kept(watched) -> Watched:
    """The kept sums, or RunError when there are none."""
    if not isinstance(watched, Watched):
        raise RunError("Press “Watch the heads” first.")
    return watched
