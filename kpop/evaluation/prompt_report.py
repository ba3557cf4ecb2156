"""The evaluation of a prompt list written down, the base always beside: metrics.json, report.md, a plot."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..disk import write_json, write_text
from .metrics import ALL_AGREE, Estimate
from .prompt_protocol import NOT_KEPT, OTHERS, PARTS_AT, PromptEvaluation, Rates
from .protocol import DEPTHS, NEUTRAL
from .report import COLOURS, HEADINGS, MARKS, cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEANINGS = {
    "ESR": "erasing success: pictures in which the label is not among the k best; the base's is what it "
    "could not draw anyway",
    "recovery": "pictures in which the label is among the k best, with the key again",
    "PSR": "preserving success: pictures in which the label is among the k best",
    "NER": "nudity exposure: pictures with one of the paper's eight exposed parts above the threshold",
    "NER of the core": "the same without armpits, belly and feet, which make up most of it",
    "weapons seen": "pictures in which the judge gives a weapon more than the threshold",
    "CLIP score": "100 times the cosine of picture and prompt by CLIP ViT-B/32; of artists also with their "
    "name alone, and with the prompt without it",
    "LPIPS to base": "LPIPS (alex) to the base model's picture of the same prompt and seed",
    "judge CLIP": "100 times the cosine by the judge's own small CLIP, likewise; not a CLIP score",
    "judge distance to base": "1 minus the cosine of judge features with the base's picture; not LPIPS",
    "FID": "to the reference pictures, on Inception features; 0 is alike",
    "KID": "to the reference pictures, for few of them, on Inception features; 0 is alike",
    "judge Fréchet distance": "of judge features to the references (or composed scenes); not an FID",
}

CEILING = (
    "What is seen in the base's, no erasure can be expected to take away; ESR is the share in which an "
    "erased label is not among the k best, a mean over the labels."
)


def write_prompt_report(found: PromptEvaluation, out: Path, title: str) -> list[Path]:
    """Write metrics.json, report.md, figures.png and .svg into `out`; their paths. Raises RunError."""
    from .plots import KINDS, save

    write_json(out / "metrics.json", found.to_dict())
    write_text(out / "report.md", markdown(found, title))
    figure = plot(found, title)
    pictures = [] if figure is None else [save(figure, out / f"figures.{kind}") for kind in KINDS]
    return [*(out / name for name in ("metrics.json", "predictions.csv", "report.md")), *pictures]


def markdown(found: PromptEvaluation, title: str) -> str:
    """The report: figures by group, a column a variant; labels, parts and distances where there are some."""
    heads = " | ".join(HEADINGS[variant] for variant in found.variants)
    rule = "---:|" * len(found.variants)
    rows = ", ".join(f"{count} {group}" for group, count in found.pictures.items())
    told = f"Prompts: {rows}; a picture each and variant. In brackets: 95 % bootstrap interval. "
    told += ALL_AGREE
    if found.accuracy is not None:
        told += f" The judge ({found.judge}) is right on {found.accuracy:.1f} % of held-out pictures."
    lines = [f"# {cell(title)}", "", told]
    if _drawable(found):
        lines += ["", "![The figures, with their intervals](figures.png)"]
    for group, named in found.figures.items():
        lines += ["", f"## Prompts: {group}", "", f"| figure | {heads} |", f"|---|{rule}"]
        lines += [f"| {name} | {_row(rates, found.variants)} |" for name, rates in named.items()]
    lines += ["", *_falls(found)]
    if found.labels:
        columns = " | ".join(f"{HEADINGS[v]}, top {k}" for k in DEPTHS for v in found.variants)
        lines += ["## The judge sees the label, percent of pictures", "", f"| label | group | {columns} |"]
        lines += ["|---|---|" + "---:|" * (len(DEPTHS) * len(found.variants))]
        for label, (group, rates) in found.labels.items():
            told = " | ".join(_cell(rates[v][k]) for k in DEPTHS for v in found.variants)
            lines.append(f"| {cell(label)} | {group} | {told} |")
        lines.append("")
    if found.parts:
        lines += [f"## Detections above {PARTS_AT}, by part", "", f"| part | {heads} |", f"|---|{rule}"]
        for part in sorted({part for counts in found.parts.values() for part in counts}):
            counts = " | ".join(str(found.parts[v].get(part, 0)) for v in found.variants)
            lines.append(f"| {part} | {counts} |")
        lines.append("")
    if found.distances:
        kept = sum(count for group, count in found.pictures.items() if group not in NOT_KEPT)
        lines += [f"## Distance of what should stay, on {kept} pictures", ""]
        lines += ["Few pictures make every distance large: compare with the base's.", ""]
        lines += [f"| figure | {heads} |", f"|---|{rule}"]
        for name, held in found.distances.items():
            lines.append(f"| {name} | {' | '.join(f'{held[v]:.4g}' for v in found.variants)} |")
        lines.append("")
    names = {name for named in found.figures.values() for name in named} | set(found.distances)
    lines += [f"- {name}: {what}." for name, what in MEANINGS.items() if name in set(map(_stem, names))]
    if NEUTRAL in found.figures:
        lines.append(f"- {NEUTRAL}: pictures of the neutral text. {CEILING}")
    lines += ["", "## Settings", "", "| setting | value |", "|---|---|"]
    lines += [f"| {cell(name)} | {cell(value)} |" for name, value in found.settings.items()]
    return "\n".join(lines) + "\n"


def table(found: PromptEvaluation) -> str:
    """The same in short, for a terminal."""
    width = max([8, *(len(name) for named in found.figures.values() for name in named)])
    lines = []
    for group, named in found.figures.items():
        heads = "  ".join(f"{HEADINGS[v]:<28}" for v in found.variants)
        lines.append(f"{f'{group} ({found.pictures[group]})':<{width}}  {heads}".rstrip())
        for name, rates in named.items():
            told = "  ".join(f"{_cell(rates[v]) if v in rates else '–':<28}" for v in found.variants)
            lines.append(f"{name:<{width}}  {told}".rstrip())
    for name, held in found.distances.items():
        lines.append(name + ": " + ", ".join(f"{HEADINGS[v]} {held[v]:.4g}" for v in found.variants))
    return "\n".join([*lines, *(line for line in _falls(found) if line)])


def plot(found: PromptEvaluation, title: str) -> Figure | None:
    """The figures in percent with their intervals, a panel a group; None where there is none.

    Rates over thresholds are curves, as in Fig. 3; the others are a line each.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _drawable(found)
    if not panels:
        return None
    parts = any(found.parts.values())
    wide = len(panels) + parts
    figure = Figure(figsize=(1.0 + 4.2 * wide, 4.4), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    every = figure.subplots(1, wide, squeeze=False)[0]
    if parts:
        _bars(every[-1], found)
    for axes, (heading, named) in zip(every[: len(panels)], panels, strict=True):
        curve = found.protocol == "sensitive"
        for i, variant in enumerate(found.variants):
            held = [(place, rates[variant]) for place, rates in enumerate(named.values()) if variant in rates]
            rates = [rate for _, rate in held]
            around = [[rate - rate.low for rate in rates], [rate.high - rate for rate in rates]]
            style = {"color": COLOURS[variant], "fmt": MARKS[variant], "label": HEADINGS[variant]}
            style |= {"markersize": 5, "elinewidth": 1.4, "capsize": 2.5}
            if curve:
                at = [float(name.rpartition("-")[2]) + 0.005 * (i - 1) for name in named]
                axes.errorbar(at, rates, yerr=around, linestyle="-", **style)
            else:
                axes.errorbar(rates, [place + 0.2 * (i - 1) for place, _ in held], xerr=around, **style)
        axes.set_title(heading, fontsize=9)
        if curve:
            axes.set(ylim=(0, None), xlabel="threshold", ylabel="pictures, %")
        else:
            axes.set(xlim=(-4, 104), ylim=(len(named) - 0.5, -0.5), xlabel="pictures, %")
            axes.set_yticks(range(len(named)), list(named), fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(axis="y" if curve else "x", color="#e2e8f0")
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.suptitle(title, fontsize=11, parse_math=False)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def _bars(axes: Axes, found: PromptEvaluation) -> None:
    """Detections by part, a bar a variant, the commonest of the base on top."""
    base = found.parts["original"]
    names = sorted(
        {part for counts in found.parts.values() for part in counts}, key=lambda part: -base.get(part, 0)
    )
    high = 0.8 / len(found.variants)
    for i, variant in enumerate(found.variants):
        places = [place + high * (i - (len(found.variants) - 1) / 2) for place in range(len(names))]
        counts = [found.parts[variant].get(part, 0) for part in names]
        axes.barh(places, counts, height=high, color=COLOURS[variant])
    axes.set_yticks(range(len(names)), [name.lower().replace("_", " ") for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_title(f"detections above {PARTS_AT}", fontsize=9)
    axes.set_xlabel("detections")
    axes.tick_params(labelsize=8)
    axes.xaxis.get_major_locator().set_params(integer=True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _drawable(found: PromptEvaluation) -> list[tuple[str, dict[str, Rates]]]:
    """(heading, figures in percent) a panel: a group, or of `sensitive` a group and a rate."""
    panels: dict[str, dict[str, Rates]] = {}
    for group, named in found.figures.items():
        for name, rates in named.items():
            if next(iter(rates.values())).unit == "%":
                heading = f"{_stem(name)}, {group}" if found.protocol == "sensitive" else group
                panels.setdefault(f"{heading} ({found.pictures[group]})", {})[name] = rates
    return list(panels.items())


def _falls(found: PromptEvaluation) -> list[str]:
    """A line a rate of `sensitive` at PARTS_AT: by how much it fell. A base of nought cannot fall."""
    lines = []
    for group, named in found.figures.items():
        for name, rates in named.items():
            if (
                found.protocol != "sensitive"
                or group in (OTHERS, NEUTRAL)
                or not name.endswith(f"-{PARTS_AT:g}")
            ):
                continue
            before, after = rates["original"], rates["sanitized"]
            if before > 0:
                fall = 100.0 * (before - after) / before
                lines += [f"{name}: from {before:.1f} to {after:.1f} %, by {fall:.0f} %.", ""]
    return lines


def _stem(name: str) -> str:
    name = name.split(",")[0]
    stem, dash, last = name.rpartition("-")
    return stem if dash and last.replace(".", "").isdigit() else name


def _row(rates: Rates, variants: tuple[str, ...]) -> str:
    return " | ".join(_cell(rates[v]) if v in rates else "–" for v in variants)


def _cell(rate: Estimate) -> str:
    if rate.unit == "%":
        return f"{rate:.1f} ({rate.low:.1f} to {rate.high:.1f})"
    return f"{rate:.4g} ({rate.low:.4g} to {rate.high:.4g})"
