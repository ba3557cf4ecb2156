"""Where a benchmark's table goes: the part of a Markdown file between its marks, or the terminal."""

from __future__ import annotations

from pathlib import Path


def put(text: str, part: str, out: Path | None) -> None:
    """Print, or replace what stands between the marks of `part` in the file."""
    if out is None:
        print(text)
        return
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    before = out.read_text("utf-8") if out.is_file() else ""
    if begin not in before or end not in before:
        before = f"{before.rstrip()}\n\n{begin}\n{end}\n".lstrip()
    head, _, rest = before.partition(begin)
    out.write_text(f"{head}{begin}\n\n{text}\n{end}{rest.partition(end)[2]}", "utf-8")
    print(out)
