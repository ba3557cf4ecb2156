"""What the flags of cli.py, and files of settings, stand for: seeds, concepts, keys, both configs.

Nothing here loads torch.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from .config import EraseConfig, GenerationConfig, concept_name
from .errors import InputError

MOST_SEEDS = 100_000
EVALUATION_SEEDS, WORD_TEMPLATE = "500-519", "a {}"  # of `evaluate`, where nothing else is said
LISTS = ("concepts", "retain")


def evaluation_seeds(args: argparse.Namespace) -> list[int]:
    """Seeds of the pictures of `evaluate`. Raises InputError."""
    return seed_list(EVALUATION_SEEDS if args.seeds is None else args.seeds)


def word_template(args: argparse.Namespace) -> str:
    """What `evaluate` draws a word by."""
    return WORD_TEMPLATE if args.template is None else args.template


def erase_config(args: argparse.Namespace) -> EraseConfig:
    """The EraseConfig of --config, with what flags and --set say put over it. Raises InputError."""
    flags = {
        key.removeprefix("erase_"): value for key, value in vars(args).items() if key.startswith("erase_")
    }
    for name in LISTS:
        if name in flags:
            flags[name] = concept_list(flags[name])
    file = getattr(args, "config", None)
    values = {**(read_settings(Path(file)) if file else {}), **flags}
    for pair in args.set:
        name, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"--set takes FIELD=VALUE, not {pair!r}.")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        values["lambda_" if name.strip() == "lambda" else name.strip().replace("-", "_")] = value
    return EraseConfig.from_dict(values)


def read_settings(path: Path) -> dict[str, Any]:
    """EraseConfig fields of a YAML or JSON file, "lambda" as "lambda_"; only their names are checked here.

    Raises InputError where it cannot be read, is no mapping, or names a field that there is not.
    """
    import yaml

    name = path.name[-80:]
    try:
        text = path.expanduser().read_text("utf-8")
        values = json.loads(text) if path.suffix.lower() == ".json" else yaml.load(text, _loader())
    except OSError as error:
        raise InputError(f"The settings {name} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # PyYAML raises many kinds on odd dates and numbers
        told = " ".join(str(error).split())[:200]
        raise InputError(f"The settings {name} cannot be read: {told}") from error
    if not isinstance(values, dict):
        raise InputError(f"The settings {name} must be fields and values, such as `concepts: [church]`.")
    known = {field.name for field in fields(EraseConfig)}
    spelt = {"lambda_" if key == "lambda" else key: value for key, value in values.items()}
    unknown = [str(key) for key in spelt if key not in known]
    if unknown:
        raise InputError(
            f"The settings {name} hold {unknown[0][:60]!r}, which is no setting; see `train --help`."
        )
    return spelt


def _loader() -> type:
    """A safe YAML loader that reads 1e-5 as a number, as YAML 1.2 and people do, and no aliases.

    Aliases of aliases make a few lines as long as one likes ("billion laughs").
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent, index):
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases (*name) are not read; write the value out.")
            return super().compose_node(parent, index)

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )
    return Loader


def concept_list(texts: Sequence[str]) -> list[str | tuple[str, ...]]:
    """Concepts from words: commas between concepts, "|" between synonyms; "none" alone is no concept."""
    if [text.strip().lower() for text in texts] == ["none"]:
        return []
    found: list[str | tuple[str, ...]] = []
    for item in ",".join(texts).split(","):
        synonyms = tuple(word.strip() for word in item.split("|") if word.strip())
        if synonyms:
            found.append(synonyms if len(synonyms) > 1 else synonyms[0])
    return found


def generation_config(args: argparse.Namespace) -> GenerationConfig:
    """The GenerationConfig of the sampling flags. Raises InputError."""
    values = {
        key.removeprefix("draw_"): value for key, value in vars(args).items() if key.startswith("draw_")
    }
    return GenerationConfig(**values)


def seed_list(text: str) -> list[int]:
    """Seeds from "500-519" or "1,5,9-11". Raises InputError."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isascii() or not first.isdigit() or (dash and not (last.isascii() and last.isdigit())):
            raise InputError(f"Seeds are written as 0-3 or 1,5,9, not {text[:60]!r}.")
        start, end = int(first), int(last if dash else first)
        if end < start or end >= 2**63 or end - start >= MOST_SEEDS or len(found) > MOST_SEEDS:
            raise InputError(
                f"Seeds {part.strip()[:60]!r}: write the smaller first, and at most {MOST_SEEDS}."
            )
        found += range(start, end + 1)
    return list(dict.fromkeys(found))


def key_of(text: str) -> str | list[str] | None:
    """The key that --key names: None, "own", a path, or concept names."""
    if text.lower() == "none":
        return None
    if text == "own" or text.endswith(".safetensors") or os.sep in text:
        return text
    found = [concept_name(concept) for concept in concept_list([text])]
    if not found:
        raise InputError("--key names no key: leave it out, or give none, own, a concept or a key file.")
    return found


def key_told(text: str) -> str:
    """--key as an evaluation notes it: of a file its name and what is in it, not where it lies."""
    from . import models

    key = key_of(text)
    path = Path(key).expanduser() if isinstance(key, str) and key != "own" else None
    return f"{path.name} ({models.file_hash(path)[:16]})" if path is not None and path.is_file() else text
