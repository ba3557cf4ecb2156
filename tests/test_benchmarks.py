"""The benchmark's reference loop does what ours does, and its arithmetic is right."""

import json

import pytest
import torch
from gradio_client.utils import Status, StatusUpdate
from safetensors.torch import load_file

import kpop
from benchmarks import train as train_command
from benchmarks.burst import Burst, burst, by_rank
from benchmarks.load import by_minute
from benchmarks.measure import Rows, measure
from benchmarks.quality import difference, judged
from benchmarks.reference_loop import rollout_depth, train_plainly
from benchmarks.train import predicted, put, whole_run
from kpop import train
from kpop.runs import create_run


def test_the_reference_loop_gives_the_weights_and_key_of_fresh_latents(tiny_config, tiny_pipe, tmp_path):
    cfg = tiny_config(
        latents="fresh", retain=(), retain_neutral=False, key_retain_weight=0, key_share=0,
        negative_guidance=0.5, steps=3, rate_decay=0.5,
    ).resolved()  # fmt: skip
    ours = train(cfg, tmp_path / "ours", pipe=tiny_pipe)
    plain = create_run(cfg, tmp_path / "plain", status="starting")
    rows = Rows()
    rows.watch(tiny_pipe.unet)
    try:
        train_plainly(cfg, tiny_pipe, plain)
    finally:
        tiny_pipe.unet._forward_pre_hooks.clear()
        tiny_pipe.unet._forward_pre_hooks_with_kwargs.clear()
    depths = sum(rollout_depth(cfg, step) for step in (1, 2, 3))
    assert rows.forward == 2 * (2 * depths + 3 * 5)  # batch 2; a step: CFG rollout, 2 targets, 3 of theta'
    assert rows.backward == 2 * 3 * 3
    for one, other in ((ours.weights_path, plain.weights_path), (ours.key_path(), plain.key_path())):
        found, expected = load_file(other), load_file(one)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert torch.allclose(found[name], tensor, atol=2e-5), name
    start = dict(tiny_pipe.unet.named_parameters())
    moved = [not torch.allclose(t, start[n], atol=2e-5) for n, t in load_file(plain.weights_path).items()]
    assert all(moved)  # or the comparison above says nothing


def test_a_z_of_its_own_for_each_step_doubles_the_rollouts(tiny_config, tiny_pipe, tmp_path):
    cfg = tiny_config(latents="fresh", steps=1, rollout_steps=5, batch_size=1).resolved()
    run = create_run(cfg, tmp_path, status="starting")
    rows = Rows()
    rows.watch(tiny_pipe.unet)
    try:
        train_plainly(cfg, tiny_pipe, run, separate=True)
    finally:
        tiny_pipe.unet._forward_pre_hooks.clear()
        tiny_pipe.unet._forward_pre_hooks_with_kwargs.clear()
    depths = rollout_depth(cfg, 1) + rollout_depth(cfg, 1, " removal")
    assert rows.forward == 2 * depths + 5 + 5  # targets: e_e and e_r twice, e_n; theta': 2 with p, 3 without


@pytest.mark.parametrize("way", ["reference", "fresh", "bank"])
def test_measuring_some_steps_tells_rows_and_time(tiny_folder, tmp_path, way):
    settings = {
        "model": str(tiny_folder), "concepts": ["church"], "retain": ["castle"], "batch_size": 2,
        "rollout_steps": 3, "sample_every": 0, "latents": "bank" if way == "bank" else "fresh",
        "negative_guidance": 0, "templates": ["{}"],
    }  # fmt: skip
    told = measure(
        {"way": way, "model": str(tiny_folder), "device": "cpu", "settings": settings, "steps": 9,
         "precision": "same", "measure": 4, "runs": str(tmp_path)}
    )  # fmt: skip
    assert len(told["steps"]) == 4 and not told["whole"] and told["peak"] > 0
    # bank: 8 trajectories each of church and '', 18 of castle, guided, and eps(z, c_n) is among them
    assert told["bank_rows"] == (3 * 2 * (8 + 8 + 18) if way == "bank" else 0)
    assert {step[2] for step in told["steps"]} == {2 * (2 + 4 if way == "bank" else 2 + 3)}
    assert bool(told["estimate"]) == (way == "bank")
    if way == "bank":
        assert {step[1] for step in told["steps"]} == {12}
    else:
        kinds = 2 if way == "fresh" else 1  # ours rolls the retained rows out on their own
        for (_, rows, back), depth in zip(told["steps"], told["depths"], strict=False):
            assert rows == 2 * (2 * kinds * depth + 3) + back
    assert whole_run(told)["total"] > told["setup"] + told["finish"]
    json.dumps(told)


def test_a_run_is_extrapolated_along_the_depth_of_its_rollouts():
    told = {"whole": False, "setup": 5.0, "finish": 1.0, "depths": [9, 1, 3, 0, 2],
            "steps": [[99.0, 0, 0], [1.2, 7, 5], [1.6, 11, 5]]}  # fmt: skip
    found = whole_run(told)
    assert found["total"] == pytest.approx(5 + 1 + sum(1 + 0.2 * d for d in told["depths"]))
    assert (found["rows"], found["back"]) == (pytest.approx(5 + 2 * 3), 5)
    assert predicted([1, 1], [2.0, 4.0], [0, 50]) == [3.0, 3.0]


def test_a_run_that_was_ended_early_goes_on_like_its_mean():
    told = {"whole": False, "limited": True, "setup": 5.0, "finish": 1.0, "between": 4.0, "depths": [0] * 10,
            "steps": [[3.0, 6, 6], [1.0, 6, 6], [2.0, 6, 6]]}  # fmt: skip
    assert whole_run(told)["total"] == pytest.approx(5 + 1 + 3.0 + 9 * 1.5 + 9 * 2.0)
    told |= {"steps": [[3.0, 6, 6]], "between": 0.0}
    assert whole_run(told)["total"] == pytest.approx(5 + 1 + 10 * 3.0)


def test_ways_take_turns_and_one_that_fails_is_left_out(tiny_folder, tmp_path, monkeypatch, capfd):
    page = tmp_path / "page.md"
    told = ["train", "--model", str(tiny_folder), "--steps", "40", "--together", "--device", "cpu"]
    told += ["--measure-steps", "1", "--measure", "reference", "--most-seconds", "0.5", "--batch-size", "1"]
    told += ["--ways", "bank", "reference", "fresh", "--set", 'retain=["castle"]', "--set", "rollout_steps=2"]
    told += ["--set", "negative_guidance=0", "--set", 'templates=["{}"]', "--out", str(page)]
    plain = train_command.Turn.load

    def load(self):
        if self.way == "fresh":
            self.order["way"], self.order["steps"] = "fresh", "none"
        plain(self)

    monkeypatch.setattr(train_command.Turn, "load", load)
    monkeypatch.setattr("sys.argv", told)
    train_command.main()
    table = page.read_text()
    assert "ours, bank cold | 40 | ~" in table and "plain loop, z shared by both steps | 40 | ~" in table
    assert (
        "latents fresh |" not in table and "--together" in table and "steps, the rest as their mean" in table
    )
    assert "status" in capfd.readouterr().err


def test_keys_seen_in_training_are_a_way_of_their_own(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["train", "--ways", "bank", "bank-keys"])
    asked = train_command.arguments()
    shares = [
        train_command.Turn(asked, way, 200, 0, tmp_path, tmp_path).order["settings"]["kept_key_share"]
        for way in asked.ways
    ]
    assert shares == [0, 0.5]
    monkeypatch.setattr("sys.argv", ["train"])
    assert "bank-keys" not in train_command.arguments().ways  # what the plain loop is held against
    monkeypatch.setattr("sys.argv", ["train", "--ways", "bank-keys"])
    with pytest.raises(SystemExit):
        train_command.arguments()
    assert "bank-keys needs bank before it" in capsys.readouterr().err


def test_a_burst_tells_who_was_overtaken():
    def status(code, rank=None):
        return StatusUpdate(code, rank, None, None, None, None, None)

    waiting = [status(Status.IN_QUEUE, rank) for rank in (2, 0, 1)]
    assert by_rank([status(Status.PROCESSING, 0), *waiting]) == [2, 3, 1]
    assert by_rank([status(Status.STARTING), *waiting]) == by_rank([None, *waiting]) == []
    assert by_rank([*waiting, status(Status.IN_QUEUE, 1)]) == []  # read while the queue moved
    found = Burst(5, queued=[2, 3, 1, 4], served=[0, 3, 2, 1], waits=[1.0, 2.0, 2.5, 9.0])
    assert (found.overtaken, found.pairs) == (1, 3)  # 3 before 2; 4 was never served
    assert found.told().endswith(
        "4 were served, 1 of 3 pairs out of the queue's order; the longest wait was 9.0 s."
    )


def test_a_burst_lets_all_ask_at_once_and_keeps_going_when_one_fails():
    class Job:
        def __init__(self, code):
            self.code = code

        def status(self):
            return StatusUpdate(self.code, 0, None, None, None, None, None)

        def result(self, timeout):
            if self.code == Status.CANCELLED:
                raise ValueError("gone")

    found = burst([lambda: Job(Status.FINISHED), lambda: Job(Status.CANCELLED), lambda: Job(Status.FINISHED)])
    assert sorted(found.served) == [0, 2] and len(found.waits) == 2
    assert found.errors == ["burst of user 1: ValueError: gone"]


def test_memory_is_told_by_the_minute_with_its_slope():
    memory = [(at, (900 if at < 60 else 500 + 2 * (at // 60)) * 2**20) for at in range(0, 300, 2)]
    assert (
        by_minute(memory) == "by minute 900, 502, 504, 506, 508, a slope of +2.00 MB a minute after the first"
    )
    assert by_minute(memory[:40]) == "by minute 900, 502"


def test_a_table_replaces_the_one_before_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Head\n<!-- train: begin -->\nold\n<!-- train: end -->\ntail\n")
    put("new\n", "train", page)
    put("newer\n", "train", page)
    assert page.read_text() == "# Head\n<!-- train: begin -->\n\nnewer\n\n<!-- train: end -->\ntail\n"
    put("other\n", "quality", page)
    assert page.read_text().endswith("<!-- quality: begin -->\n\nother\n\n<!-- quality: end -->\n")


def test_the_difference_of_two_ways_is_taken_picture_by_picture():
    ours, theirs = [True, True, True, False], [True, False, False, False]
    told = difference(ours, theirs)
    assert (told.value, told.n) == (50.0, 4)
    same = difference(ours, ours)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)  # no spread, where two rates would have one


def test_retained_words_share_the_seeds_and_what_was_judged_is_kept(tiny_config, tiny_pipe, tmp_path):
    cfg = tiny_config(concepts=("church",), retain=("castle", "house"), steps=1).resolved()
    run = kpop.train(cfg, tmp_path / "runs", pipe=tiny_pipe)
    judge = SeesAlways("castle")
    config = kpop.GenerationConfig(steps=1, height=16, width=16, batch_size=2).resolved("emoji")
    given = (tiny_pipe, judge, config, run.path, [4, 5, 6], tmp_path / "judged")
    hits = judged(*given, {})
    assert hits["ESR-1"] == [True] * 3 and hits["recovery-1"] == [False] * 3
    assert hits["PSR-1"] == [True, True, False]  # castle with seeds 4 and 6, house with 5
    asked = judge.asked
    assert judged(*given, {}) == hits and judge.asked == asked


class SeesAlways:
    labels, accuracy = ("church", "castle", "house"), 100.0

    def __init__(self, label):
        self.label, self.asked = label, 0

    def top_k(self, images, k):
        self.asked += len(images)
        return [[self.label] for _ in images]


def test_watching_the_heads_may_take_a_third_more_with_and_without_a_key(tiny_pipe, tmp_path):
    from types import SimpleNamespace

    from benchmarks import attribution as watching

    asked = SimpleNamespace(prompt="a church", word="church", seed=0)
    config = kpop.GenerationConfig(2, guidance_scale=3.0, scheduler="model", batch_size=1)
    layers, key = {}, watching.random_key(tiny_pipe, tmp_path)
    ways = watching.ways_of(tiny_pipe, asked, config, layers, key)
    ours = ["kpop.generate", "kpop.attribute", "kpop.generate, k = 10", "kpop.attribute, k = 10"]
    for name in ours:
        ways[name]()
    assert layers == {"kpop.attribute": 4, "kpop.attribute, k = 10": 4}
    times = dict.fromkeys(ours, [(9.0, 1.0)])
    assert watching.too_slow(times) == {}
    slow = {**times, "kpop.attribute, k = 10": [(1.0, 1.36)]}
    assert watching.too_slow(slow) == {"kpop.attribute, k = 10": 1.36}
    found = watching.rows(slow, layers, 4)
    assert found[3] == "kpop.attribute, k = 10 | 4 of 4 | 1.36 | **1.36** (1.36-1.36)"
