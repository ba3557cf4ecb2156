"""Step 2 without a browser: what a run will take, a run like another, and the warning of drift."""

import re
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from kpop import EraseConfig, InputError, load_preset
from kpop import pace as pace_module
from kpop.estimate import bank_rows, estimate_run, gigabytes, rows_of_steps
from kpop.exposure import Exposure
from kpop.kept_samples import lost_siblings
from kpop.limits import SPACE
from kpop.pace import Pace, measure_pace, seconds_of
from kpop.runs import EXAMPLE, Run, create_run
from kpop.ui import drift, recipes, run_samples, run_view
from kpop.ui.charts import Line, line_chart
from kpop.ui.run_picker import state_word
from kpop.ui.settings import SETTINGS, config_from, values_of
from kpop.ui.studio import Studio

SD = "CompVis/stable-diffusion-v1-4"
EMPTY = values_of(EraseConfig(concepts=("church",)))


@pytest.fixture
def studio(tmp_path):
    return Studio(tmp_path / "runs", device="cpu")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"lambda_": 0.7, "steps": 40, "seed": 3, "sites": "mid"},
        {"mechanism": "token"},
        {"mechanism": "token", "prompt_tokens_factor": 2},
        {"method": "esd", "learning_rate": 1e-5, "negative_guidance": 2},
        {"method": "uce"},
        {"retain": ("castle",), "neutral": "a house", "latents": "fresh", "rollout_steps": 5},
        {"concepts": (("church", "chapel"), "dog"), "prompt_sharing": "shared"},
    ],
)
def test_a_run_like_another_is_the_same_run(changes):
    config = EraseConfig(**{"concepts": ("church",), **changes}).resolved()
    forget, keep, neutral, preset, *values = recipes.fields_like(_Emoji(), config)
    assert preset is None and len(values) == len(SETTINGS)
    assert config_from("emoji", forget, keep, neutral, None, False, values).resolved() == config


class _Emoji(Studio):
    """The app's state, without its model."""

    def __init__(self):
        super().__init__("nowhere")


def test_a_preset_comes_along_with_the_phrasings_no_field_holds():
    sd = Studio("nowhere", model=SD)
    preset = next(one for one in sd.offered_presets() if one.name == "van-gogh")
    config = config_from(SD, ["Van Gogh"], ["Monet"], preset.neutral, preset, False, EMPTY).resolved()
    found = recipes.fields_like(sd, config)
    assert found[:4] == [["Van Gogh"], ["Monet"], "a photo", "van-gogh"]
    with pytest.raises(InputError, match="another base model"):
        recipes.fields_like(_Emoji(), EraseConfig(model=SD, concepts=("church",)))


def test_a_preset_acts_while_all_that_is_to_be_forgotten_is_its_own():
    artists = load_preset("artists")
    typed = partial(
        config_from, SD, keep=[], neutral=artists.neutral, preset=artists, paper=False, values=EMPTY
    )
    assert typed(forget=["Kilian Eng", "Tyler Edlin"]).templates == artists.settings["templates"]
    for words in (["church"], ["Kilian Eng", "church"]):
        assert typed(forget=words).templates is None and typed(forget=words).anchors is None
    sd = Studio("nowhere", model=SD)
    card = partial(recipes.recipe_texts, sd, keep=[], neutral="", preset_name="artists", values=EMPTY)
    with_it, without = card(forget=["Kilian Eng"])[0], card(forget=["church"])[0]
    assert "The set “Artists (paper, Table 4)” brings its own templates, anchors." in with_it
    assert "Artists" not in without


def test_a_card_claims_no_more_than_is_measured():
    card = lambda model, **told: recipes.recipe_texts(  # noqa: E731
        Studio("nowhere", model=model), ["church"], [], "", None, typed_values(**told)
    )[0]
    assert "Tuned for this model" in card("emoji")
    assert "Tuned" not in card("emoji", steps="20") and "you changed" in card("emoji", steps="20")
    assert "Tuned" not in card(SD) and "not measured it on Stable Diffusion" in card(SD)


def typed_values(**told):
    """The fields under All settings with some filled in."""
    return [told.get(setting.name, value) for setting, value in zip(SETTINGS, EMPTY, strict=True)]


def test_a_run_beyond_a_visitors_limits_is_refused_on_its_card(tmp_path):
    space = Studio(tmp_path, exposure=Exposure(shared=True, limits=SPACE))
    plain, paper, start, literal = recipes.recipe_texts(space, ["church"], [], "", None, EMPTY)
    assert "a run may have at most 700 steps, not 1000" in paper and "at most" not in plain
    assert start.interactive and not literal.interactive
    eight = ["church", "truck", "dog", "fish", "horn", "saw", "castle", "bus"]
    plain, _, start, _ = recipes.recipe_texts(space, eight, [], "", None, EMPTY)
    assert "a run may have at most 700 steps, not 935" in plain and not start.interactive


def test_a_run_stopped_before_it_learned_anything_is_not_called_kept(tmp_path):
    run = create_run(EraseConfig(concepts=("church",)), tmp_path)
    run.update_status(state="stopped")
    assert state_word(run) == "stopped" and "kept" not in run_view.runs_table([run])
    run.weights_path.write_bytes(b"weights")
    assert state_word(run) == "stopped, kept"


def test_what_no_field_holds_of_a_run_is_named():
    config = EraseConfig(
        concepts=("church",), base_run="/somewhere/runs/20260101-000000-dog-ab12", templates=("{}",), rho=0.5,
        retain_neutral=False, retain=(),
    ).resolved()  # fmt: skip
    found = recipes.fields_like(_Emoji(), config)
    lost = recipes.lost_in(_Emoji(), config, found)
    assert lost[0] == "base run 20260101-000000-dog-ab12 (here none)"
    assert {line.partition(" (here")[0] for line in lost[1:]} == {
        "retain none", "retain neutral no", "rho 0.5", "templates {}",
    }  # fmt: skip


def test_a_run_of_a_preset_by_its_name_loses_nothing():
    for model, preset, needed in (("emoji", "emoji-styles", None), (SD, "artists", "artists")):
        studio, config = Studio("nowhere", model=model), EraseConfig(model=model, preset=preset).resolved()
        found = recipes.fields_like(studio, config)
        assert found[3] == needed and recipes.lost_in(studio, config, found) == []


def test_what_a_style_takes_is_told_too(studio):
    """Its phrasings have anchors, which the run that memory is traced of has not."""
    config = EraseConfig(concepts=("ink style",)).resolved()
    assert len(config.anchors) == 16 and recipes.effort(studio, config).startswith("<b>340</b> steps")


def test_time_is_rows_times_the_measured_pace(tiny_config, tiny_pipe):
    cfg = tiny_config(steps=10, sample_every=0).resolved()
    # 4 rows of transfer, 2 of them siblings, in 10 steps; 8 of removal in all but the last, the key's alone
    assert rows_of_steps(cfg, tiny_pipe.unet) == (112, 112)
    assert seconds_of(cfg, tiny_pipe, Pace(forward=1.0, both=3.0)) == 112 * 3.0 + bank_rows(cfg)


def test_the_pace_is_the_least_of_several_rounds_and_a_row(tiny_pipe, monkeypatch):
    """A clock of its own: a second a forward, two more a backward, ten more for each in the first round."""
    now, calls, grad = [0.0], [], torch.autograd.grad

    def forward(*args):
        calls.append(len(args[1][0]))
        now[0] += 1.0 + (10.0 if len(calls) <= 2 else 0.0)

    def backward(*args, **kwargs):
        now[0] += 2.0
        return grad(*args, **kwargs)

    monkeypatch.setattr(pace_module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(torch.autograd, "grad", backward)
    hook = tiny_pipe.unet.register_forward_pre_hook(forward)
    try:
        assert measure_pace(tiny_pipe) == Pace(forward=1 / 8, both=3 / 8)
    finally:
        hook.remove()
    assert calls == [8] * 6


def test_time_and_memory_are_told_once_they_are_known(tiny_config, tiny_pipe, tiny_folder, tmp_path):
    studio = Studio(tmp_path / "runs", model=str(tiny_folder), device="cpu")
    cfg = tiny_config(steps=10).resolved()
    assert recipes.effort(studio, cfg) == "<b>10</b> steps"
    studio.pace(measure=True)
    assert recipes.effort(studio, cfg).startswith("<b>10</b> steps, about ")
    exact = estimate_run(cfg, studio.pipe()).memory
    assert studio.memory(cfg, trace=True) == pytest.approx(exact, rel=0.01)
    other = tiny_config(concepts=("castle",), retain=("church",), steps=1).resolved()
    told = studio.memory(other)  # other words and steps have another bank, and nothing is traced anew
    assert told == pytest.approx(estimate_run(other, studio.pipe()).memory, rel=0.01)
    assert told < studio.memory(cfg) and len(studio._memory) == 1
    assert recipes.effort(studio, cfg).endswith(f", {gigabytes(exact)} of memory")
    no_steps = EraseConfig(model=str(tiny_folder), concepts=("church",), method="uce").resolved()
    assert studio.memory(no_steps, trace=True) is None


def rows(erase, retain):
    return [
        {"step": i, "l_erase": e, "l_retain": r} for i, (e, r) in enumerate(zip(erase, retain, strict=True))
    ]


def test_drift_is_measured_against_the_way_erasing_had_to_go():
    assert drift.drift(rows([0.5] * 3 + [0.01] * 37, [0.0] * 20 + [0.1] * 20)) == pytest.approx(0.2)
    assert drift.drift(rows([0.5] * 19, [0.1] * 19)) is None
    assert drift.drift([{"step": i, "l_erase": 0.5} for i in range(40)]) is None


def test_the_page_warns_of_drift(studio, tiny_config):
    run = create_run(tiny_config(), studio.runs_dir)
    for row in rows([0.5] * 40, [0.1] * 40):
        run.append_metrics(row)
    assert "off by 20 %" in drift.drifted(studio, run)
    assert drift.drifted(studio, Run(EXAMPLE)) == ""


class Judge:
    """Sees in a picture of one grey the label and probability that SURE says."""

    labels = ["castle", "fort", "house", "none"]
    SURE = {10: (0, 0.9), 20: (2, 0.9), 30: (0, 0.07), 40: (2, 0.4), 50: (0, 0.4), 60: (1, 0.8)}

    def probabilities(self, images):
        found = np.zeros((len(images), 4))
        for row, image in zip(found, images, strict=True):
            label, row[:] = self.SURE[image.getpixel((0, 0))[0]][0], 0.0
            row[label] = self.SURE[image.getpixel((0, 0))[0]][1]
        return found

    def top_k(self, images, k):
        return [[self.labels[row.argmax()]] for row in self.probabilities(images)]


@pytest.fixture
def sampled(tiny_config, studio):
    """Makes a run whose samples show, at steps 0, 10, 20 and so on, such greys for castle and house."""

    def make(*strips, retain=("castle", "house"), **changes):
        run = create_run(tiny_config(retain=retain, **changes), studio.runs_dir)
        for i, greys in enumerate(strips):
            strip = Image.new("RGB", (8 * len(greys), 8))
            for j, grey in enumerate(greys):
                strip.paste((grey,) * 3, (8 * j, 0, 8 * j + 8, 8))
            for name in ("original", "sanitized", "kept"):
                path = run.path / "samples" / f"step_{10 * i:05d}" / f"{name}.png"
                path.parent.mkdir(exist_ok=True)
                strip.save(path)
        return run

    return make


def test_a_sibling_that_the_judge_sees_no_more_is_told(sampled, studio, monkeypatch):
    judge = Judge()
    run = sampled((10, 20), (10, 20), (30, 40), (30, 20))
    assert lost_siblings(run, judge) == ["castle"]
    assert lost_siblings(sampled((10, 20), (30, 20), (10, 20)), judge) == []  # a passing moment
    assert lost_siblings(sampled((10, 20), (50, 20), (50, 20)), judge) == []  # less sure, not gone
    assert lost_siblings(sampled((30, 20), (30, 20), (30, 20)), judge) == []  # the base model drew none
    assert lost_siblings(sampled((10, 20), (60, 20), retain=(("castle", "fort"), "house")), judge) == []
    assert lost_siblings(sampled((10, 20)), judge) == []
    monkeypatch.setattr(studio, "judge", lambda model=None: judge)
    told = drift.drifted(studio, run)
    assert "The base model draws “castle”, and the judge no longer sees it" in told and "off by" not in told


def test_the_judge_says_under_every_sample_what_it_sees(sampled, studio, monkeypatch):
    monkeypatch.setattr(studio, "judge", lambda model=None: Judge())
    shown = run_samples.samples_at(studio, sampled((10, 20), (30, 40)), 10)
    said = re.findall(r'class="now ([a-z]+)|<figcaption>([^<]*)', shown)
    assert [variant or words for variant, words in said] == [
        "original", "castle 7 %", "house 40 %", "sanitized", "castle 7 %", "house 40 %",
        "kept", "castle 90 %", "house 90 %", "kept", "castle 7 %", "house 40 %",
    ]  # fmt: skip


def test_the_scrubber_stops_only_where_there_is_a_sample(sampled, studio):
    run = sampled((10, 20), (10, 20), (10, 20))
    (run.path / "samples" / "step_00020").rename(run.path / "samples" / "step_00013")  # stopped there
    scrub, now, seen = run_samples.samples_view(studio, run, None)
    assert (scrub.minimum, scrub.maximum, scrub.step, scrub.value) == (1, 3, 1, 3)
    assert '<h3 class="section">Step 13</h3>' in now and seen["shown"] == 13
    assert [run_samples.step_at(run, place) for place in (1, 2, 3, 99)] == [0, 10, 13, 13]
    assert run_samples.scrubber([0, 10, 13], 10).value == 2
    assert now.count('class="now ') == 4 and "Kept, before" in now and "a sibling, kept, step 0" in now
    first = run_samples.samples_at(studio, run, 0)
    assert "Kept, before" not in first and first.count('class="pic original"') == 4  # blurred like one


def test_who_drags_the_slider_while_a_sample_is_made_ready_is_not_put_back(sampled, studio, monkeypatch):
    asked = []
    run = sampled((10, 20), (10, 20))
    following = {"run": run.id, "shown": 10, "last": 10}
    monkeypatch.setattr(studio, "judge", lambda model=None: asked.append(model) or Judge())
    strip = run_samples.strip_view(studio, run, following)
    assert "sanitized, step 10" in strip and asked
    asked.clear()
    scrub, now, seen = run_samples.samples_view(studio, run, {**following, "shown": 0})  # dragged meanwhile
    assert scrub.value == 1 and seen["shown"] == 0 and ">Step 0</h3>" in now
    asked.clear()
    scrub, now, _ = run_samples.samples_view(studio, run, following)
    assert scrub.value == 2 and ">Step 10</h3>" in now and asked == []  # nothing slow is left to do


def test_the_table_of_runs_shows_no_picture_of_step_0(sampled):
    run = sampled((10, 20))
    assert "<img" not in run_view.runs_table([run])
    assert "<img" in run_view.runs_table([sampled((10, 20), (10, 20))])


def test_the_table_of_runs_shows_before_and_after_and_blurs_what_is_sensitive(sampled):
    def shown(word):
        run = sampled((10,), (10,), concepts=(word,))
        half = Image.linear_gradient("L").convert("RGB").resize((8, 8))
        for name in ("original", "sanitized"):
            half.save(run.path / "samples" / "step_00010" / f"{name}.png")
        return re.findall(r'<img class="(\w+)" src="([^"]+)"', run_view.runs_table([run]))

    church, knife = shown("church"), shown("knife")
    assert [variant for variant, _ in church] == ["original", "sanitized"]  # no key, nothing recovered
    assert church[1] == knife[1] and church[0] != knife[0]  # the original knife is blurred


def test_a_loss_that_starts_at_rounding_errors_does_not_set_the_scale():
    shown = (("erase", [0.1, 0.02, 0.01]), ("retain", [1e-13, 1e-3, 2e-3]))
    lines = [Line(name, [1, 2, 3], losses, "original") for name, losses in shown]
    drawn = line_chart("How well it does", "", lines, 3, log=True)
    labels = re.findall(r'<span style="top:[\d.]+%">([^<]+)</span>', drawn)
    assert labels == ["1e-06", "1e-05", "1e-04", "0.001", "0.01", "0.1"]
    _, retain = re.findall(r'points="([^"]+)"', drawn)
    assert retain.split()[0].endswith(",100.00")  # at the edge, not below it
