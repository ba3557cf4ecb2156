"""The benchmark's reference loop does what ours does, and its arithmetic is right."""

import json

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.measure import Rows, measure
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


def test_a_table_replaces_the_one_before_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# Head\n<!-- train: begin -->\nold\n<!-- train: end -->\ntail\n")
    put("new\n", "train", page)
    put("newer\n", "train", page)
    assert page.read_text() == "# Head\n<!-- train: begin -->\n\nnewer\n\n<!-- train: end -->\ntail\n"
    put("other\n", "quality", page)
    assert page.read_text().endswith("<!-- quality: begin -->\n\nother\n\n<!-- quality: end -->\n")
