"""The tables of the paper that `reproduce` wrote into docs/results, to read on the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

from .. import models
from .markdown import markdown_html
from .pictures import notice

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


def paper_tables(folder: Path = RESULTS) -> list[tuple[str, str]]:
    """(title, name) of every table or figure there is, for a choice; tables first."""
    found = [path.with_suffix(".md") for path in sorted(folder.glob("*.json"), key=_place)]
    return [(_title(path), path.stem) for path in found if path.is_file()]


def _place(path: Path) -> tuple:
    """Tables first, figures last, table 2 before table 10."""
    kind, number = re.fullmatch(r"(\D*)(\d*).*", path.stem).groups()
    return kind != "table", kind == "fig", kind, int(number or 0)


def _title(path: Path) -> str:
    with open(path, encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip() or path.stem


def paper_table_html(name: str | None, folder: Path = RESULTS) -> str:
    """HTML of one of them, its picture inlined; any other name says how they are made.

    One that was not drawn by the embedded model as it is says so.
    """
    if name not in [known for _, known in paper_tables(folder)]:
        return notice("No table here yet", "Make the paper's tables with: python -m kpop reproduce table2")
    text = (folder / f"{name}.md").read_text("utf-8")
    drew = json.loads((folder / f"{name}.json").read_text("utf-8")).get("model_hash")
    if drew != models.model_hash("emoji"):
        text += "\n*Drawn by other weights than the embedded model has now. With these: "
        text += f"python -m kpop reproduce {name}*\n"
    return f'<div class="paper">{markdown_html(text, folder)}</div>'
