"""What either button of step 2 would train, what that takes, and the fields that make a run like another."""

from __future__ import annotations

from functools import partial
from html import escape
from pathlib import Path
from statistics import median

import gradio as gr

from .. import models, presets
from ..command_output import span
from ..config import EraseConfig
from ..errors import InputError, KpopError
from ..estimate import gigabytes
from ..method_table import METHODS
from .concepts import as_field, names_of
from .settings import config_from, filled_in, preset_of, values_of
from .studio import Studio

# What a step's time depends on.
ALIKE = ("model", "method", "mechanism", "batch_size", "latents", "sites", "trainable", "base_run")

RECOMMENDED = {  # model family -> what is known of the recommended settings
    "emoji": "Tuned for this model: it forgets, the siblings stay, the key brings it back.",
    "sd": "The paper’s steps and rate of the weights; beyond it, siblings are held, the key enters at every "
    "layer. We have not measured it on Stable Diffusion.",
}
LITERAL = {
    "emoji": "The published values to the letter, made for Stable Diffusion. On this small model they take "
    "longer, and nothing in them holds the siblings or the empty text.",
    "sd": "The published values to the letter. Nothing in them holds the siblings or the empty text; noisy "
    "pictures are drawn anew at every step, which takes longer.",
}


def memories(studio: Studio, forget, keep, neutral, preset_name, values) -> list:
    """What to call, a recipe each, so that `effort` knows its memory; nothing where the fields are wrong."""
    try:
        both = recipes_of(studio, forget, keep, neutral, preset_name, values)
        return [partial(studio.memory, config, trace=True) for config in both]
    except KpopError:
        return []


def recipes_of(studio: Studio, forget, keep, neutral, preset_name, values) -> list[EraseConfig]:
    """What either button would train, resolved. Raises InputError."""
    preset = presets.load_preset(preset_name) if preset_name else None
    return [
        config_from(studio.model, forget, keep, neutral, None if paper else preset, paper, values).resolved()
        for paper in (False, True)
    ]


def fields_like(studio: Studio, config: EraseConfig) -> list:
    """Words, neutral text, preset and settings that make a run like another. Raises InputError."""
    if config.model != studio.model:
        raise InputError("This run was made for another base model than the app has loaded.")
    forget, keep = as_field(config.concepts), as_field(config.retain or ())
    values = values_of(config)
    mine = [preset.name for preset in studio.offered_presets() if preset.concepts == config.concepts]
    for name in (None, *mine):  # a preset carries what no field holds, such as phrasings
        if not lost_in(studio, config, [forget, keep, config.neutral, name, *values]):
            return [forget, keep, config.neutral, name, *values]
    return [forget, keep, config.neutral, None, *values]


def lost_in(studio: Studio, config: EraseConfig, fields: list) -> list[str]:
    """What a run by `fields` (as of `fields_like`) has not from `config`: "rho 0.5 (here none)" and so on."""
    forget, keep, neutral, preset, *values = fields
    made = recipes_of(studio, forget, keep, neutral, preset, values)[0].to_dict()
    own = {name: value for name, value in config.resolved().to_dict().items() if name != "preset"}
    return [
        f"{name.replace('_', ' ')} {_brief(name, value)} (here {_brief(name, made[name])})"
        for name, value in own.items()
        if value != made[name]
    ]


def _brief(name: str, value) -> str:
    if isinstance(value, list):
        return f"of {len(value)}" if len(value) > 3 else ", ".join(as_field(value)) or "none"
    if value is None or value is False:
        return "none" if value is None else "no"
    return "yes" if value is True else Path(str(value)).name if name == "base_run" else str(value)


def recipe_texts(studio: Studio, forget, keep, neutral, preset_name, values) -> tuple:
    """HTML of both recipe cards, and both buttons, from the fields as they stand.

    A button does nothing where this visitor may not start such a run; its card says why.
    """
    chosen, kind = names_of(forget), models.family(studio.model)
    what = f"“{chosen[0]}”" if len(chosen) == 1 else f"{len(chosen)} concepts" if chosen else "it"
    facts = METHODS["kpop"]
    lines, refused = ["", ""], ["", ""]
    try:
        both = recipes_of(studio, forget, keep, neutral, preset_name, values)
        lines, refused = [effort(studio, one) for one in both], [_refused(studio, one) for one in both]
        facts = METHODS[both[0].method]
    except KpopError:
        pass  # what is wrong with the fields is said when they are used
    changed = any(setting.name != "method" for setting in filled_in(values))
    about = "With what you changed in the fields below." if changed else RECOMMENDED[kind]
    if not facts.has_key:
        about = f"{facts.title}, chosen under All settings: {facts.about}, and leaves no key."
    preset = preset_of(presets.load_preset(preset_name) if preset_name else None, forget)
    if preset is not None and preset.settings:
        own = ", ".join(name.rstrip("_").replace("_", " ") for name in preset.settings)
        about += f" The set “{preset.title}” brings its own {own}."
    cards = [
        f"<h3>{title}</h3><p>{escape(text)}</p><p class='effort'>{line}</p>"
        + (f"<p class='fine' role='status'>{escape(no)}</p>" if no else "")
        for title, text, line, no in zip(
            ("Recommended", "Paper’s settings"), (about, LITERAL[kind]), lines, refused, strict=True
        )
    ]
    start, literal = (not no for no in refused)
    return *cards, gr.Button(f"Forget {what}", interactive=start), gr.Button(interactive=literal)


def _refused(studio: Studio, config: EraseConfig) -> str:
    """Why this visitor may not start such a run; "" where they may."""
    try:
        studio.limits().check_run(config)
    except InputError as error:
        return str(error)
    return ""


def effort(studio: Studio, config) -> str:
    """ "300 steps, about 2 min, 0.23 GB of memory": by this machine's own runs of that kind or its measured
    pace, as far as known. config: resolved.
    """
    if not METHODS[config.method].stepwise:
        return "done at once, without training steps"
    paces = []
    for run in studio.all_runs():
        alike = all(getattr(run.config, name) == getattr(config, name) for name in ALIKE)
        if alike and not run.is_example and len(paces) < 3:
            pace = [point["seconds"] for point in run.metrics(max_points=100) if point.get("seconds")]
            paces += [median(pace)] if len(pace) > 3 else []
    facts, pace = [f"<b>{config.steps}</b> steps"], studio.pace()
    if paces:
        facts.append(f"about {span(median(paces) * config.steps)}")
    elif pace is not None:
        from ..continual import known_earlier
        from ..pace import seconds_of

        seconds = seconds_of(config, studio.pipe(), pace, known_earlier(config, studio.runs_dir))
        facts.append(f"about {span(seconds)}")
    memory = studio.memory(config)
    return ", ".join([*facts, *([f"{gigabytes(memory)} of memory"] if memory else [])])
