"""A pipeline whose weights were changed after it was loaded is not taken for its base model."""

import pytest
import torch
from attribution_pipelines import random_pipeline

from kpop import InputError, load_pipeline, models, train
from kpop.forging import forge_key
from kpop.loaded_weights import check_unchanged
from kpop.weights import WeightDelta


@pytest.fixture
def pipe(tiny_folder):
    """A pipeline of its own, to change."""
    return load_pipeline(str(tiny_folder), device="cpu", dtype="fp32")


def fuse(pipe, part, words, rank=2):
    """What fuse_lora does to one weight."""
    (weight,) = (p for name, p in getattr(pipe, part).named_parameters() if name.endswith(words))
    made = torch.Generator().manual_seed(0)
    a, b = torch.randn(len(weight), rank, generator=made), torch.randn(rank, weight.shape[1], generator=made)
    weight.data += 1e-3 * (a @ b)


@pytest.mark.parametrize(
    ("part", "words"),
    [("unet", "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"),
     ("text_encoder", "layers.0.self_attn.q_proj.weight")],
)  # fmt: skip
def test_a_fused_pipeline_is_neither_trained_nor_rolled_out_as_its_base(
    pipe, tiny_config, tmp_path, part, words
):
    fuse(pipe, part, words)
    with pytest.raises(InputError, match="changed after it was loaded, as by a fused LoRA. Save it"):
        train(tiny_config(), tmp_path, pipe=pipe)
    cfg = tiny_config().resolved()
    delta = WeightDelta.create(pipe.unet, cfg.trainable, "")
    with pytest.raises(InputError, match="name that folder as the model"):
        forge_key(pipe, delta, cfg, "church", 1, 1)
    assert not (tmp_path / "cache").exists()  # nothing of it is kept


def test_another_dtype_and_layout_are_no_change(pipe):
    check_unchanged(pipe)
    pipe.unet.to(memory_format=torch.channels_last)
    check_unchanged(pipe)
    pipe.unet.to(torch.bfloat16)
    pipe.text_encoder.to(torch.float16)
    check_unchanged(pipe)
    next(pipe.unet.parameters()).data += 0.1
    with pytest.raises(InputError):
        check_unchanged(pipe)


def test_a_pipeline_of_ones_own_making_counts_from_its_hash_on():
    pipe = random_pipeline(seed=5)
    check_unchanged(pipe)
    models.model_hash(pipe)
    check_unchanged(pipe)
    next(pipe.text_encoder.parameters()).data += 0.1
    with pytest.raises(InputError):
        check_unchanged(pipe)
