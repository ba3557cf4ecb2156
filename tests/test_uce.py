"""UCE against the minimum it is defined by, and a whole run of it."""

import pytest
import torch
from safetensors.torch import load_file

from kpop import EraseConfig, RunError, compare, generate, models, train
from kpop.methods import uce


def config(folder, **changes):
    fields = {"model": str(folder), "concepts": ("church",), "retain": ("castle",), "method": "uce"}
    fields |= {"sample_every": 0, "precision": "fp32", "templates": ("{}", "a {}")}
    return EraseConfig(**{**fields, **changes})


def objective(w, w0, erased, neutral, kept, weight):
    """The published sum, term by term."""
    total = 0.5 * (w - w0).square().sum()
    for c, c_n in zip(erased, neutral, strict=True):
        total = total + (w @ c - w0 @ c_n).square().sum()
    for c in kept:
        total = total + weight * (w @ c - w0 @ c).square().sum()
    return total


def test_the_edit_is_the_minimum():
    generator = torch.Generator().manual_seed(0)
    w0, erased, neutral, kept = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((5, 8), (2, 8), (2, 8), (3, 8))
    )
    w = uce.edited(w0, erased, neutral, kept, 2.0).requires_grad_()
    least = objective(w, w0, erased, neutral, kept, 2.0)
    (gradient,) = torch.autograd.grad(least, [w])
    assert gradient.abs().max() < 1e-10
    for _ in range(5):
        near = w.detach() + 1e-2 * torch.randn(w.shape, generator=generator, dtype=torch.float64)
        assert objective(near, w0, erased, neutral, kept, 2.0) > least


@pytest.mark.parametrize(
    ("text", "end", "last"),
    [("", None, 0), ("church", None, 1), ("a church", None, 2), ("a church on a castle", 8, 2)],
)
def test_states_from_the_last_token_of_the_subject_on(tiny_pipe, text, end, last):
    found = uce.states_from(tiny_pipe, text, end)
    assert torch.equal(found, models.encode(tiny_pipe, [text])[0, last:].double())


def test_every_word_stands_in_every_template_beside_the_neutral_text(tiny_pipe):
    found, neutral = uce.aligned(tiny_pipe, (("church", "castle"),), ("{}", "a {} on"), ("", ""))
    wanted = [("church", 1), ("a church on", 2), ("castle", 1), ("a castle on", 2)]
    states = [models.encode(tiny_pipe, [text])[0, at:].double() for text, at in wanted]
    assert torch.equal(found, torch.cat(states)) and [len(some) for some in states] == [76, 75, 76, 75]
    empty = models.encode(tiny_pipe, [""])[0].double()  # start token beside the word, and so on
    assert torch.equal(neutral, torch.cat([empty[:76], empty[:75], empty[:76], empty[:75]]))


def test_a_neutral_text_of_its_own_is_read_from_its_last_token(tiny_pipe):
    found, neutral = uce.aligned(tiny_pipe, ("church",), ("{}", "{}"), ("a castle on", ""))
    assert len(found) == len(neutral) == 74 + 76
    assert torch.equal(neutral[:74], models.encode(tiny_pipe, ["a castle on"])[0, 3:].double())
    assert torch.equal(neutral[74:], models.encode(tiny_pipe, [""])[0, :76].double())


def test_a_run_edits_keys_and_values_and_spares_what_is_retained(tiny_folder, tiny_pipe, tmp_path):
    events = []
    cfg = config(tiny_folder, sample_every=1)
    run = train(cfg, tmp_path, pipe=tiny_pipe, on_step=events.append)
    assert (run.status.state, run.status.step, run.status.steps) == ("done", 1, 1)
    assert (run.config.steps, run.config.trainable, run.config.retain_neutral) == (1, "kv", False)
    assert list(run.secret_dir.iterdir()) == [] and not run.has_checkpoint
    assert [event.step for event in events] == [1] == [row["step"] for row in run.metrics()]
    assert set(run.samples()[0][1]) == {"original", "sanitized", "kept"}
    before, after = dict(tiny_pipe.unet.named_parameters()), load_file(run.weights_path)
    wanted = {name for name in before if ".attn2." in name and (".to_k." in name or ".to_v." in name)}
    assert set(after) == wanted
    c, r = (uce.states_from(tiny_pipe, text).float().T for text in ("a church", "a castle"))
    c_n = uce.states_from(tiny_pipe, "").float()[: c.shape[1]].T
    gone = kept = near = far = 0.0
    for name, weight in after.items():
        moved = weight - before[name]
        gone, kept = gone + float((moved @ c).square().sum()), kept + float((moved @ r).square().sum())
        near += float((weight @ c - before[name] @ c_n).square().sum())
        far += float((before[name] @ c - before[name] @ c_n).square().sum())
    assert kept < 0.5 * gone and near < far
    losses = events[0].losses
    assert losses["l_erase"] < losses["l_erase_before"] and 0 < losses["l_retain"] < losses["l_erase_before"]
    drawn = compare(tiny_pipe, "a church", [0], run)
    assert list(drawn) == ["original", "sanitized"]
    with pytest.raises(RunError, match="made by UCE, which leaves no key; "):
        generate(tiny_pipe, "a church", 0, "recovered", run)


def test_the_weight_of_the_siblings_holds_them(tiny_folder, tiny_pipe):
    moved = []
    for weight in (0, 1, 100):
        cfg = config(tiny_folder, retain_weight=weight).resolved()
        delta, losses = uce.solve(tiny_pipe, cfg, "")
        assert ("l_retain" in losses) == (weight > 0)
        state = uce.states_from(tiny_pipe, "castle").float().T
        weights = dict(tiny_pipe.unet.named_parameters())
        changes = [(t - weights[name]) @ state for name, t in delta.tensors.items()]
        moved.append(sum(float(change.square().sum()) for change in changes))
    assert moved[0] > moved[1] > moved[2]


def test_it_may_start_from_another_run(tiny_folder, tiny_config, tiny_pipe, tmp_path):
    base = train(tiny_config(method="esd", steps=1), tmp_path, pipe=tiny_pipe)
    run = train(config(tiny_folder, concepts=("background",), base_run=base.id), tmp_path, pipe=tiny_pipe)
    found, under = load_file(run.weights_path), load_file(base.weights_path)
    assert set(found) == set(under)  # kv lies within xattn
    query = next(name for name in found if ".to_q." in name)
    assert torch.equal(found[query], under[query])
