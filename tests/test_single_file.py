"""The single file in the original Stable Diffusion layout: what is in it, who reads it, who can be one."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from kpop import ModelError, load_pipeline, train
from kpop.release import release
from kpop.single_file import SHAPE, check_layout, single_file_tensors


@pytest.fixture
def few_channels(sd_folder, monkeypatch):
    """Takes the small model's channels, layers and vocabulary for Stable Diffusion's."""
    pipe = load_pipeline(str(sd_folder), device="cpu")
    for part, names in (
        ("unet", ("block_out_channels", "layers_per_block", "norm_num_groups")),
        ("vae", ("block_out_channels", "layers_per_block", "norm_num_groups")),
        ("text_encoder", ("intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")),
    ):
        for name in names:
            value = getattr(getattr(pipe, part).config, name)
            monkeypatch.setitem(SHAPE[part], name, tuple(value) if isinstance(value, list) else value)


@pytest.fixture(scope="module")
def sd_run(sd_folder, tiny_config, tmp_path_factory):
    """Of Stable Diffusion 1's shape, by UCE, which needs one solve and no training."""
    own = dict.fromkeys(("steps", "batch_size", "learning_rate", "rollout_steps", "negative_guidance"))
    cfg = replace(tiny_config(model=str(sd_folder)), method="uce", **own)
    return train(cfg, tmp_path_factory.mktemp("runs"), device="cpu")


@pytest.mark.parametrize("forms", [["single-file"], ["diffusers", "single-file"]])
def test_the_single_file_is_what_the_line_in_the_card_reads(
    forms, sd_run, sd_folder, few_channels, tmp_path, monkeypatch
):
    made, loaded = release(sd_run, tmp_path / "one", forms), {}
    (path,) = (file for file in made.files if "without" in file.name)
    assert path.name == "sd-shaped-without-church.safetensors"
    monkeypatch.chdir(made.path)
    if forms == ["single-file"]:
        (made.path / "sd-shaped").symlink_to(sd_folder)  # "the base model's folder"
    blocks = re.findall(r"```python\n(.+?)```", (made.path / "README.md").read_text(), re.S)
    exec(next(block for block in blocks if "from_single_file" in block), loaded)
    back = loaded["pipe"]
    pipe, delta = load_pipeline(str(sd_folder), device="cpu"), load_file(sd_run.weights_path)
    for part in ("unet", "vae", "text_encoder"):
        expected = getattr(pipe, part).state_dict() | (delta if part == "unet" else {})
        found = getattr(back, part).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items()), part
    assert any(not torch.equal(tensor, pipe.unet.state_dict()[name]) for name, tensor in delta.items())


def test_names_of_the_single_file_are_those_of_the_original_code(sd_folder, few_channels):
    """Literal names and shapes as in the checkpoints of CompVis."""
    tensors = single_file_tensors(load_pipeline(str(sd_folder), device="cpu"))
    unet, vae = "model.diffusion_model.", "first_stage_model."
    for name in (
        f"{unet}time_embed.2.weight",
        f"{unet}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        f"{unet}input_blocks.2.0.op.weight",
        f"{unet}middle_block.1.proj_in.weight",
        f"{unet}middle_block.2.out_layers.3.weight",
        f"{unet}output_blocks.1.1.conv.weight",
        f"{unet}output_blocks.3.2.conv.weight",
        f"{unet}output_blocks.7.0.skip_connection.bias",
        f"{unet}out.2.bias",
        f"{vae}encoder.down.0.downsample.conv.weight",
        f"{vae}decoder.up.3.block.0.norm1.weight",
        f"{vae}decoder.mid.block_2.conv2.weight",
        f"{vae}encoder.norm_out.weight",
        f"{vae}post_quant_conv.weight",
        "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight",
    ):
        assert name in tensors, name
    assert tensors[f"{vae}decoder.mid.attn_1.proj_out.weight"].shape == (8, 8, 1, 1)
    assert not any(re.search(r"resnets|_blocks\.\d+\.attentions|text_model\.text_model", n) for n in tensors)


def test_only_stable_diffusion_1_itself_can_be_one_file(sd_folder):
    """Its real shape, on a device without memory, and what differs from it in a point."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    def part(kind, **changes):
        with torch.device("meta"):
            return kind(**changes)

    texts = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
    }
    vae = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
           "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}  # fmt: skip
    real = SimpleNamespace(
        unet=part(UNet2DConditionModel, cross_attention_dim=768), vae=part(AutoencoderKL, **vae),
        text_encoder=part(CLIPTextModel, config=CLIPTextConfig(**texts)), scheduler=DDIMScheduler(),
    )  # fmt: skip
    tensors = single_file_tensors(real)
    assert tensors["model.diffusion_model.input_blocks.1.1.proj_in.weight"].shape == (320, 320, 1, 1)
    assert tensors["first_stage_model.decoder.up.3.block.0.conv1.weight"].shape == (512, 512, 3, 3)
    for name, other in (
        ("unet", part(UNet2DConditionModel, cross_attention_dim=768, use_linear_projection=True)),
        ("unet", part(UNet2DConditionModel, cross_attention_dim=768, in_channels=9)),
        ("vae", part(AutoencoderKL, **vae | {"latent_channels": 16})),
        ("scheduler", DDIMScheduler(prediction_type="v_prediction")),
    ):
        with pytest.raises(ModelError, match="Only models of Stable Diffusion 1's shape"):
            check_layout(SimpleNamespace(**vars(real) | {name: other}))
    with pytest.raises(ModelError, match=r"here block_out_channels of the unet is \[?\(?32"):
        check_layout(load_pipeline(str(sd_folder), device="cpu"))


def test_a_shape_that_no_program_knows_is_refused_as_one_file(tiny_config, tiny_pipe, tmp_path):
    run = train(tiny_config(steps=1), tmp_path / "runs", pipe=tiny_pipe)
    with pytest.raises(ModelError, match="Only models of Stable Diffusion 1's shape can be one file"):
        release(run, tmp_path / "one", "single-file")
    assert not (tmp_path / "one").exists()
