"""`train --config FILE`: what stands in it, what flags put over it, and what cannot be used."""

import json

import pytest

from kpop import cli
from kpop.errors import InputError
from kpop.runs import list_runs


def read(*line):
    return cli.erase_config(cli.build_parser().parse_args(["train", *map(str, line)]))


def test_fields_as_in_eraseconfig_and_flags_win(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "concepts: [[church, chapel], dog]\nretain: [castle]\nlambda: 0.7\nsteps: 50\nlearning_rate: 1e-5\n"
    )
    found = read("--config", file, "--steps", 9, "--set", "seed=4")
    assert found.concepts == (("church", "chapel"), "dog") and found.retain == ("castle",)
    assert (found.lambda_, found.steps, found.learning_rate, found.seed) == (0.7, 9, 1e-5, 4)
    assert read("--config", file, "--concepts", "fish", "--lambda", 2).concepts == ("fish",)
    assert read("--config", file, "--set", "lambda=2").lambda_ == 2


def test_a_runs_own_config_json_is_a_settings_file(tmp_path):
    cfg = read("--concepts", "church", "--lambda", 0.5, "--templates", "a {}")
    file = tmp_path / "config.json"
    file.write_text(json.dumps(cfg.to_dict()))
    assert read("--config", file) == cfg


LAUGHS = "steps:\n- &a [1, 1]\n" + "".join(
    f"- &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("a.yaml", "concepts: [church", "cannot be read"),
        ("a.json", '{"concepts": ["church"]', "cannot be read"),
        ("a.yaml", "concepts: [church]\ncolour: red", "'colour', which is no setting"),
        ("a.yaml", "concepts: [church]\n3: red", "'3', which is no setting"),
        ("a.yaml", "- church", "must be fields and values"),
        ("a.yaml", "", "must be fields and values"),
        ("a.json", "[1]", "must be fields and values"),
        ("a.yaml", "concepts: [church]\nsteps: many", "steps must be a whole number"),
        ("a.yaml", "concepts: [church]\nlearning_rate: .nan", "learning_rate must be a number"),
        ("a.yaml", "!!python/object/apply:os.system ['true']", "cannot be read"),
        ("a.yaml", "a: \x00", "cannot be read"),
        ("a.yaml", LAUGHS, "aliases"),
        ("a.yaml", "concepts: [church]\nsteps: !!timestamp 99", "cannot be read"),
        ("gone.yaml", None, "No such file"),
    ],
)
def test_what_cannot_be_used_is_one_line_and_status_2(tmp_path, capfd, name, text, words):
    if text is not None:
        (tmp_path / name).write_text(text)
    assert cli.main(["train", "--config", str(tmp_path / name)]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("kpop: ") and words in err
    assert [run for run in list_runs() if not run.is_example] == []


def test_bytes_that_are_no_text(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="cannot be read"):
        read("--config", tmp_path / "a.yaml")
