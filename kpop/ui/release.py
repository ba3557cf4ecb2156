"""Last step: hand the sanitized model on as files, and seal the key that stays. Not on a read-only app."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from html import escape
from pathlib import Path

import gradio as gr

from .. import key_sealing, release, runs
from ..disk import write_text
from ..errors import InputError, KpopError
from ..release_evaluation import measured
from .boundary import plainly
from .page import GPU, NEWEST, QUIET, SOFT, Page, heading
from .run_picker import subject
from .studio import Studio
from .train import owned

FORMS = [
    ("diffusers folder", "diffusers"),
    ("small delta", "delta"),
    ("single file, for A1111 and ComfyUI", "single-file"),
]
COPIES = 3  # of a release on the disk at once: its folder, the zip, and gradio's copy of that


@dataclass(frozen=True)
class ReleaseStep:
    """Components of the step. again: the passphrase once more, where a slip would cost the key."""

    about: gr.HTML
    forms: gr.CheckboxGroup
    make: gr.Button
    file: gr.DownloadButton
    key: gr.HTML
    passphrase: gr.Textbox
    again: gr.Textbox
    seal: gr.Button
    open: gr.Button
    card: gr.Markdown


def build_release() -> ReleaseStep:
    """Lay the step out."""
    heading("", "Release", "The model that forgot is for others. The key stays here.")
    with gr.Row(elem_classes="pair", equal_height=True):
        with gr.Column(elem_classes="card recipe lead", min_width=300):
            about = gr.HTML(elem_id="release-about")
            forms = gr.CheckboxGroup(
                FORMS, value=["diffusers"], label="Files", elem_id="release-forms", elem_classes="chips"
            )
            make = gr.Button("Make the files", variant="primary", elem_id="release-make")
            file = gr.DownloadButton("Save the zip", visible=False, elem_id="release-file")
        with gr.Column(elem_classes="card recipe", min_width=300):
            key = gr.HTML(elem_id="release-key")
            passphrase = gr.Textbox(
                label="Passphrase", type="password", elem_id="passphrase", max_length=1000, visible=False
            )
            again = gr.Textbox(
                label="Again", type="password", elem_id="passphrase-again", max_length=1000, visible=False
            )
            seal = gr.Button("Seal the key", visible=False, elem_id="seal-key")
            opened = gr.Button("Open it", visible=False, elem_id="open-key")
    card = gr.Markdown(elem_id="release-card", elem_classes="card", visible=False)
    return ReleaseStep(about, forms, make, file, key, passphrase, again, seal, opened, card)


def wire_release(page: Page, step: ReleaseStep, tab: gr.Tab, load) -> None:
    """Connect the step: another run or another look empties it, a button fills it."""
    studio = page.studio
    key_parts = [step.key, step.passphrase, step.again, step.seal, step.open]
    shown = [step.about, step.make, step.file, step.card, *key_parts]

    @plainly
    def look(run_id):
        hidden = [gr.DownloadButton(visible=False), gr.Markdown(visible=False)]
        if not run_id:
            return [about_html(None), gr.Button(interactive=False), *hidden, *key_values(None)]
        run = studio.run(run_id)
        return [about_html(run), gr.Button(interactive=problem(run) is None), *hidden, *key_values(run)]

    @plainly
    def make(run_id, forms, passphrase, request: gr.Request, progress=gr.Progress()):  # noqa: B008
        run = studio.run(run_id)
        if not run.is_example:
            owned(studio, run_id, request)
        return (run.id, *zipped(studio, run, forms, passphrase, lambda words: progress(None, desc=words))), ""

    @plainly
    def place(run_id, fresh):
        """What was made; not of a run chosen before."""
        if not fresh or fresh[0] != run_id:
            return gr.skip(), gr.skip()
        _, path, card = fresh
        return gr.DownloadButton(value=str(path), visible=True), gr.Markdown(value=card, visible=True)

    @plainly
    def seal(run_id, passphrase, again, request: gr.Request):
        owned(studio, run_id, request)
        if passphrase != again:
            raise InputError("The two passphrases differ. Nothing was changed.")
        run = studio.run(run_id)
        key_sealing.seal(run, passphrase)
        others = [o for o in key_sealing.copies(run, studio.all_runs()) if not key_sealing.is_sealed(o)]
        if others:
            held = ", ".join(subject(other) for other in others)
            gr.Warning(f"Runs that went on from it hold a copy: {held}. Seal these too.", title="Sealed")
        return key_values(run)

    @plainly
    def open_it(run_id, passphrase, request: gr.Request):
        owned(studio, run_id, request)
        run = studio.run(run_id)
        with studio.guess(run.id):
            key_sealing.open_seal(run, passphrase)
        return key_values(run)

    page.picked.then(look, page.picker, shown, **NEWEST, **QUIET)
    for event in (tab.select, load.then):
        event(look, page.picker, shown, **QUIET)
    private = {"api_visibility": "private"}
    fresh = gr.State(None)
    step.make.click(
        make, [page.picker, step.forms, step.passphrase], [fresh, step.passphrase],
        show_progress_on=step.about, **private, **GPU,
    ).success(place, [page.picker, fresh], [step.file, step.card], **SOFT)  # fmt: skip
    step.seal.click(seal, [page.picker, step.passphrase, step.again], key_parts, **private)
    step.open.click(open_it, [page.picker, step.passphrase], key_parts, **private)


def zipped(studio: Studio, run, forms: list[str], passphrase: str, tell) -> tuple[Path, str]:
    """The release as a zip on its way to the visitor, and its card without front matter. Raises KpopError.

    One a run and state of its weights is kept, so who asks again for the same gets the same file.
    """
    if key_sealing.is_sealed(run):
        if not passphrase:
            raise InputError("The files are searched for the key, which is sealed: give its passphrase.")
        with studio.guess(run.id):
            run = key_sealing.unlocked(run, passphrase)
    release.check_run(run)
    table = measured(run, runs_dir=studio.runs_dir)
    place = studio.scratch() / f"release-{_short(str(run.path), run.weights_stamp())}"
    made = place / _short(*sorted(forms or []), table or "")
    path, card = made / f"without-{runs.slug(run.config.concepts[0])}.zip", made / "card.md"
    if not card.is_file():
        shutil.rmtree(place, ignore_errors=True)
        made.mkdir(parents=True)
        files = release.release(
            run, made / "files", forms or [], on_part=tell, runs_dir=studio.runs_dir, copies=COPIES
        )
        release.pack(files, path)
        write_text(card, (files.path / "README.md").read_text("utf-8"))
        shutil.rmtree(files.path)
    os.utime(place)  # its hour in the folder begins anew
    return path, re.sub(r"\A---\n.*?\n---\n", "", card.read_text("utf-8"), flags=re.DOTALL)


def _short(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def problem(run) -> str | None:
    """Why a run cannot be released, in a sentence, or None."""
    try:
        release.check_run(run)
    except KpopError as error:
        return str(error)
    return None


def about_html(run) -> str:
    """HTML: what would be handed on."""
    if run is None:
        return "<h3>The sanitized model</h3><p>Train a run in step 2, or choose one at the top.</p>"
    said = problem(run)
    if said:
        return f"<h3>The sanitized model</h3><p>{escape(said)}</p>"
    return (
        f"<h3>The sanitized model</h3><p>It forgot “{escape(subject(run))}”. Whole for diffusers, only what "
        "was trained, or one file for other programs; with a card that tells how it was made. "
        "Every file is searched for the key before you get it.</p>"
        + (f"<p>{warning}</p>" if (warning := release.seed_warning(run)) else "")
    )


def key_values(run) -> list:
    """Values for the key's card: text, the two fields (emptied), the two buttons."""
    try:
        kind = key_sealing.key_state(run).kind if run is not None else "none"
    except KpopError as error:
        kind = str(error)  # a damaged file: nothing to seal or to open
    text = {
        "none": "There is none." if run is not None else "",
        "public": "The key of this example is public, so that everybody can try it.",
        "clear": "It lies in the run’s folder on this machine, readable by the app’s user only. A passphrase "
        "seals it: without it nobody draws with the key or goes on training. Lost is lost.",
        "sealed": "It is sealed. Open it to draw with the key or to resume the run. "
        "The sanitized model needs it only to be searched for the key.",
    }.get(kind, escape(kind))
    sealable = kind == "clear"
    return [
        f"<h3>The key</h3><p>{text}</p>",
        gr.Textbox(value="", visible=kind in ("clear", "sealed")),
        gr.Textbox(value="", visible=sealable),
        gr.Button(visible=sealable),
        gr.Button(visible=kind == "sealed"),
    ]
