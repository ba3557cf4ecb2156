"""What watching the heads costs: generation with and without recording, alternating, in one run.

    python -m benchmarks.attribution [--model emoji] [--seeds 0 1 2 3] [--rounds 5] [--daam]

On a CPU the ratios are of processor time, which other programs on the machine disturb less. --daam adds the
daam package's tracer, one picture at a time and on models of 64x64 latents, which is all it can do.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import kpop


def main() -> None:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--prompt", default="a church on a blue background")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--daam", action="store_true")
    asked = parser.parse_args()
    pipe = kpop.load_pipeline(asked.model, device=asked.device)
    if asked.daam and pipe.unet.config.sample_size != 64:
        parser.error("--daam needs a model of 64x64 latents, such as Stable Diffusion 1.4")
    config = kpop.GenerationConfig(steps=asked.steps).resolved(asked.model)
    print(machine(pipe))
    print(f"{asked.model}, {asked.prompt!r}, seeds {asked.seeds}, {config.steps} steps, guidance "
          f"{config.guidance_scale}, median of {asked.rounds} rounds after one to warm up")  # fmt: skip
    ways: dict[str, Callable[[list[int]], object]] = {
        "generate": lambda seeds: kpop.generate(pipe, asked.prompt, seeds, config=config),
        "attribute": lambda seeds: kpop.attribute(pipe, asked.prompt, seeds, config=config),
    }
    times = compare(ways, asked.seeds, asked.rounds, pipe)
    show(times, "generate")
    if asked.daam:
        one = {**ways, "daam.trace": daam_way(pipe, asked.prompt, config)}
        times = compare(one, asked.seeds[:1], asked.rounds, pipe)
        print("one seed, daam beside it (diffusers' own loop, so its base differs):")
        show(times, "generate")


def compare(ways: dict, seeds: list[int], rounds: int, pipe) -> dict[str, list[tuple[float, float]]]:
    """(wall, counted) seconds of each way, in turns, so that a busy machine disturbs all alike."""
    cuda = pipe.device.type == "cuda"
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in list(ways)[:: 1 if number % 2 else -1]:
            start, counted = time.perf_counter(), time.process_time()
            ways[name](seeds)
            if cuda:
                torch.cuda.synchronize()
            wall = time.perf_counter() - start
            if number:
                times[name].append((wall, wall if cuda else time.process_time() - counted))
    return times


def show(times: dict[str, list[tuple[float, float]]], base: str) -> None:
    counted = {name: statistics.median(pair[1] for pair in pairs) for name, pairs in times.items()}
    for name, pairs in times.items():
        wall = [pair[0] for pair in pairs]
        print(f"{name:12} {statistics.median(wall):8.3f} s wall ({min(wall):.3f}-{max(wall):.3f})  "
              f"{counted[name]:8.3f} s counted  {counted[name] / counted[base]:.2f} x {base}")  # fmt: skip


def daam_way(pipe, prompt: str, config) -> Callable[[list[int]], object]:
    import daam

    def draw(seeds: list[int]) -> None:
        with torch.no_grad(), daam.trace(pipe) as tracer:
            generator = torch.Generator().manual_seed(seeds[0])
            settings = {"num_inference_steps": config.steps, "guidance_scale": config.guidance_scale}
            pipe(prompt, generator=generator, **settings)
            tracer.compute_global_heat_map()

    return draw


def machine(pipe) -> str:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].split(":", 1)[1].strip() if lines else name
    device = torch.cuda.get_device_name() if pipe.device.type == "cuda" else f"CPU {name}"
    return (f"{device}, {os.cpu_count()} cores, {torch.get_num_threads()} torch threads, {pipe.unet.dtype}, "
            f"torch {torch.__version__}")  # fmt: skip


if __name__ == "__main__":
    main()
