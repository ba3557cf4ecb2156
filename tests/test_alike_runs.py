"""Runs alike in all but lambda or k: which one an X/Y grid takes, and when there is none."""

import json

import pytest

from kpop import InputError
from kpop.alike_runs import find_alike
from kpop.runs import create_run, open_run


@pytest.fixture
def made(tiny_config, tmp_path):
    """Makes a run folder in a state, with weights where it is done; the newest last."""

    def make(state="done", **changes):
        run = create_run(tiny_config(**changes), tmp_path)
        run.update_status(state=state)
        if state == "done":
            run.weights_path.write_bytes(b"")
        return run

    return make


def test_the_run_of_a_value_is_alike_in_everything_that_matters(made):
    run = made(lambda_=0.3)
    same = made(lambda_=0.7, sample_every=2, checkpoint_every=4)
    others = [
        made(lambda_=0.7, **changes)
        for changes in (
            {"seed": 1}, {"steps": 5}, {"retain": ("house",)}, {"prompt_tokens_factor": 2},
            {"neutral": "a house"},
        )
    ]  # fmt: skip
    found = find_alike(run, {"lambda": 0.7}, [*others, same])
    assert (found.done, found.going, found.missing) == (same, None, False)
    assert find_alike(run, {"lambda": 0.3}, []).done == run
    both = find_alike(run, {"lambda": 0.7, "k": 2}, [*others, same])
    assert both.done == others[3]
    assert find_alike(run, {"lambda": 0.5}, [*others, same]).missing


def test_a_run_older_than_a_field_is_alike_all_the_same(made):
    old, new = made(lambda_=0.3), made(lambda_=0.7)
    path = old.path / "config.json"
    told = json.loads(path.read_text())
    assert told.pop("near_share") == 0.5
    path.write_text(json.dumps(told))
    found = find_alike(open_run(old.path), {"lambda": 0.7}, [new])
    assert (found.done, found.missing) == (new, False)


def test_only_a_finished_run_is_drawn_with(made):
    run = made(lambda_=0.3)
    waits, stopped = made("queued", lambda_=0.7), made("stopped", lambda_=0.8)
    broken = made(lambda_=0.9)
    (broken.path / "status.json").write_text("{")
    runs = [waits, stopped, broken]
    assert find_alike(run, {"lambda": 0.7}, runs).going == waits
    assert find_alike(run, {"lambda": 0.8}, runs).missing
    found = find_alike(run, {"lambda": 0.9}, runs)
    assert found.missing and found.config.lambda_ == 0.9 and found.config.seed == run.config.seed


def test_a_value_that_the_method_cannot_have_is_told_in_words(made):
    with pytest.raises(InputError, match="additive"):
        find_alike(made(mechanism="additive"), {"k": 2}, [])
    with pytest.raises(InputError, match="lambda"):
        find_alike(made(), {"lambda": -1}, [])
