"""Step 2 without a browser: what a run will take, a run like another, and the warning of drift."""

import pytest

from kpop import EraseConfig, InputError
from kpop.estimate import bank_rows, estimate_run, gigabytes, rows_of_steps
from kpop.pace import Pace, measure_pace, seconds_of
from kpop.runs import EXAMPLE, Run, create_run
from kpop.ui import recipes, run_view
from kpop.ui.settings import SETTINGS, config_from, values_of
from kpop.ui.studio import Studio

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
    preset = next(one for one in _Emoji().offered_presets() if one.name == "emoji-styles")
    config = config_from("emoji", ["ink style"], ["flat style"], "", preset, False, EMPTY).resolved()
    found = recipes.fields_like(_Emoji(), config)
    assert found[:4] == [["ink style"], ["flat style"], "", "emoji-styles"]
    with pytest.raises(InputError, match="another base model"):
        recipes.fields_like(
            _Emoji(), EraseConfig(model="CompVis/stable-diffusion-v1-4", concepts=("church",))
        )


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
    config = EraseConfig(preset="emoji-styles").resolved()
    found = recipes.fields_like(_Emoji(), config)
    assert found[3] == "emoji-styles" and recipes.lost_in(_Emoji(), config, found) == []


def test_time_is_rows_times_the_measured_pace(tiny_config, tiny_pipe):
    cfg = tiny_config(steps=10, sample_every=0).resolved()
    # 4 rows of transfer, 2 of them siblings, in 10 steps; 8 of removal in all but the last, the key's alone
    assert rows_of_steps(cfg, tiny_pipe.unet) == (112, 112)
    assert seconds_of(cfg, tiny_pipe, Pace(forward=1.0, both=3.0)) == 112 * 3.0 + bank_rows(cfg)
    pace = measure_pace(tiny_pipe)
    assert 0 < pace.forward < pace.both


def test_time_and_memory_are_told_once_they_are_known(tiny_config, tiny_pipe, tiny_folder, tmp_path):
    studio = Studio(tmp_path / "runs", model=str(tiny_folder), device="cpu")
    cfg = tiny_config(steps=10).resolved()
    assert recipes.effort(studio, cfg) == "<b>10</b> steps"
    studio.pace(measure=True)
    assert recipes.effort(studio, cfg).startswith("<b>10</b> steps, about ")
    exact = estimate_run(cfg, studio.pipe()).memory
    assert studio.memory(cfg, trace=True) == pytest.approx(exact, rel=0.01)
    other = tiny_config(concepts=("castle",), retain=("church",), steps=99).resolved()
    assert studio.memory(other) == studio.memory(cfg)  # another word, not another size: nothing is traced
    assert recipes.effort(studio, cfg).endswith(f", {gigabytes(exact)} of memory")
    no_steps = EraseConfig(model=str(tiny_folder), concepts=("church",), method="uce").resolved()
    assert studio.memory(no_steps, trace=True) is None


def rows(erase, retain):
    return [
        {"step": i, "l_erase": e, "l_retain": r} for i, (e, r) in enumerate(zip(erase, retain, strict=True))
    ]


def test_drift_is_measured_against_the_way_erasing_had_to_go():
    assert run_view.drift(rows([0.5] * 3 + [0.01] * 37, [0.0] * 20 + [0.1] * 20)) == pytest.approx(0.2)
    assert run_view.drift(rows([0.5] * 19, [0.1] * 19)) is None
    assert run_view.drift([{"step": i, "l_erase": 0.5} for i in range(40)]) is None


def test_the_page_warns_of_drift(tmp_path, tiny_config):
    run = create_run(tiny_config(), tmp_path)
    for row in rows([0.5] * 40, [0.1] * 40):
        run.append_metrics(row)
    assert "off by 20 %" in run_view.drifted(run)
    assert run_view.drifted(Run(EXAMPLE)) == ""
