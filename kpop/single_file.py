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

DOWN = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
WIDTH = 768  # of the states that Stable Diffusion 1 reads

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
    config = pipe.unet.config
    if tuple(config.down_block_types) != DOWN or config.cross_attention_dim != WIDTH:
        raise ModelError(
            "Only models of Stable Diffusion 1's shape can be one file: programs that read such files know "
            "no other from this. Release it as a diffusers folder."
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
