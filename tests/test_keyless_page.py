"""The page's functions, without a browser, for runs whose method leaves no key; and the commands."""

import dataclasses

import pytest

from kpop import InputError, cli, train
from kpop.example import make_example
from kpop.ui import compare, http_api, recipes, run_samples, run_view, sheets, watching
from kpop.ui.compare_views import SLIDER, skeleton
from kpop.ui.run_picker import has_result, label
from kpop.ui.settings import SETTINGS, config_from
from kpop.ui.studio import Studio


def typed(**values):
    """What stands in the fields of "All settings"."""
    assert set(values) <= {setting.name for setting in SETTINGS}
    return [values.get(setting.name, "") for setting in SETTINGS]


@pytest.fixture(scope="module", params=["esd", "sld"])
def run(request, tiny_config, tiny_folder, tiny_pipe, tmp_path_factory):
    cfg = tiny_config(method="esd", steps=2, sample_every=1)
    if request.param == "sld":
        cfg = dataclasses.replace(
            cfg, method="sld", steps=None, batch_size=None, learning_rate=None, rollout_steps=None
        )
    place = tmp_path_factory.mktemp("keyless")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KPOP_CACHE", str(place / "cache"))
        return train(cfg, place / "runs", pipe=tiny_pipe)


@pytest.fixture
def studio(run, tiny_folder):
    return Studio(run.path.parent, model=str(tiny_folder), device="cpu")


def test_the_run_view_shows_it(run, studio):
    assert has_result(run) and run.method.title in label(run)
    shown = [*run_view.progress(studio, run), run_samples.strip_view(studio, run, None)]
    shown += run_samples.samples_view(studio, run, None)
    text = " ".join(part for part in shown if isinstance(part, str))
    assert f"church, by {run.method.title}" in text and "Recovered" not in text and "Sanitized" in text
    assert "The key meets" not in text
    assert http_api.told(studio, run)["config"]["method"] == run.config.method


def test_compare_shows_two_rows(run, studio):
    prompt, key, chips, rival, passphrase = compare.fields_of(studio, run.id)
    assert passphrase.visible is False
    assert prompt == "a church" and [value for _, value in rival.choices] == [""]
    assert [value for _, value in key.choices] == ["own"]
    drawn = sheets.draw_sheet(studio, run, "a church", [0, 1], "own")
    assert list(drawn.images) == ["original", "sanitized"]
    found = sheets.saved_sheet(run, "a church", [0, 1])
    assert list(found.images) == list(drawn.images)
    html, slider, hover, _, pair, seeds, _ = compare.show(studio, (found,), "sanitized|recovered", SLIDER)
    assert "Sanitized" in html and "Recovered" not in html and hover == "" and len(slider) == 2
    assert pair.value == "original|sanitized" and [value for _, value in seeds.choices] == ["0", "1"]
    assert "recovered" not in skeleton(run.method.variants, [0, 1])


def test_attribution_watches_two_variants(run, studio):
    watched = watching.watch(studio, run, "a church", 0)
    assert [maps.variant for maps in watched.variants] == ["original", "sanitized"]
    html = watching.maps_html(watched, "church", "all", "all", "difference", "light")
    assert 'rows original, sanitized"' in html
    assert "key" not in watching.sentence(list(watched.variants), "church", None)


def test_a_method_is_chosen_among_the_settings():
    cfg = config_from("emoji", ["church"], [], "", None, False, typed(method="esd", steps="7"))
    assert (cfg.method, cfg.steps, cfg.resolved().negative_guidance) == ("esd", 7, 1.0)
    assert config_from("emoji", ["church"], [], "", None, True, typed(method="uce")).resolved().steps == 1
    with pytest.raises(InputError, match="ESD has no use for lambda"):
        config_from("emoji", ["church"], [], "", None, False, typed(method="esd", lambda_="0.3"))


def test_a_presets_values_that_a_method_has_no_use_for_are_left_out():
    from kpop import load_preset

    preset = load_preset("nudity")
    cfg = config_from("emoji", ["nudity"], [], "", preset, False, typed(method="uce"))
    assert preset.settings["trainable"] == "noxattn" and cfg.resolved().trainable == "kv"
    assert config_from("emoji", ["nudity"], [], "", preset, False, typed(method="esd")).trainable == "noxattn"


@pytest.mark.parametrize(
    ("method", "said"), [("esd", "ESD"), ("uce", "done at once"), ("kpop", "the key brings")]
)
def test_the_recipe_says_what_the_method_does(studio, method, said):
    assert said in recipes.recipe_texts(studio, ["church"], [], "", None, typed(method=method))[0]


def test_commands_leave_the_recovered_variant_out(run, tmp_path, capsys):
    common = ["--runs", str(run.path.parent), "--device", "cpu", "--run", run.id, "--steps", "2"]
    sheet = tmp_path / "sheet.png"
    assert cli.main(["compare", *common, "--prompts", "a church", "--out", str(sheet)]) == 0
    assert sheet.is_file()
    assert cli.main(["attribute", *common, "--prompt", "a church", "--out", str(tmp_path / "maps")]) == 0
    capsys.readouterr()
    asked = ["generate", *common, "--prompts", "a church", "--variant", "recovered", "--out", str(tmp_path)]
    assert cli.main(asked) == 2
    assert f"made by {run.method.title}, which leaves no key" in capsys.readouterr().err


def test_an_example_needs_a_key(tiny_config, tmp_path):
    with pytest.raises(InputError, match="set it to kpop"):
        make_example(tiny_config(method="esd"), tmp_path / "example-run")


def test_an_evaluation_counts_two_variants(tmp_path):
    from PIL import Image

    from kpop import EraseConfig
    from kpop.evaluation import protocol, report

    class Judge:
        labels, accuracy = ("church", "castle"), 100.0

        def top_k(self, images, k):
            return [["church"] if image.getpixel((0, 0))[0] else ["castle"] for image in images]

    def draw(prompt, seeds):
        return {
            "original": [Image.new("RGB", (2, 2), "white") for _ in seeds],
            "sanitized": [Image.new("RGB", (2, 2), "black") for _ in seeds],
        }

    cfg = EraseConfig(concepts=("church",), retain=("castle",), method="esd")
    two = ("original", "sanitized")
    for _ in range(2):  # the second time from predictions.csv
        found = protocol.evaluate(
            draw, Judge(), cfg, ["church", "castle"], [0, 1], tmp_path, {}, variants=two
        )
        assert found.variants == two and float(found.summary["erased"]["ESR-1"]) == 100.0
        assert not any("recovery" in name or "key" in name for row in found.summary.values() for name in row)
    report.write_report(found, tmp_path, "two variants")
    text = (tmp_path / "report.md").read_text()
    assert "sanitized" in text and "recover" not in text and "recover" not in report.table(found)
