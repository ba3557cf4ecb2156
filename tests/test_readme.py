"""What the README and the docs name exists: commands and their flags, make targets, files, Python names."""

import re
import shlex
from pathlib import Path

import pytest

import kpop
from kpop import cli

REPO = Path(__file__).resolve().parent.parent
PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]


def told(pattern: str, pages: list[Path] = PAGES) -> list[str]:
    """Every match of the pattern, once; lines that end in a backslash count as one."""
    texts = [re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8")) for page in pages]
    return list(dict.fromkeys(match for text in texts for match in re.findall(pattern, text)))


def words(line: str) -> list[str]:
    return shlex.split(line, comments=True)


@pytest.mark.parametrize("line", told(r"(?m)^ {0,4}(?:\S*/)?python3? -m kpop (.+)$"))
def test_a_command_that_is_shown_is_understood(line):
    args = cli.build_parser().parse_args([cli._dashed(word) for word in words(line)])
    for read in (cli.erase_config, cli.generation_config):
        if read is cli.generation_config or hasattr(args, "set"):
            read(args)
    if getattr(args, "seeds", None) is not None:
        cli.seed_list(args.seeds)


@pytest.mark.parametrize("line", told(r"(?m)^ {0,4}(?:\S*/)?python3? app\.py(.*)$"))
def test_flags_of_the_app_that_are_shown_are_understood(line):
    from app import read_flags

    assert read_flags(words(line)).port == 7860


def test_files_and_make_targets_that_are_named_are_there():
    makefile = (REPO / "Makefile").read_text()
    for target in told(r"\bmake ([a-z-]+) +#"):
        assert re.search(rf"(?m)^{target}:", makefile), target
    for page in PAGES:
        for link in told(r"\]\((?!http)([^)#]+)\)", [page]):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
    for name in told(r"`?((?:requirements[\w-]*\.txt|(?:kpop|docs|assets|presets|benchmarks)/[\w./-]*))"):
        assert (REPO / name.rstrip(".")).exists(), name


def test_python_names_that_are_shown_are_there():
    for name in told(r"\bkpop\.([A-Za-z_]+)\(", [REPO / "README.md"]):
        assert callable(getattr(kpop, name)), name
