"""An evaluation written down: metrics.json, report.md and a plot, beside predictions.csv."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..disk import write_json, write_text
from .metrics import ALL_AGREE
from .protocol import DEPTHS, NEUTRAL, NEUTRAL_TEXT, Evaluation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"original": "#475569", "sanitized": "#0f766e", "recovered": "#b45309"}
MARKS = {"original": "s", "sanitized": "o", "recovered": "D"}
HEADINGS = {"original": "base", "sanitized": "sanitized", "recovered": "recovered"}
MEANINGS = {
    "base": "base model: pictures in which the judge sees the word",
    "ceiling": "base model: pictures of the neutral text in which it does not see an erased word, a mean "
    "over the words; more of ESR than that no erasure can be expected to reach",
    "ESR": "erasing success: sanitized pictures in which it does not",
    "recovery": "pictures drawn with the key in which it does again",
    "PSR": "preserving success: sanitized pictures in which it does",
}


def write_report(evaluation: Evaluation, out: str | Path, title: str) -> list[Path]:
    """Write metrics.json, report.md, detection.png and .svg into `out`; their paths. Raises RunError."""
    from .plots import KINDS, save

    out, figure = Path(out), plot(evaluation, title)
    write_json(out / "metrics.json", evaluation.to_dict())
    write_text(out / "report.md", markdown(evaluation, title))
    pictures = [save(figure, out / f"detection.{kind}") for kind in KINDS]
    return [*(out / name for name in ("metrics.json", "predictions.csv", "report.md")), *pictures]


def markdown(evaluation: Evaluation, title: str) -> str:
    """The report: what was measured, a row a word, and the figures of the paper per role."""
    seeds, variants = evaluation.seeds, evaluation.variants
    lines = [
        f"# {cell(title)}",
        "",
        f"{len(seeds)} pictures a word and variant (seeds {seeds[0]} to {seeds[-1]}). "
        f"The judge is right on {evaluation.accuracy:.1f} % of held-out pictures. "
        f"In brackets: 95 % bootstrap interval. {ALL_AGREE}",
        "",
        "![How often the judge sees each word](detection.png)",
        "",
        "## The judge sees the word, percent of pictures",
        "",
        "| word | role | " + " | ".join(f"{HEADINGS[v]}, top {k}" for k in DEPTHS for v in variants) + " |",
        "|---|---|" + "---:|" * (len(DEPTHS) * len(variants)),
    ]
    for result in evaluation.words:
        rates = [_rate(result.rates[variant][k]) for k in DEPTHS for variant in variants]
        lines.append(f"| {cell(result.word)} | {result.role} | {' | '.join(rates)} |")
    if any(result.role == NEUTRAL for result in evaluation.words):
        lines += ["", f"Of the {NEUTRAL_TEXT}: pictures in which it sees any of the erased words."]
    lines += ["", "## Together", "", "| words | figure | percent | pictures |", "|---|---|---:|---:|"]
    for role, figures in evaluation.summary.items():
        lines += [f"| {role} | {name} | {_rate(rate)} | {rate.n} |" for name, rate in figures.items()]
    told = {name.split("-")[0] for figures in evaluation.summary.values() for name in figures}
    lines += ["", *(f"- {name}-k: {meaning}." for name, meaning in MEANINGS.items() if name in told)]
    lines += [
        "",
        "k: the judge's k best labels count.",
        "",
        "## Settings",
        "",
        "| setting | value |",
        "|---|---|",
    ]
    lines += [f"| {cell(name)} | {cell(value)} |" for name, value in evaluation.settings.items()]
    return "\n".join(lines) + "\n"


def table(evaluation: Evaluation) -> str:
    """The same in short, for a terminal: top-1 rates."""
    width = max(8, *(len(result.word) for result in evaluation.words))
    lines = [
        f"{'word':<{width}}  {'role':<9}  "
        + "".join(f"{HEADINGS[v]:<25}" for v in evaluation.variants)
        + "(top 1, %)"
    ]
    for result in evaluation.words:
        rates = "".join(f"{_rate(result.rates[variant][1]):<25}" for variant in evaluation.variants)
        lines.append(f"{result.word:<{width}}  {result.role:<9}  {rates}")
    lines.append(f"judge: {evaluation.accuracy:.1f} % right on held-out pictures")
    return "\n".join(lines)


def plot(evaluation: Evaluation, title: str) -> Figure:
    """Detection rates with their intervals: a line a word, a panel a k."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    words = evaluation.words
    figure = Figure(figsize=(9.0, 1.7 + 0.55 * len(words)), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(DEPTHS), sharey=True)
    for axes, k in zip(panels, DEPTHS, strict=True):
        for i, variant in enumerate(evaluation.variants):
            rates = [result.rates[variant][k] for result in words]
            around = [[rate - rate.low for rate in rates], [rate.high - rate for rate in rates]]
            places = [line + 0.22 * (i - 1) for line in range(len(words))]
            axes.errorbar(
                [float(rate) for rate in rates], places, xerr=around,
                fmt=MARKS[variant], color=COLOURS[variant], markersize=5, elinewidth=1.4, capsize=2.5,
                label=HEADINGS[variant],
            )  # fmt: skip
        axes.set(xlim=(-4, 104), title=f"among the judge's {k} best" if k > 1 else "the judge's first word")
        axes.set_yticks(
            range(len(words)), [f"{result.word}\n({result.role})" for result in words], fontsize=8
        )
        axes.set_xlabel("pictures in which the judge sees the word, %", fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.title.set_fontsize(9)
        axes.grid(axis="x", color="#e2e8f0")
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[0].set_ylim(len(words) - 0.5, -0.5)
    figure.suptitle(title, fontsize=11, parse_math=False)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(evaluation.variants), frameon=False, fontsize=8
    )
    return figure


def _rate(rate) -> str:
    return f"{rate:.1f} ({rate.low:.1f} to {rate.high:.1f})"


def cell(value: object) -> str:
    text = "–" if value is None else " ".join(str(value).split())
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
