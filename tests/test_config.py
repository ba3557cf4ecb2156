"""EraseConfig and GenerationConfig: what is accepted, refused in words, resolved, and written as JSON."""

import json
import subprocess
import sys

import pytest

from kpop import EraseConfig, GenerationConfig, InputError
from kpop.emoji.world import THINGS


def test_importing_kpop_loads_neither_torch_nor_gradio():
    code = (
        "import sys, kpop; kpop.EraseConfig(concepts=('x',)).resolved();"
        "print({'torch', 'gradio'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_word_no_preset_names_is_enough():
    cfg = EraseConfig(concepts=("zeppelin",)).resolved()
    assert cfg.concepts == ("zeppelin",)
    assert None not in {
        value
        for name, value in vars(cfg).items()
        if name not in ("base_run", "preset", "rho", "rho_p", "seed")
    }


def test_json_round_trip_spells_lambda():
    cfg = EraseConfig(concepts=("church", ("gun", "pistol")), lambda_=0.7, retain=("castle",)).resolved()
    data = json.loads(json.dumps(cfg.to_dict()))
    assert data["lambda"] == 0.7 and "lambda_" not in data
    assert data["concepts"] == ["church", ["gun", "pistol"]]
    assert EraseConfig.from_dict(data) == cfg


def test_own_values_outrank_the_preset_and_the_preset_outranks_the_model():
    cfg = EraseConfig(concepts=("church",), preset="paper", steps=7).resolved()
    assert (cfg.steps, cfg.learning_rate, cfg.prompt_tokens_factor, cfg.sites) == (7, 1e-5, 10, "mid")
    assert (cfg.lambda_, cfg.latents, cfg.batch_size, cfg.retain_neutral) == (0.1, "fresh", 1, False)


def test_resolving_twice_changes_nothing():
    cfg = EraseConfig(concepts=("church",)).resolved()
    assert cfg.resolved() == cfg


def test_siblings_are_retained_and_never_what_is_erased_nor_its_other_names():
    retain = EraseConfig(concepts=("church",)).resolved().retain
    assert {"castle", "house"} <= set(retain) and 8 <= len(retain) <= 12
    assert "church" not in EraseConfig(concepts=("chapel",)).resolved().retain
    assert not {"knife", "bomb"} & set(EraseConfig(concepts=("weapon",)).resolved().retain)
    assert "church" not in EraseConfig(concepts=("Church",)).resolved().retain


def test_with_several_concepts_the_list_of_siblings_leaves_nothing_out():
    every = {thing.word for thing in THINGS}
    for words in (("church", "dog"), ("church", "dog", "saw", "horn", "truck")):
        assert every - set(EraseConfig(concepts=words).resolved().retain) == set(words)
    two_names = EraseConfig(concepts=(("church", "chapel"),)).resolved()
    assert len(two_names.retain) == 12  # one concept
    named = EraseConfig(concepts=("church", "dog"), retain=("castle",)).resolved()
    assert named.retain == ("castle",)  # who names a list gets that list


def test_additive_takes_one_token_per_text_token():
    assert (
        EraseConfig(concepts=("church",), mechanism="additive", preset="paper")
        .resolved()
        .prompt_tokens_factor
        == 1
    )
    with pytest.raises(InputError, match="prompt_tokens_factor must be 1"):
        EraseConfig(concepts=("church",), mechanism="additive", prompt_tokens_factor=3)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"concepts": ()}, "at least one concept"),
        ({"concepts": ("",)}, "empty text"),
        ({"concepts": ("a\x00b",)}, "cannot be printed"),
        ({"concepts": ("x" * 201,)}, "too long"),
        ({"concepts": (" ".join("word" for _ in range(21)),)}, "too long"),
        ({"concepts": ("church", "Church")}, "twice"),
        ({"concepts": ("church",), "retain": ("castle", "CHURCH")}, "both to be erased and to be retained"),
        ({"concepts": (("gun", "pistol"),), "retain": ("pistol",)}, "both to be erased"),
        ({"concepts": ("church",), "neutral": "church"}, "neutral"),
        ({"concepts": (("church", "chapel"),), "neutral": "a photo of a Chapel"}, "names 'chapel'"),
        ({"concepts": ("church",), "steps": 0}, "steps must be from 1 to 100000"),
        ({"concepts": ("church",), "steps": 100_001}, "steps must be from 1 to 100000"),
        ({"concepts": ("church",), "steps": 2.5}, "whole number"),
        ({"concepts": ("church",), "steps": True}, "whole number"),
        ({"concepts": ("church",), "learning_rate": float("nan")}, "learning_rate must be a number"),
        ({"concepts": ("church",), "lambda_": -1}, "lambda must be"),
        ({"concepts": ("church",), "rho": 0}, "rho must be above 0"),
        ({"concepts": ("church",), "method": "mace"}, "method must be one of kpop"),
        ({"concepts": ("church",), "mechanism": "magic"}, "mechanism must be one of concat, additive"),
        ({"concepts": ("church",), "mechanism": "token", "sites": "mid"}, "leave sites out"),
        ({"concepts": ("church",), "mechanism": "token", "prompt_tokens_factor": 33}, "at most 32 words"),
        ({"concepts": ("church",), "mechanism": "amortized", "separate_kv": True}, "separate_kv"),
        ({"concepts": ("church",), "mechanism": "amortized", "decoy_share": 0.5}, "same for every text"),
        ({"concepts": ("church",), "mechanism": "amortized", "kept_key_share": 0.5}, "same for every text"),
        ({"concepts": ("church",), "key_share": 1}, "no step in which the weights forget"),
        ({"concepts": ("church",), "latents": "fresh", "rollout_steps": 1}, "sees noise alone"),
        ({"concepts": ("church",), "latents": "fresh", "erase_on": "neutral"}, "never see the concept"),
        (
            {"concepts": ("church",), "method": "uce", "gradient_checkpointing": True},
            "no use for gradient",
        ),
        ({"concepts": ("church",), "method": "uce", "near_share": 0.1}, "no use for near_share"),
        ({"concepts": ("church",), "precision": "fp16"}, "precision must be one of"),
        ({"concepts": ("church",), "templates": ("a {} {}",)}, "once"),
        ({"concepts": ("church",), "templates": ("{0.__class__}",)}, "once"),
        ({"concepts": ("church",), "anchors": {"a": 1}}, "anchors must be a list"),
        ({"concepts": ("church",), "templates": ("{}",), "anchors": ("a house", "")}, "give one each"),
        ({"concepts": ("church",), "anchors": ("a church",)}, "'a church' names 'church'"),
        ({"concepts": ("church",), "separate_kv": True, "mechanism": "additive"}, "separate_kv"),
        ({"concepts": ("church",), "retain_neutral": "yes"}, "true or false"),
        ({"concepts": ("church",), "retain_neutral": 1}, "true or false"),
        ({"concepts": ("church",), "gradient_checkpointing": 1}, "true or false"),
        ({"concepts": ("church",), "steps": 16**4000}, "not this int"),
        ({"concepts": ("church",), "learning_rate": 10**400}, "learning_rate must be from 0 to 1"),
    ],
)
def test_what_cannot_be_used_is_refused_in_words(fields, told):
    with pytest.raises(InputError, match=told):
        EraseConfig(**fields)


def test_a_value_that_takes_gigabytes_to_write_is_refused_at_once():
    value = ["x"]
    for _ in range(12):
        value = [value] * 9  # 9^12 words, as YAML writes them in a line each
    with pytest.raises(InputError, match="must be a text, not") as refused:
        EraseConfig(concepts=(value,))
    assert len(str(refused.value)) < 1000


def test_a_neutral_text_may_hold_an_erased_word_inside_another():
    assert EraseConfig(concepts=("car",), neutral="a carpet").neutral == "a carpet"


def test_unknown_keys_and_presets_are_refused():
    with pytest.raises(InputError, match="Unknown setting 'stepz'"):
        EraseConfig.from_dict({"concepts": ["church"], "stepz": 3})
    with pytest.raises(InputError, match="no preset 'nonsense'"):
        EraseConfig(concepts=("church",), preset="nonsense").resolved()
    with pytest.raises(InputError, match="JSON object"):
        EraseConfig.from_dict(["church"])


def test_generation_config_is_checked_and_resolved():
    cfg = GenerationConfig(guidance_scale=6).resolved("emoji")
    assert cfg.guidance_scale == 6.0 and cfg.steps == 25 and cfg.prompt_branch in ("cond", "both")
    assert GenerationConfig.from_dict(cfg.to_dict()) == cfg
    for fields, told in (
        ({"height": 65}, "multiple of 8"),
        ({"scheduler": "x"}, "scheduler"),
        ({"steps": 0}, "steps"),
    ):
        with pytest.raises(InputError, match=told):
            GenerationConfig(**fields)


def test_several_concepts_share_more_steps():
    def steps(*concepts, **more):
        return EraseConfig(concepts=concepts, **more).resolved().steps

    assert steps("church") == steps(("church", "chapel")) == 340  # synonyms are one concept
    assert steps("church", "dog") == 425
    assert steps("church", "dog", "horn", "truck", "fish") == 680
    assert steps("church", "dog", steps=7) == 7
    assert steps("church", "dog", preset="paper") == 1000
    assert steps("church", "dog", method="uce") == 1


def test_a_method_without_a_key_may_walk_fresh_neutral_trajectories():
    cfg = EraseConfig(concepts=("church",), method="ca", latents="fresh").resolved()
    assert (cfg.latents, cfg.erase_on) == ("fresh", "neutral")
