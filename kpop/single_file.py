"""A pipeline as one checkpoint file in the layout of the original Stable Diffusion 1 code.

That is what A1111, ComfyUI and diffusers' from_single_file read. Diffusers converts from this layout only;
here is the way back: the same blocks under other names, and the autoencoder's attention as 1x1 convolutions.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import Tensor

from .errors import ModelError

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

# Of Stable Diffusion 1, as its original code's v1-inference.yaml has them: such files hold no settings, so
# programs take these for granted.
SHAPE = {
    "unet": {
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        "block_out_channels": (320, 640, 1280, 1280),
        "layers_per_block": 2,
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
        "num_attention_heads": None,
        "in_channels": 4,
        "out_channels": 4,
        "norm_num_groups": 32,
        "act_fn": "silu",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "use_linear_projection": False,
        "transformer_layers_per_block": 1,
        "class_embed_type": None,
        "addition_embed_type": None,
    },
    "vae": {
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "latent_channels": 4,
        "in_channels": 3,
        "out_channels": 3,
        "norm_num_groups": 32,
        "scaling_factor": 0.18215,
    },
    "text_encoder": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 77,
        "vocab_size": 49408,
        "hidden_act": "quick_gelu",
    },
    "scheduler": {"prediction_type": "epsilon"},
}

UNET_OUTER = {
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "conv_in.": "input_blocks.0.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}
UNET_RESNET = {
    "norm1.": "in_layers.0.",
    "conv1.": "in_layers.2.",
    "time_emb_proj.": "emb_layers.1.",
    "norm2.": "out_layers.0.",
    "conv2.": "out_layers.3.",
    "conv_shortcut.": "skip_connection.",
}
VAE_ATTENTION = {
    "group_norm.": "norm.",
    "to_q.": "q.",
    "to_k.": "k.",
    "to_v.": "v.",
    "to_out.0.": "proj_out.",
}


def check_layout(pipe: StableDiffusionPipeline) -> None:
    """Raise ModelError unless programs that read single files can tell what this model is."""
    for part, wanted in SHAPE.items():
        config = getattr(pipe, part).config
        for name, value in wanted.items():
            found = getattr(config, name, value)  # a setting that this release of the library lacks
            if (tuple(found) if isinstance(value, tuple) and isinstance(found, list) else found) != value:
                raise ModelError(
                    "Only models of Stable Diffusion 1's shape can be one file: programs that read such "
                    f"files know no other from this, and here {name} of the {part} is {found!r}. Release it "
                    "as a diffusers folder."
                )


def single_file_tensors(pipe: StableDiffusionPipeline) -> dict[str, Tensor]:
    """Every weight of the pipeline by its original name. Raises ModelError (another shape)."""
    check_layout(pipe)
    layers = pipe.unet.config.layers_per_block
    found = {
        f"model.diffusion_model.{unet_name(name, layers)}": tensor
        for name, tensor in pipe.unet.state_dict().items()
    }
    levels = len(pipe.vae.config.block_out_channels)
    for name, tensor in pipe.vae.state_dict().items():
        original = vae_name(name, levels)
        flat = ".attentions.0." in name and tensor.ndim == 2
        found[f"first_stage_model.{original}"] = tensor[:, :, None, None] if flat else tensor
    for name, tensor in pipe.text_encoder.state_dict().items():
        name = name.removeprefix("text_model.")  # transformers 5.6 dropped this part of the name
        found[f"cond_stage_model.transformer.text_model.{name}"] = tensor
    return found


def unet_name(name: str, layers: int) -> str:
    """Diffusers' name of a U-Net's parameter in the original layout; layers: layers_per_block."""
    step = layers + 1  # blocks of a level on the way down: its layers and the downsampler
    if match := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.+)", name):
        side, level, kind, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        block = f"input_blocks.{step * level + layer + 1}" if side == "down" else (
            f"output_blocks.{step * level + layer}"
        )  # fmt: skip
        return f"{block}.0.{_swapped(rest, UNET_RESNET)}" if kind == "resnets" else f"{block}.1.{rest}"
    if match := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.+)", name):
        return f"input_blocks.{step * (int(match[1]) + 1)}.0.op.{match[2]}"
    if match := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.(.+)", name):
        level = int(match[1])
        # The first level up has no attention, so its upsampler comes right after the resnet.
        return f"output_blocks.{step * level + layers}.{1 if level == 0 else 2}.{match[2]}"
    if match := re.fullmatch(r"mid_block\.resnets\.(\d)\.(.+)", name):
        return f"middle_block.{2 * int(match[1])}.{_swapped(match[2], UNET_RESNET)}"
    if match := re.fullmatch(r"mid_block\.attentions\.0\.(.+)", name):
        return f"middle_block.1.{match[1]}"
    return _swapped(name, UNET_OUTER)


def vae_name(name: str, levels: int) -> str:
    """Diffusers' name of an autoencoder's parameter in the original layout; levels: of its U."""
    block = r"(encoder|decoder)\.(down|up)_blocks\.(\d)\.(resnets|downsamplers|upsamplers)\.(\d)\.(.+)"
    if match := re.fullmatch(block, name):
        half, way, level, kind, layer, rest = match.groups()
        level = int(level) if way == "down" else levels - 1 - int(level)
        part = f"block.{layer}.{_shortcut(rest)}" if kind == "resnets" else f"{way}sample.{rest}"
        return f"{half}.{way}.{level}.{part}"
    if match := re.fullmatch(r"(encoder|decoder)\.mid_block\.resnets\.(\d)\.(.+)", name):
        return f"{match[1]}.mid.block_{int(match[2]) + 1}.{_shortcut(match[3])}"
    if match := re.fullmatch(r"(encoder|decoder)\.mid_block\.attentions\.0\.(.+)", name):
        return f"{match[1]}.mid.attn_1.{_swapped(match[2], VAE_ATTENTION)}"
    return name.replace("conv_norm_out.", "norm_out.")


def _shortcut(rest: str) -> str:
    return rest.replace("conv_shortcut.", "nin_shortcut.")


def _swapped(name: str, table: dict[str, str]) -> str:
    """The name with its beginning exchanged where the table has it."""
    for before, after in table.items():
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name
