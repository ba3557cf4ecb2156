"""Step 1: which concepts to forget, which siblings to keep, drawn by the base model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

import gradio as gr

from ..config import concept_name
from ..kept import phrase
from .boundary import plainly
from .page import NEWEST, QUIET, SKETCH, SOFT, Page, clicked, heading, whenever
from .pictures import blank, framed, wall
from .studio import Studio
from .words import check_words, followed, instead, readable, sensitive, suggested, typed_line, without

MOST_WORDS, MOST_KEPT = 20, 60
STRIP = 5
BATCH = 4  # words drawn together
INSTEAD = """element.addEventListener('click', (event) => {
  const it = event.target.closest('[data-near]');
  if (it) trigger('click', {word: it.dataset.word, near: it.dataset.near});
});"""
SIDE, SMALL_SIDE = 256, 128  # of a picture as it is sent, in pixels
LEAST, SMALLEST = ((6, 128), (18, 80)), 56  # (pictures at most, least width of one in pixels), of more


@dataclass(frozen=True)
class ConceptsStep:
    """Components of the step; later ones read the words, the neutral text and the chosen preset.

    filled: the words that the page itself put into both fields last, see words.followed.
    """

    forget: gr.Dropdown
    keep: gr.Dropdown
    filled: gr.State
    neutral: gr.Textbox
    preset: gr.State
    forget_pictures: gr.HTML
    keep_pictures: gr.HTML
    verdict: gr.HTML
    typed: gr.HTML
    cards: list[tuple[object, gr.HTML, gr.Button]]
    suggest: gr.Button
    draw: gr.Button
    onward: gr.Button
    about: gr.Button


def concepts_from(words: list[str] | None) -> tuple:
    """Words of a field as EraseConfig's concepts; "gun | pistol" is one concept with two names."""
    found = []
    for text in (words or [])[:MOST_KEPT]:
        names = tuple(" ".join(name.split()) for name in str(text).split("|") if name.strip())
        if names:
            found.append(names[0] if len(names) == 1 else names)
    return tuple(found)


def as_field(concepts) -> list[str]:
    """EraseConfig's concepts as words of the field."""
    return [concept if isinstance(concept, str) else " | ".join(concept) for concept in concepts]


def names_of(words: list[str] | None) -> list[str]:
    """First name of every concept in the field."""
    return [concept_name(concept) for concept in concepts_from(words)]


def offered_words(studio: Studio) -> list[str]:
    """Every word of the presets: what the fields offer and siblings are suggested from."""
    offered = studio.offered_presets()
    concepts = [concept for preset in offered for concept in (*preset.concepts, *preset.retain)]
    return sorted({concept_name(concept) for concept in concepts})


def each(count: int, most: int) -> int:
    """How many pictures a word gets when `count` words share one row."""
    return max(1, min(most, 6 // max(count, 1)))


def build_concepts(studio: Studio) -> ConceptsStep:
    """Lay the step out. The first preset is filled in, so that there is something to press."""
    offered = studio.offered_presets()
    first = offered[0] if offered else None
    known = offered_words(studio)
    heading(
        1,
        "What should it forget?",
        "Choose what the model shall forget, and what is so near to it "
        "that it must be watched. These pictures are the model as it is now.",
    )
    about = gr.Button("New here? The idea in four pictures →", size="sm", elem_id="to-about", scale=0)
    with gr.Row(equal_height=False, elem_classes="pair"):
        with gr.Column(elem_classes="card", min_width=320):
            forget = gr.Dropdown(
                known,
                value=as_field(first.concepts) if first else [],
                multiselect=True,
                allow_custom_value=True,
                max_choices=MOST_WORDS,
                label="Forget these",
                elem_id="forget",
                info="Pick or type a word and press Enter. In the paper: erase.",
            )
            typed = gr.HTML(elem_id="typed")
            verdict = gr.HTML(elem_id="verdict", js_on_load=INSTEAD)
            forget_pictures = gr.HTML(
                _holes(names_of(as_field(first.concepts)) if first else [], 6), elem_id="forget-pictures"
            )
        with gr.Column(elem_classes="card", min_width=320):
            keep = gr.Dropdown(
                known,
                value=as_field(first.retain) if first else [],
                multiselect=True,
                allow_custom_value=True,
                max_choices=MOST_KEPT,
                label="Keep these",
                elem_id="keep",
                info="Siblings that forgetting could hurt. In the paper: retain.",
            )
            with gr.Row(elem_classes="tight"):
                suggest = gr.Button("Suggest siblings", size="sm", elem_id="suggest", scale=0, min_width=160)
                draw = gr.Button(
                    "Draw these words", size="sm", elem_id="draw-words", scale=0, min_width=160, visible=False
                )
            keep_pictures = gr.HTML(
                _holes(names_of(as_field(first.retain)) if first else [], 2), elem_id="keep-pictures"
            )
    cards = []
    if offered:
        gr.HTML('<h3 class="section">Ready-made</h3>')
        with gr.Row(elem_classes="cards", equal_height=True):
            for preset in offered:
                with gr.Column(elem_classes="card preset", min_width=240):
                    strip = gr.HTML(_strip(studio, preset))
                    use = gr.Button("Use this", size="sm", elem_id=f"preset-{preset.name}")
                cards.append((preset, strip, use))
    with gr.Accordion("Neutral text and several names for one concept", open=False, elem_classes="fold"):
        neutral = gr.Textbox(
            first.neutral if first else "",
            label="Neutral text",
            elem_id="neutral",
            max_length=400,
            placeholder="empty: the empty text",
            info="What a picture of the forgotten word becomes instead. In the paper: c_n.",
        )
        gr.HTML(
            '<p class="fine">Several names for one concept: type them with a bar between, '
            "such as <code>fish | shark</code>. They share one key.</p>"
        )
    with gr.Row(elem_classes="onward"):
        onward = gr.Button("Next: train →", variant="primary", elem_id="to-train", scale=0, min_width=200)
    return ConceptsStep(
        forget,
        keep,
        gr.State([as_field(first.concepts), as_field(first.retain)] if first else [[], []]),
        neutral,
        gr.State(first.name if first else None),
        forget_pictures,
        keep_pictures,
        verdict,
        typed,
        cards,
        suggest,
        draw,
        onward,
        about,
    )


def wire_concepts(page: Page, step: ConceptsStep, load: gr.events.Dependency) -> None:
    """Connect the step; `load` is the page's first event, after which the pictures are drawn."""
    studio = page.studio
    words, pictures = [step.forget, step.keep], [step.forget_pictures, step.keep_pictures]

    @plainly
    def judge_words(forget, keep):
        return check_words(studio, concepts_from(forget), concepts_from(keep))

    @plainly
    def draw_when_quick(forget, keep) -> Iterator:
        if studio.quick():
            yield from draw_words(studio, forget, keep)
        else:
            yield _cached(studio, names_of(forget), 6), _cached(studio, names_of(keep), 2)

    @plainly
    def draw_asked(forget, keep) -> Iterator:
        yield from draw_words(studio, forget, keep)

    @plainly
    def suggest(forget, keep):
        return suggested(studio, concepts_from(forget), list(keep or []), offered_words(studio))[:MOST_KEPT]

    @plainly
    def typing(text):
        return typed_line(studio, text)

    @plainly
    def swap(forget, keep, event: gr.EventData):
        told = clicked(event, "word"), clicked(event, "near")
        if not told[1]:  # a word on both sides: what is to be forgotten is not kept
            return forget, without(keep, told[0])
        return instead(forget, *told), instead(keep, *told)

    @plainly
    def follow(forget, keep, filled):
        found = as_field(followed(studio, *map(concepts_from, (forget, keep, *filled))))
        return (found, [forget, found]) if found else (gr.skip(), filled)

    @plainly
    def show_draw_button():
        return gr.Button(visible=not studio.quick())

    @plainly
    def restore(chosen):
        return (
            chosen if isinstance(chosen, list) and len(chosen) == len(filling) else [gr.skip()] * len(filling)
        )

    filling = [step.forget, step.keep, step.neutral, step.preset, step.filled]
    chosen = gr.BrowserState(None, storage_key="kpop-words")  # for a reload, as long as the app runs
    restored = load.then(restore, chosen, filling, **QUIET)
    first = restored.then(judge_words, words, step.verdict, **QUIET)
    first.then(show_draw_button, None, step.draw, **QUIET)
    last = first.then(
        draw_when_quick, words, pictures, show_progress="hidden", api_visibility="private", **SKETCH
    )
    for preset, strip, use in step.cards:

        @plainly
        def fill(preset=preset):
            both = [as_field(preset.concepts), as_field(preset.retain)]
            return *both, preset.neutral, preset.name, both

        @plainly
        def draw_strip(preset=preset):
            return _strip(studio, preset, draw=studio.quick())

        use.click(fill, None, filling, **QUIET)
        last = last.then(draw_strip, None, strip, show_progress="hidden", api_visibility="private", **SKETCH)

    edited = whenever(step.forget.change, step.keep.change)
    edited.then(None, None, step.typed, js="() => ''", **SOFT)
    edited.then(lambda *values: list(values), filling, chosen, **NEWEST, **QUIET)
    edited.then(judge_words, words, step.verdict, **NEWEST, **QUIET).then(
        draw_when_quick,
        words,
        pictures,
        show_progress="hidden",
        api_visibility="private",
        **NEWEST,
        **SKETCH,
    )
    # What stands in the field by now: an event that has waited brings the letters it began with.
    typing_in = gr.Textbox(visible=False)
    for field in words:
        now = f"() => document.querySelector('#{field.elem_id} input').value"
        whenever(field.key_up).then(typing, typing_in, step.typed, js=now, **NEWEST, **QUIET)
    step.verdict.click(swap, words, words, **QUIET)
    whenever(step.forget.change).then(
        follow, [*words, step.filled], [step.keep, step.filled], **NEWEST, **QUIET
    )
    step.draw.click(draw_asked, words, pictures, api_visibility="private", **SKETCH)
    step.suggest.click(suggest, words, step.keep, **SOFT)
    step.onward.click(lambda: gr.Tabs(selected=2), None, page.tabs, **QUIET)
    step.about.click(lambda: gr.Tabs(selected=5), None, page.tabs, **QUIET)


def draw_words(studio: Studio, forget: list[str] | None, keep: list[str] | None) -> Iterator[tuple[str, str]]:
    """Yield both walls of pictures, fuller with each word drawn."""
    chosen, siblings = names_of(forget), names_of(keep)
    first = _cached(studio, chosen, 6, True), _cached(studio, siblings, 2, True)
    yield first
    for words, most in ((chosen, 6), (siblings, 2)):
        seeds = range(each(len(words), most))
        known = [phrase(word) for word in words if readable(studio, word)]
        for start in range(0, len(known), BATCH):
            if any(None in studio.drawn(prompt, seeds) for prompt in known[start : start + BATCH]):
                studio.draw(known[start : start + BATCH], seeds)
                yield _cached(studio, chosen, 6, True), _cached(studio, siblings, 2, True)
    last = _cached(studio, chosen, 6), _cached(studio, siblings, 2)
    if last != first:  # each sends every picture again
        yield last


def _cached(studio: Studio, words: list[str], most: int, waiting: bool = False) -> str:
    """Wall of what is drawn already, holes for the rest; what is sensitive is blurred until it is pressed."""
    cells, seeds = [], range(each(len(words), most))
    side = SIDE if len(words) * len(seeds) <= LEAST[0][0] else SMALL_SIDE
    for word in words:
        hidden = sensitive(studio, (word,))
        for seed, image in zip(seeds, studio.drawn(phrase(word), seeds), strict=True):
            caption = word if len(words) > 1 else f"seed {seed}"
            if image is None:
                cells.append(blank(caption, waiting))
                continue
            cell = framed(image, "original", f"{phrase(word)}, original, seed {seed}", caption, side)
            cells.append(f'<div class="veiled">{cell}</div>' if hidden else cell)
    return wall(cells, _least(len(cells)))


def _holes(words: list[str], most: int) -> str:
    cells = [blank(word, True) for word in words for _ in range(each(len(words), most))]
    return wall(cells, _least(len(cells)))


def _least(count: int) -> int:
    """Least width of a picture where so many stand on a wall, in pixels."""
    return next((width for most, width in LEAST if count <= most), SMALLEST)


def _strip(studio: Studio, preset, draw: bool = False) -> str:
    """HTML of a preset's card: a strip of pictures (drawn now, or holes), its title, its words."""
    words = names_of(as_field(preset.concepts))
    prompts = [phrase(name) for name in words[:STRIP] if not draw or readable(studio, name)]
    if draw:
        studio.draw(prompts, [0])
    cells = []
    for prompt in prompts:
        image = studio.drawn(prompt, [0])[0]
        alt = f"{prompt}, original, seed 0"
        cells.append(framed(image, "original", alt, side=SMALL_SIDE) if image else blank())
    mark = '<span class="mark">sensitive</span>' if preset.sensitive else ""
    kind, columns = "strip veiled" if preset.sensitive else "strip", min(max(len(words), 1), STRIP)
    return (
        f'<div class="{kind}" style="--columns:{columns}">{"".join(cells)}</div>'
        f"<h4>{escape(preset.title)}{mark}</h4><p class='fine'>{escape(', '.join(words))}</p>"
    )
