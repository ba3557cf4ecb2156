"""Milliseconds that rows of latents take through the U-Net, and what `kpop train --dry-run` says of memory.

    python -m benchmarks.rows --model sd-random --device cuda --out docs/benchmarks.md

Rows of one call, forward alone and with a backward to the cross-attention's parameters, in both layouts of
memory, and with torch.compile on all blocks but attention. Where 16 rows take hardly longer than 1, the
device waits for Python and not for arithmetic.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.resnet import ResnetBlock2D

from benchmarks.marked_part import put
from benchmarks.measure import load, machine
from kpop.config import EraseConfig
from kpop.estimate import estimate_run
from kpop.precision import pick_precision, precision_context
from kpop.weights import trainable_names

FORWARD, BACKWARD = (1, 2, 16), (1, 3)
MORE = 16  # rows with a backward, of a small model too
LAYOUTS = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
    "contiguous, compiled": torch.contiguous_format,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="sd-random")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--out", type=Path, help="markdown file whose marked part is replaced")
    asked = parser.parse_args()
    pipe = load(asked.model, asked.device, "auto")
    put(table(asked, pipe), f"rows {asked.model}", asked.out)


def table(asked: argparse.Namespace, pipe) -> str:
    """The measured rows as Markdown, and the estimate of the model's default run on one concept."""
    precision = pick_precision("auto", pipe)
    small = pipe.unet.config.sample_size <= 32
    backward = (*BACKWARD, MORE) if small else BACKWARD
    heads = [f"forward, {n}" for n in FORWARD] + [f"with backward, {n}" for n in backward]
    lines = [
        f"    python -m benchmarks.rows --model {asked.model} --device {asked.device}", "",
        f"{asked.model}, {precision}; {machine(pipe)}; mean of "
        f"{asked.rounds} calls after 3, in ms.", "",
        f"| layout | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}",
    ]  # fmt: skip
    for name, layout in LAYOUTS.items():
        pipe.unet.to(memory_format=layout)
        if name.endswith("compiled"):
            compile_blocks(pipe.unet)
        with precision_context(pipe.unet, precision):
            took = [clock(call(pipe, n, False), asked) for n in FORWARD]
            took += [clock(call(pipe, n, True), asked) for n in backward]
        lines.append(f"| {name} | {' | '.join(f'{1000 * seconds:.1f}' for seconds in took)} |")
    cfg = EraseConfig(model=asked.model, concepts=("church",), sample_every=0, key_share=0.0).resolved()
    found = estimate_run(cfg, pipe)
    told = f"A run of the default settings, one concept, batch {cfg.batch_size}: {found.step_rows:.0f} rows "
    told += f"a step, {found.bank_rows} for the bank; estimated peak {found.memory / 1e9:.2f} GB."
    lines += ["", told]
    return "\n".join(lines) + "\n"


def compile_blocks(unet) -> None:
    """What stays the same with and without p: a processor that reads p would be compiled for every prompt."""
    torch._dynamo.config.recompile_limit = 256  # one a kind of block and number of rows
    for module in unet.modules():
        if isinstance(module, ResnetBlock2D | FeedForward):
            module.compile(dynamic=False)


def call(pipe, rows: int, backward: bool) -> Callable[[], None]:
    unet = pipe.unet
    size, channels, width = (
        unet.config[name] for name in ("sample_size", "in_channels", "cross_attention_dim")
    )
    like = {"device": unet.device, "dtype": unet.dtype}
    z, text = torch.randn(rows, channels, size, size, **like), torch.randn(rows, 77, width, **like)
    names = set(trainable_names(unet, "xattn"))

    def once() -> None:
        with torch.set_grad_enabled(backward):
            eps = unet(z, 5, text, return_dict=False)[0]
            if backward:
                learned = [weight for name, weight in unet.named_parameters() if name in names]
                torch.autograd.grad(eps.float().square().mean(), learned)

    for name, weight in unet.named_parameters():
        weight.requires_grad_(backward and name in names)
    return once


def clock(once: Callable[[], None], asked: argparse.Namespace) -> float:
    """Seconds a call."""
    for _ in range(3):
        once()
    wait()
    began = time.perf_counter()
    for _ in range(asked.rounds):
        once()
    wait()
    return (time.perf_counter() - began) / asked.rounds


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
