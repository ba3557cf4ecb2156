"""What watching the heads costs, ours beside the daam package's tracer, in one run.

    python -m benchmarks.attribution [--models emoji sd-random] [--rounds 5] [--out docs/benchmarks.md]

Every way draws the same number of steps from one seed and ends with one word's map. Each is compared with
drawing alone in the loop it is part of: ours with kpop.generate, without a key and with a random one of
k = 10 at every site (847 columns), daam's with diffusers' own pipeline. Exits 1 where ours takes more than
1.35 times drawing alone. The ways take turns, so that a busy machine disturbs all alike; on a CPU the ratios
are of processor time, which other programs disturb less. sd-random is Stable Diffusion 1.4's shape with
random weights (benchmarks/sd_random.py); other names are loaded as the app does. daam records no middle
block, and of latents other than 64x64 or 96x96 its maps are of wrong sizes: how many layers each records is
in the table.
"""

import argparse
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import kpop
from kpop.hidden_prompt import HiddenPrompt

from . import sd_random
from .machine import processor
from .marked_part import put

FEW_STEPS = 2  # of sd-random: seconds each on a CPU
MOST = 1.35  # times drawing alone that watching may take
KEYED = ", k = 10"


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--models", nargs="+", default=["emoji", sd_random.NAME])
    parser.add_argument("--prompt", default="a church on a blue background")
    parser.add_argument("--word", default="church")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5, help="after one to warm up")
    parser.add_argument("--steps", type=int, help=f"default: the model's, {FEW_STEPS} for {sd_random.NAME}")
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--out", type=Path, help="markdown file whose marked parts, one a model, are replaced"
    )
    asked = parser.parse_args()
    slow = []
    for model in asked.models:
        pipe = load(model, asked.device)
        steps = asked.steps or (FEW_STEPS if model == sd_random.NAME else None)
        config = kpop.GenerationConfig(steps=steps, batch_size=1).resolved(model)
        layers: dict[str, int] = {}
        with tempfile.TemporaryDirectory() as folder:
            key = random_key(pipe, Path(folder))
            ways = ways_of(pipe, asked, config, layers, key)
            times = compare(ways, asked.rounds, pipe.device.type == "cuda")
        about = f"{model}, {config.steps} steps, {pipe.device.type} {str(pipe.unet.dtype)[6:]}"
        lines = [command(model, asked), "", f"{machine(pipe)}; {asked.prompt!r}, word {asked.word!r}, seed "
                 f"{asked.seed}, median of {asked.rounds} rounds, spread in brackets.", "", HEAD]  # fmt: skip
        lines += [f"| {about} | {row} |" for row in rows(times, layers, total_layers(pipe))]
        part = f"attribution {model}" + " cuda" * (pipe.device.type == "cuda")
        put("\n".join(lines), part, asked.out)
        slow += [f"{model}, {way}: {ratio:.2f}" for way, ratio in too_slow(times).items()]
        del pipe
        gc.collect()
    if slow:
        raise SystemExit(f"More than {MOST} times drawing alone: {'; '.join(slow)}.")


def command(model: str, asked: argparse.Namespace) -> str:
    """Markdown: what makes this model's table."""
    steps = f" --steps {asked.steps}" if asked.steps else ""
    steps += f" --device {asked.device}" if asked.device != "auto" else ""
    out = f" --out {asked.out}" if asked.out else ""
    return f"    python -m benchmarks.attribution --models {model}{steps} --rounds {asked.rounds}{out}"


HEAD = "| model | way | layers recorded | seconds | times drawing alone |\n|---|---|---|---|---|"
BASE = {
    "kpop.attribute": "kpop.generate",
    f"kpop.attribute{KEYED}": f"kpop.generate{KEYED}",
    "daam.trace": "diffusers alone",
}


def load(model: str, device: str):
    if model == sd_random.NAME:
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        return sd_random.sd_random(device, torch.bfloat16 if device.startswith("cuda") else torch.float32)
    return kpop.load_pipeline(model, device=device)


def random_key(pipe, folder: Path) -> Path:
    """A key file of k = 10 for this model; what it says does not change how long it takes."""
    length, width = pipe.tokenizer.model_max_length, pipe.unet.config.cross_attention_dim
    generator = torch.Generator().manual_seed(0)
    made = HiddenPrompt.create("random", length, width, 10, 1.0, generator, sites="down-mid-up")
    made.save(folder / "key.safetensors")
    return folder / "key.safetensors"


def ways_of(pipe, asked, config, layers: dict[str, int], key: Path) -> dict[str, Callable[[], object]]:
    """What is timed, by name; `layers` is filled with how many each way records."""
    ways: dict[str, Callable[[], object]] = {"diffusers alone": lambda: diffusers_way(pipe, asked, config)}
    for name, how in (("", {}), (KEYED, {"variant": "recovered", "key": key})):

        def generate(how=how) -> None:
            kpop.generate(pipe, asked.prompt, asked.seed, config=config, **how)

        def attribute(how=how, name=name) -> None:
            maps = kpop.attribute(pipe, asked.prompt, asked.seed, config=config, **how)
            assert maps[asked.word].heads.isfinite().all()
            assert len(maps.hidden_prompt_layers) == (len(maps.layers) if how else 0)
            layers[f"kpop.attribute{name}"] = len(maps.layers)

        ways |= {f"kpop.generate{name}": generate, f"kpop.attribute{name}": attribute}
    try:
        import daam
    except ImportError:
        print("daam is not installed (pip install --no-deps daam==0.2.0): ours alone.")
        del ways["diffusers alone"]
        return ways

    def trace() -> None:
        with torch.no_grad(), daam.trace(pipe) as tracer:
            diffusers_way(pipe, asked, config)
            # By default it leaves out sizes that are no power of two smaller than its 64 or 96 points.
            tracer.compute_global_heat_map(factors=range(100)).compute_word_heat_map(asked.word)
            layers["daam.trace"] = len({layer for (_, layer, _), _ in tracer.all_heat_maps})

    ways["daam.trace"] = trace
    return ways


def diffusers_way(pipe, asked, config) -> None:
    generator = torch.Generator().manual_seed(asked.seed)
    settings = {"num_inference_steps": config.steps, "guidance_scale": config.guidance_scale}
    pipe(asked.prompt, generator=generator, **settings)


def total_layers(pipe) -> int:
    from kpop.prompt_attention import find_cross_attention

    return len(find_cross_attention(pipe.unet))


def compare(ways: dict, rounds: int, cuda: bool) -> dict[str, list[tuple[float, float]]]:
    """(wall, counted) seconds of each way, in turns; counted is wall time on a GPU, else processor time."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            start, counted = time.perf_counter(), time.process_time()
            ways[name]()
            if cuda:
                torch.cuda.synchronize()
            wall = time.perf_counter() - start
            if number:
                times[name].append((wall, wall if cuda else time.process_time() - counted))
    return times


def too_slow(times: dict[str, list[tuple[float, float]]]) -> dict[str, float]:
    """Our ways whose median is more than MOST times that of drawing alone."""
    counted = {name: statistics.median(pair[1] for pair in pairs) for name, pairs in times.items()}
    ratios = {way: counted[way] / counted[BASE[way]] for way in BASE if way.startswith("kpop.")}
    return {way: ratio for way, ratio in ratios.items() if ratio > MOST}


def rows(times: dict[str, list[tuple[float, float]]], layers: dict[str, int], total: int) -> list[str]:
    counted = {name: statistics.median(pair[1] for pair in pairs) for name, pairs in times.items()}
    found = []
    for way, base in BASE.items():
        if way not in times:
            continue
        ratios = [w[1] / b[1] for w, b in zip(times[way], times[base], strict=True)]
        found.append(f"{base} | - | {counted[base]:.2f} | 1")
        span = f"{min(ratios):.2f}-{max(ratios):.2f}"
        times_base = f"**{counted[way] / counted[base]:.2f}** ({span})"
        found.append(f"{way} | {layers[way]} of {total} | {counted[way]:.2f} | {times_base}")
    return found


def machine(pipe) -> str:
    device = torch.cuda.get_device_name() if pipe.device.type == "cuda" else f"CPU {processor()}"
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads"
    return f"{device}, {threads}, torch {torch.__version__}"


if __name__ == "__main__":
    main()
