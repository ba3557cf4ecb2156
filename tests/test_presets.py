"""Presets: every shipped file can be used, and a bad one is refused in words."""

from dataclasses import replace
from functools import partial

import pytest

from kpop import EraseConfig, InputError, list_presets, load_preset
from kpop.batches import texts_to_keep
from kpop.continual import Forgotten
from kpop.presets import asked_sensitive
from kpop.run_texts import pairs, retained_texts
from kpop.ui.settings import SETTINGS, config_from


@pytest.mark.parametrize("preset", list_presets(), ids=lambda preset: preset.name)
def test_every_shipped_preset_resolves_to_a_run(preset):
    cfg = EraseConfig(preset=preset.name, model=preset.model or "emoji").resolved()
    assert cfg.concepts == preset.concepts and cfg.concepts
    assert preset.title and preset.prompts
    erased = {
        word for concept in preset.concepts for word in ([concept] if isinstance(concept, str) else concept)
    }
    assert not erased & set(preset.retain)


def test_there_are_presets_for_the_embedded_model_and_for_stable_diffusion():
    models = {preset.model for preset in list_presets()}
    assert "emoji" in models and "CompVis/stable-diffusion-v1-4" in models
    assert any(preset.sensitive for preset in list_presets())


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("a photo of two Knives and a dagger", ["emoji-weapon"]),
        ("a sword", ["emoji-weapon"]),
        ("an  armed scene", ["emoji-weapon"]),
        ("a nude figure", ["nudity"]),
        ("a rainbow", []),
        ("a church", []),
    ],
)
def test_a_prompt_that_asks_for_something_sensitive_is_known(prompt, found):
    assert [preset.name for preset in asked_sensitive(prompt, list_presets())] == found


def test_own_concepts_outrank_the_presets():
    name = list_presets()[0].name
    assert EraseConfig(preset=name, concepts=("umbrella",), retain=()).resolved().concepts == ("umbrella",)


def test_a_style_typed_by_hand_is_forgotten_as_the_preset_forgets_it():
    typed, ready = (
        EraseConfig(**told).resolved() for told in ({"concepts": ("ink style",)}, {"preset": "emoji-styles"})
    )
    assert typed == replace(ready, preset=None)
    assert typed.templates[:2] == ("a house, {}", "a cat, {}") and typed.anchors[:2] == ("a house", "a cat")
    assert len(typed.anchors) == len(typed.templates) and "an umbrella" in typed.anchors
    aside = EraseConfig(concepts=("ink style",), neutral="a photo").resolved()
    assert (aside.templates, aside.anchors, aside.negative_guidance) == (typed.templates, (), 0.5)
    assert typed.negative_guidance == 2 and EraseConfig(concepts=("car",)).resolved().negative_guidance == 0.5
    assert EraseConfig(preset="emoji-styles", templates=("{}",)).resolved().anchors == ()
    assert EraseConfig(preset="emoji-styles", neutral="a photo").resolved().anchors == ()
    assert EraseConfig(preset="paper", concepts=("ink style",)).resolved().anchors == ()
    page = partial(config_from, paper=False, values=[""] * len(SETTINGS))
    assert page("emoji", ["ink style"], [], "", None).resolved().anchors == typed.anchors
    painter = load_preset("van-gogh")
    sd = partial(page, "CompVis/stable-diffusion-v1-4", ["Van Gogh"], [], preset=painter)
    assert sd(painter.neutral).resolved().anchors == ("a painting", "a painting")
    assert sd("a map").resolved().anchors == ()  # whoever names a neutral text is given it
    two = EraseConfig(concepts=("ink style", "flat style")).resolved()
    assert two.retain == ("noto style", "twemoji style", "fluent style", "blob style")
    assert two.templates[0] == "a house, {}"
    mixed = EraseConfig(concepts=("ink style", "church")).resolved()
    assert {"flat style", "castle"} < set(mixed.retain) and mixed.templates[0] == "{}"
    assert not any("style" in word for word in EraseConfig(concepts=("church",)).resolved().retain)
    named_twice = EraseConfig(concepts=(("ink style", "ink drawing"),)).resolved()
    assert (named_twice.templates, named_twice.anchors) == (typed.templates, typed.anchors)
    assert named_twice.retain == typed.retain


def test_a_kept_word_has_the_phrasings_of_its_kind_beside_a_style_or_an_object():
    told = lambda *concepts: set(  # noqa: E731
        retained_texts(EraseConfig(concepts=concepts, retain=("castle", "flat style")).resolved())
    )
    for kept in (told("ink style"), told("church"), told("church", "ink style")):
        assert {"castle", "a castle", "a photo of a castle", "a house, flat style"} < kept and len(kept) == 19
    two = EraseConfig(
        concepts=("ink style", "church"), retain=("fish", "flat style"), pair_share=0.5
    ).resolved()
    assert (pairs(two, "ink style"), pairs(two, "church")) == ((), (("a fish and a church", "a fish"),))
    earlier = [Forgotten("church", None, ("castle",))]
    style = EraseConfig(concepts=("ink style",)).resolved()
    assert {"church", "castle"} < set(texts_to_keep(style, earlier)) and "a house, castle" not in told(
        "ink style"
    )


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("concepts: [church]\nstepz: 3\n", "stepz"),
        ("- church\n", "must hold"),
        ("concepts: [church\n", "cannot be read"),
        ("concepts: [church]\nsettings: {steps: 0}\n", "steps must be from 1"),
        ("concepts: [church]\nprompts:\n  - in the style of Ajin: Demi Human\n", "quote those with a colon"),
    ],
)
def test_a_bad_file_is_refused_in_words(tmp_path, text, told):
    (tmp_path / "10-bad.yaml").write_text(text)
    with pytest.raises(InputError, match=told):
        load_preset("bad", tmp_path)
