"""What cannot be used, said at the command line to a real small model: one line, status 2, nothing made."""

import json

import pytest

from kpop import cli
from kpop.config import EraseConfig
from kpop.runs import create_run, default_runs_dir, list_runs

WORDS = ("a", "church", "castle", "house", "dog", "photo", "of")
LONG = "a church " * 60  # 122 tokens


@pytest.fixture
def model(tiny_copy):
    """The small model's folder, which knows WORDS."""
    (tiny_copy / "words.json").write_text(json.dumps({word: 1 for word in WORDS}))
    return tiny_copy


@pytest.fixture
def refused(capfd):
    """Runs a command; the one line with which it is refused."""

    def run(*line):
        before = [run.id for run in list_runs()]
        assert cli.main(list(map(str, line))) == 2
        out, err = capfd.readouterr()
        assert out == "" and err.count("\n") == 1 and err.startswith("kpop: ") and "Traceback" not in err
        assert [run.id for run in list_runs()] == before
        return err

    return run


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--concepts", ""], "at least one concept"),
        (["--concepts", " , "], "at least one concept"),
        (["--concepts", "church " * 1000], "at most 20 words"),
        (["--concepts", "church", "--retain", "castle,Church"], "both to be erased and to be retained"),
        (["--concepts", "church", "--preset", "nothing-such"], "no preset 'nothing-such'; known are: paper"),
        (["--concepts", "church", "--base-run", "nothing-such"], "There is no run 'nothing-such'"),
        (["--concepts", "church", "--steps", "0"], "steps must be from 1 to 100000, not 0."),
        (["--concepts", "church", "--steps", "1000000"], "steps must be from 1 to 100000, not 1000000."),
        (["--concepts", "church", "--device", "toaster"], "device must be auto, cpu, cuda or mps"),
    ],
)
def test_settings_that_cannot_be_trained(model, refused, flags, words):
    assert words in refused("train", "--model", model, *flags)


@pytest.mark.parametrize("flag", ["--concepts", "--retain", "--neutral"])
def test_a_word_the_model_never_saw_is_answered_with_the_three_nearest(model, refused, flag):
    flags = {"--concepts": "dog", "--retain": "none"} | {flag: "chruch"}
    said = refused("train", "--model", model, *(part for pair in flags.items() for part in pair))
    assert "does not know the word 'chruch'" in said
    near = said.partition("Nearest words it knows: ")[2].rstrip(".\n").split(", ")
    assert len(near) == 3 and near[0] == "'church'" and {word.strip("'") for word in near} <= set(WORDS)


@pytest.mark.parametrize(
    "name, words", [("nothing-such", "There is no model"), ("no/such", "not on this machine")]
)
def test_a_model_nobody_knows(refused, name, words):
    assert words in refused("train", "--concepts", "church", "--model", name)


@pytest.mark.parametrize("command", ["generate", "compare", "attribute"])
def test_a_prompt_the_text_encoder_cannot_read(model, refused, tmp_path, command):
    run = create_run(EraseConfig(model=str(model), concepts=("church",)), default_runs_dir())
    said = refused(command, "--run", run.id, "--prompt", LONG, "--out", tmp_path / "out")
    assert "takes 122 tokens; this model reads 77" in said


@pytest.mark.parametrize(
    "missing, words",
    [
        ("model_index.json", "no model_index.json"),
        ("unet/config.json", "unet/config.json is missing"),
        ("unet/diffusion_pytorch_model.safetensors", "unet/ has no weights"),
        ("text_encoder/model.safetensors", "text_encoder/ has no weights"),
        ("vae/diffusion_pytorch_model.safetensors", "vae/ has no weights"),
        ("tokenizer/tokenizer_config.json", "tokenizer/tokenizer_config.json is missing"),
        ("tokenizer/tokenizer.json", "neither tokenizer.json nor vocab.json"),
        ("scheduler/scheduler_config.json", "scheduler/scheduler_config.json is missing"),
    ],
)
def test_a_model_folder_without_one_of_its_files(model, refused, tmp_path, missing, words):
    (model / missing).unlink()
    assert words in refused("generate", "--prompt", "a church", "--model", model, "--out", tmp_path / "out")


@pytest.mark.parametrize("ending", [".bin", ".ckpt"])
def test_a_model_folder_of_pickles(model, refused, ending):
    for path in model.glob("*/*.safetensors"):
        path.rename(path.with_suffix(ending))
    said = refused("train", "--concepts", "church", "--model", model)
    assert "only pickled weights in unet/" in said and "use a copy saved as safetensors" in said


def test_a_runs_folder_that_cannot_be_written(model, refused, tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "runs"):
        said = refused("train", "--concepts", "church", "--model", model, "--runs", place)
        assert f"{place} is not a folder. Choose another folder" in said
