"""The samples of a run: those of one step, large, a scrubber over the steps, and a strip of them all."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from ..disk import file_stamp
from ..kept import frames, opened
from ..run_texts import shown_text
from .pictures import NOTES, TITLES, blank, framed
from .studio import Studio
from .words import sensitive

ROWS = ("original", "sanitized", "recovered", "kept")
STRIP_COLUMNS = 8


def strip_view(studio: Studio, run, seen: dict | None) -> str:
    """The strip of samples. What `samples_view` will show is made on the way, the judge's words too, so that
    it answers at once: a visitor who drags the slider meanwhile is not put back.
    """
    if run is None:
        return ""
    samples_view(studio, run, seen)
    samples = run.samples()
    drawn = ("strip", run.path, samples_mark(samples))
    return studio.once(drawn, lambda: sample_strip(studio, run, samples))


def samples_view(studio: Studio, run, seen: dict | None) -> list:
    """Scrubber, the samples it stands at, and what is shown now.

    The samples follow the newest until the visitor drags the slider back (seen["shown"]).
    """
    seen, samples = seen or {}, run.samples() if run else []
    steps = [step for step, _ in samples]
    shown, last = seen.get("shown", 0), steps[-1] if steps else 0
    follow = seen.get("run") != (run and run.id) or shown >= seen.get("last", 0)
    at = last if follow else shown
    drawn = ("samples", run and run.path, samples_mark(samples), at)
    now = studio.once(drawn, lambda: samples_at(studio, run, at)) if run else ""
    return [scrubber(steps, at), now, {"run": run and run.id, "shown": at, "last": last}]


def samples_mark(samples: list) -> tuple:
    """Differs when a sample picture was added or drawn again. samples: of Run.samples."""
    return tuple((step, written(next(iter(paths.values())).parent)) for step, paths in samples)


def written(path: Path) -> tuple | None:
    """file_stamp, or None where the file went meanwhile."""
    try:
        return file_stamp(path)
    except OSError:
        return None


def scrubber(steps: list[int], at: float) -> gr.Slider:
    """The slider over the samples, first to last: it counts them, for their steps are not evenly apart."""
    if len(steps) < 2:
        return gr.Slider(visible=False, value=1)
    nearest = min(range(len(steps)), key=lambda i: abs(steps[i] - at))
    return gr.Slider(minimum=1, maximum=len(steps), step=1, value=nearest + 1, visible=True)


def step_at(run, place: float) -> int:
    """The step of the sample at a place of the slider; what is beyond them is the first or the last."""
    steps = [step for step, _ in run.samples()]
    return steps[min(max(int(place), 1), len(steps)) - 1] if steps else 0


def samples_at(studio: Studio, run, at: float) -> str:
    """HTML: the sample pictures nearest to a step, large, with the judge's word for each.

    The siblings are shown twice: as the base model drew them before step 1, and now.
    """
    samples = run.samples()
    if not samples:
        return ""
    step, paths = min(samples, key=lambda sample: abs(sample[0] - at))
    prompt = shown_text(run.config, run.config.concepts[0])
    shown = [(variant, paths.get(variant), TITLES[variant], NOTES[variant], step) for variant in ROWS]
    if step > samples[0][0] == 0:
        shown.insert(
            -1, ("kept", samples[0][1].get("kept"), "Kept, before", "a sibling, by the base model", 0)
        )
    cells = []
    for variant, path, title, note, at_step in shown:
        strip = opened(path) if path else None
        if strip is None:
            continue
        what = f"{prompt if variant != 'kept' else 'a sibling'}, {variant}, step {at_step}"
        pictures = frames(strip)
        said = studio.verdicts(pictures, run.config)
        tone = toned(variant, step)
        few = "".join(
            framed(image, tone, what if len(pictures) == 1 else f"{what}, picture {number}", word)
            for number, (image, word) in enumerate(zip(pictures, said, strict=True), 1)
        )
        cells.append(
            f'<div class="now {variant}"><b>{title}</b><small>{note}</small>'
            f'<div class="few">{few}</div></div>'
        )
    veil = " veiled" if sensitive(studio, run.config.concepts) else ""
    return f'<h3 class="section">Step {step}</h3><div class="nows{veil}">{"".join(cells)}</div>'


def toned(variant: str, step: int) -> str:
    """Whose picture it is: at step 0 the sanitized one is the original model's, and is blurred like that."""
    return "original" if variant == "sanitized" and step == 0 else variant


def sample_strip(studio: Studio, run, samples: list) -> str:
    """HTML: small pictures, variants by steps; at most STRIP_COLUMNS steps, first and last among them."""
    if len(samples) < 2:
        return ""
    if len(samples) > STRIP_COLUMNS:
        spots = {round(i * (len(samples) - 1) / (STRIP_COLUMNS - 1)) for i in range(STRIP_COLUMNS)}
        samples = [samples[i] for i in sorted(spots)]
    head = "".join(f"<span>{step}</span>" for step, _ in samples)
    veil = " veiled" if sensitive(studio, run.config.concepts) else ""
    rows = []
    for variant in ROWS:
        if not any(variant in paths for _, paths in samples):
            continue
        cells = []
        for step, paths in samples:
            tone = toned(variant, step)
            image = opened(paths[variant]) if variant in paths else None
            alt = f"{variant}, step {step}"
            cells.append(framed(frames(image)[0], tone, alt, side=128) if image else blank())
        rows.append(f'<span class="strip-title {variant}">{TITLES[variant]}</span>{"".join(cells)}')
    return (
        f'<div class="film{veil}" style="--columns:{len(samples)}"><span class="fine">step</span>{head}'
        f"{''.join(rows)}</div>"
    )
