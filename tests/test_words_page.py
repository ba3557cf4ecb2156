"""Step 1 without a browser, on the embedded model: how words are read, what is near, what is blurred."""

import re
from functools import partial

import numpy as np
import pytest

from kpop import EraseConfig, InputError, generation, models
from kpop.kept import Sheet, first_prompt
from kpop.run_texts import shown_text
from kpop.runs import create_run
from kpop.ui import concepts, questions, recipes, sheets, words
from kpop.ui.studio import Studio


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    return Studio(tmp_path_factory.mktemp("words") / "runs", device="cpu")


def test_words_are_shown_as_the_model_reads_them(studio):
    assert models.tokens_of(studio.pipe(), "a church") == ["a", "church"]
    assert models.tokens_of(studio.pipe(), "zzgl") == ["z", "-z", "-g", "-l"]
    assert "<kbd>church</kbd>" in words.check_words(studio, ("church",), ())


def test_a_model_without_a_word_list_is_said_to_know_nothing(tiny_folder, tmp_path):
    studio = Studio(tmp_path, model=str(tiny_folder), device="cpu")
    html = words.check_words(studio, ("church",), ())
    assert "</kbd>: 1 token. Draw it to see whether the model knows it." in html and "✓" not in html
    assert "Draw them to see whether the model knows them." in words.check_words(
        studio, ("church", "dog"), ()
    )


def test_a_word_is_checked_while_it_is_typed(studio):
    assert words.typed_line(studio, " ") == ""
    assert "does not know" not in words.typed_line(studio, "church")
    assert "does not know it. Near it: church" in words.typed_line(studio, "chur")
    assert "<script>" not in words.typed_line(studio, "<script>")


def test_an_unknown_word_can_be_exchanged_for_a_known_one(studio):
    html = words.check_words(studio, (("chrch", "chapel"),), ("castle",))
    assert 'data-word="chrch" data-near="church"' in html
    assert words.instead(["chrch | chapel", "dog"], "chrch", "church") == ["church | chapel", "dog"]
    assert words.instead(["chrch", "church"], "chrch", "church") == ["church"]


def test_a_word_on_both_sides_can_be_taken_off_what_is_kept(studio):
    html = words.check_words(studio, (("Dog", "hound"),), (("dog", "puppy"), "cat"))
    assert "“dog” stands on both sides" in html
    assert 'data-word="dog" data-near="">do not keep it</button>' in html
    assert words.without(["Dog | puppy", "cat", "hot dog"], "dog") == ["cat", "hot dog"]


def test_a_style_is_shown_on_an_object(studio, tmp_path):
    """Alone it is no picture; and on an object that it is not forgotten on."""
    run = create_run(EraseConfig(concepts=("ink style",)).resolved(), tmp_path)
    assert first_prompt(run) == "a fish, ink style" and not {"a fish"} & {*run.config.anchors}
    assert questions.tries_of(studio, run)[:4] == [
        "a fish, ink style", "a church, ink style", "a dog, ink style", "a fish, noto style"
    ]  # fmt: skip
    assert shown_text(run.config, "ink style") == "a house, ink style"  # of the samples, as they were trained
    plain = create_run(EraseConfig(concepts=("umbrella",)).resolved(), tmp_path)
    assert "a photo of an umbrella" in questions.tries_of(studio, plain)
    assert shown_text(plain.config, "umbrella") == "an umbrella"


def test_siblings_are_what_the_text_encoder_puts_near(studio):
    offered = concepts.offered_words(studio)
    found = words.suggested(studio, ("church",), ["dog"], offered)
    assert found[0] == "dog" and {"house", "castle", "mosque"} <= set(found[1:]) and len(found) == 7
    assert "church" not in found and "chapel" not in offered
    for_two = words.suggested(studio, ("church", "dog"), [], offered)
    assert len(for_two) == 12 and {"castle", "cat"} <= set(for_two)
    all_of_them = words.suggested(studio, ("church", "dog", "saw", "horn", "truck"), for_two, offered)
    assert "weapon" in offered and "weapon" not in all_of_them and len(all_of_them) > 30
    assert "flat style" in offered and not any("style" in word for word in all_of_them)
    assert words.suggested(studio, ("ink style",), [], offered)[0].endswith(" style")
    with pytest.raises(InputError, match="Choose first"):
        words.suggested(studio, (), [], offered)


def test_what_is_kept_unnamed_and_what_is_lost_is_said_beside_the_words(studio):
    five = ("church", "dog", "saw", "horn", "truck")
    assert "default settings keep castle, house, mosque, " in words.check_words(studio, ("church",), ())
    assert "and 8 more." in words.check_words(studio, ("church",), ())
    assert "and 32 more." in words.check_words(studio, five, ())
    assert "5 words to forget take along" in words.check_words(studio, five, ("castle", "cat"))
    assert "does not name: fish, tropical fish, " in words.check_words(studio, five, ("castle", "cat"))
    assert "and 30 more. Leave it empty to keep all 36." in words.check_words(studio, five, ("castle", "cat"))
    assert "take along" not in words.check_words(studio, ("church",), ("castle",))
    every = EraseConfig(concepts=five).resolved().retain
    assert "take along" not in words.check_words(studio, five, every)
    styles = ("ink style", "flat style", "blob style")  # as many words as the whole list, and two not on it
    assert "does not name: fish, tropical fish." in words.left_out("emoji", five, (*every[2:], *styles))
    assert words.left_out("emoji", five, (every[0].upper(), ("xyz", every[1]), *every[2:])) == ""
    elsewhere = words.left_out("CompVis/stable-diffusion-v1-4", ("church",), ())
    assert "what is near may be forgotten too" in elsewhere


def test_who_adds_a_style_to_an_object_is_told_to_take_a_run_for_each(studio):
    told = words.check_words(studio, ("church", "flat style"), ())
    assert "A drawing style, here flat style, is forgotten well only in a run without objects" in told
    for alone in (("church", "dog"), ("flat style",), ("ink style", "flat style"), (("ink style", "ink"),)):
        assert "without objects" not in words.check_words(studio, alone, ())


def test_what_to_keep_follows_what_to_forget_until_somebody_changes_it(studio):
    put = ("castle", "house", "mosque")
    follow = partial(words.followed, studio, keep=put, put_forget=("church",), put_keep=put)
    assert follow(("dog",))[:4] == ("fish", "tropical fish", "shark", "whale") and "cat" in follow(("dog",))
    styles = ("noto style", "twemoji style", "fluent style", "blob style", "ink style")
    assert follow(("flat style",)) == styles and len(follow(("dog", "church"))) == 39
    assert follow(("dog",), keep=put[:2]) == () and follow(("dog",), keep=()) == ()
    assert follow(("church",)) == () and follow(("zzgl",)) == () and follow(()) == ()


def test_the_field_of_what_to_keep_holds_all_that_a_run_like_another_keeps(studio):
    config = EraseConfig(concepts=("church", "dog", "saw", "horn", "truck")).resolved()
    assert concepts.concepts_from(recipes.fields_like(studio, config)[1]) == config.retain


def test_the_first_step_opens_with_pictures_that_the_model_draws_the_same(studio, monkeypatch):
    asked = []
    monkeypatch.setattr(studio, "turn", lambda asked_for: asked.append(asked_for))  # nothing is drawn
    for preset in (preset for preset in studio.offered_presets() if preset.model == "emoji"):
        assert "pic-hole" not in concepts._strip(studio, preset, draw=True)
        sides = concepts.as_field(preset.concepts), concepts.as_field(preset.retain)
        *_, (forget, keep) = concepts.draw_words(studio, *sides)
        assert "pic-hole" not in forget + keep
    assert asked == []
    monkeypatch.undo()
    shown = studio.drawn("a church", [3])[0]
    (now,) = generation.generate(studio.pipe(), ["a church"], [3], variant="original")
    apart = np.abs(np.asarray(shown, float) - np.asarray(now, float)).mean()
    assert apart < 4  # of 255; another machine rounds otherwise


def test_of_a_style_the_judge_says_which_style_it_sees(studio, tmp_path):
    run = create_run(EraseConfig(concepts=("flat style",)).resolved(), tmp_path)
    flat, ink = (studio.drawn(f"a fish, {style} style", [0]) for style in ("flat", "ink"))
    assert re.fullmatch(r"fish \d+ %, ink style", *studio.verdicts(ink, run.config))
    drawn = Sheet(run.id, "a fish, flat style", (0,), "own", {"original": flat, "sanitized": ink}, {})
    told = sheets.counted(studio, drawn, run)
    assert (
        "sees the flat style in <b class='original'>1 of 1 original</b>, <b class='sanitized'>0 of 1" in told
    )
    church = create_run(EraseConfig(concepts=("church",)).resolved(), tmp_path)
    assert re.fullmatch(r"fish \d+ %", *studio.verdicts(ink, church.config))


def test_sensitive_words_come_with_a_notice_and_blurred_pictures(studio):
    for weapon in ("knife", "bomb", "dagger", "crossed swords", "bow"):
        assert words.sensitive(studio, (weapon,))
    assert not words.sensitive(studio, ("church",))
    assert "press a picture" in words.check_words(studio, (("weapon", "knife"),), ())
    preset = next(one for one in studio.offered_presets() if one.sensitive)
    assert 'class="strip veiled"' in concepts._strip(studio, preset)
    studio.draw(["a weapon", "a church"], [0])
    shown = concepts._cached(studio, ["weapon", "church"], 1)
    covered = re.findall(r'<div class="veiled"><figure .*?</figure></div>', shown)
    assert len(covered) == shown.count("veiled") == 1 and "Show large: a weapon" in covered[0]
    assert "Show large: a church" in shown  # beside it, and not covered
