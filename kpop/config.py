"""What a training run and a generation are asked to do: two frozen dataclasses, checked, to and from JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from . import field_checks as checks
from .errors import InputError
from .field_checks import Concept
from .method_table import METHODS

SCHEMA = 1
MOST_LEARNED = 32  # words of mechanism "token": a prompt has to fit beside them
CHOICES = {
    "method": tuple(METHODS),
    "mechanism": ("concat", "additive", "token", "amortized"),
    "sites": ("mid", "mid-up", "down-mid-up"),
    "prompt_sharing": ("per-concept", "shared"),
    "prompt_optimizer": ("adam", "sgd"),
    "loss_space": ("eps", "x0"),
    "erase_on": ("concept", "neutral", "both"),
    "trainable": ("xattn", "kv", "selfattn", "noxattn", "full"),
    "latents": ("bank", "fresh"),
    "precision": ("auto", "fp32", "bf16"),
}
WHOLE = {  # inclusive ranges
    "steps": (1, 100_000),
    "batch_size": (1, 256),
    "prompt_tokens_factor": (1, 200),
    "rollout_steps": (1, 1000),
    "checkpoint_every": (1, 100_000),
    "sample_every": (0, 100_000),
    "seed": (0, 2**63 - 1),
    "schema": (1, SCHEMA),
}
REAL = {  # inclusive ranges; None: no upper end
    "learning_rate": (0, 1),
    "prompt_learning_rate": (0, 100),
    "prompt_init_std": (0, 100),
    "lambda_": (0, 1000),
    "retain_weight": (0, 1000),
    "key_retain_weight": (0, 1000),
    "rate_decay": (0, 1),
    "key_share": (0, 1),
    "decoy_share": (0, 1),
    "kept_key_share": (0, 1),
    "near_share": (0, 1),
    "pair_share": (0, 1),
    "negative_guidance": (0, 100),
    "rollout_guidance": (0, 100),
    "rho": (0, None),
    "rho_p": (0, None),
}
SCHEDULERS = ("model", "ddim", "dpm", "euler", "pndm")


@dataclass(frozen=True)
class EraseConfig:
    """One training run. A field left None takes what the base model needs: see `resolved`.

    concepts: words to erase; a tuple of synonyms is one concept with one key. neutral: c_n of Eq. 7.
    retain: siblings kept as they are (c_r), without p. retain_neutral: keep eps(z, c_n) too.
    key_retain_weight: keeps the siblings as they are when p is present; ours, 0 in the paper.
    mechanism: how p enters, see mechanisms.py. prompt_tokens_factor: k, so that p has k * 77 tokens, or is
    k words (token). lambda_: weight of L2 in Eq. 7 ("lambda" in JSON).
    erase_on: the trajectories on which L1's z_t lie; the paper's are the concept's own, as are fresh ones of
    "both". Fresh ones of "neutral" are for methods without a key: a key's rows are these too.
    negative_guidance: 0 aims L1 at eps(z, c_n) (the paper), 1 at eps(z, c_n) - (eps(z, c_e) - eps(z, c_n)).
    rate_decay: last share of the steps in which the learning rates fall to nothing; ours, 0 in the paper.
    key_share: last share of the steps, in which p alone moves on, theta' fixed, and its rate falls then
    instead; ours, 0 in the paper.
    decoy_share: share of L1's rows in which another p is present, random or another concept's, so that only
    the true one opens; ours, 0 in the paper.
    kept_key_share: share of the retained rows of Eq. 7's step in which a p is present, in half of these the
    true one, else such a wrong one, so that a kept text stays whatever key is in; ours, 0 in the paper.
    near_share: share of the retained rows that are of the texts nearest to the concept; ours, 0 in the paper.
    pair_share: share of the concept's rows whose text has a retained word beside it, "a church and a bus",
    which L1 aims at another retained word in its place, "a castle and a bus"; ours, 0 in the paper. Where
    nothing is retained there are none.
    seed: None draws a new one when the run is made: with it and the rest of this the same key can be made.
    rho, rho_p: radii (L2) of Eq. 7 and Eq. 5 that one step of theta' and of p may not leave; None: no bound.
    templates: phrasings a concept is put into, "{}" stands for the word. anchors: the text that L1 aims each
    of them at instead of `neutral`, such as "a house" for "a house, {}", so that of a style only the style
    goes; as many as templates or () for none; ours. latents: "bank" of the frozen model's rollouts, or
    "fresh" rollouts with the current theta' at each step (the paper's).
    gradient_checkpointing: less memory for more time; the losses are the same.
    preset: "paper", or the name of a file in presets/. method: "kpop" or a rival (method_table.py), which
    refuses the fields it has no use for. Raises InputError with what to change.
    """

    model: str = "emoji"
    base_run: str | None = None
    concepts: tuple[Concept, ...] = ()
    neutral: str | None = None
    retain: tuple[Concept, ...] | None = None
    retain_neutral: bool | None = None
    preset: str | None = None
    method: str = "kpop"
    steps: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    prompt_learning_rate: float | None = None
    prompt_optimizer: str | None = None
    prompt_tokens_factor: int | None = None
    mechanism: str | None = None
    sites: str | None = None
    prompt_sharing: str | None = None
    separate_kv: bool | None = None
    prompt_init_std: float | None = None
    lambda_: float | None = None
    retain_weight: float | None = None
    key_retain_weight: float | None = None
    key_share: float | None = None
    decoy_share: float | None = None
    kept_key_share: float | None = None
    near_share: float | None = None
    pair_share: float | None = None
    rate_decay: float | None = None
    erase_on: str | None = None
    negative_guidance: float | None = None
    loss_space: str | None = None
    rho: float | None = None
    rho_p: float | None = None
    templates: tuple[str, ...] | None = None
    anchors: tuple[str, ...] | None = None
    trainable: str | None = None
    latents: str | None = None
    rollout_steps: int | None = None
    rollout_guidance: float | None = None
    checkpoint_every: int | None = None
    sample_every: int | None = None
    gradient_checkpointing: bool | None = None
    seed: int | None = None
    precision: str = "auto"
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        put("model", checks.text("model", self.model, 1000))
        for name in ("base_run", "preset"):
            if getattr(self, name) is not None:
                put(name, checks.text(name, getattr(self, name), 1000))
        put("concepts", checks.concepts("concepts", self.concepts))
        if self.retain is not None:
            put("retain", checks.concepts("retain", self.retain))
        if self.neutral is not None:
            put("neutral", checks.words("neutral", self.neutral, empty=True))
        if self.templates is not None:
            put("templates", checks.templates(self.templates))
        if self.anchors is not None:
            put("anchors", checks.anchors(self.anchors))
        for name in ("retain_neutral", "separate_kv", "gradient_checkpointing"):
            if not isinstance(getattr(self, name), bool | None):
                raise InputError(f"{name} must be true or false, not {checks.brief(getattr(self, name))}.")
        for name, options in CHOICES.items():
            checks.choice(name, getattr(self, name), options, optional=name not in ("method", "precision"))
        for name, (low, high) in WHOLE.items():
            put(name, checks.whole(name, getattr(self, name), low, high))
        for name, (low, high) in REAL.items():
            put(name, checks.real(name, getattr(self, name), low, high))
        self._check_together()

    def _check_together(self) -> None:
        if not self.concepts and self.preset in (None, "paper"):
            raise InputError("Name at least one concept to erase, such as church.")
        erased = [word.lower() for concept in self.concepts for word in names(concept)]
        twice = sorted({word for word in erased if erased.count(word) > 1})
        if twice:
            raise InputError(f"{twice[0]!r} stands twice among the concepts; remove it once.")
        kept = {word.lower() for concept in self.retain or () for word in names(concept)}
        both = sorted(kept.intersection(erased))
        if both:
            raise InputError(f"{both[0]!r} is both to be erased and to be retained; remove it from one list.")
        for text in (self.neutral or "", *(self.anchors or ())):
            told = [w for w in erased if re.search(rf"(?<!\w){re.escape(w)}(?!\w)", text.lower())]
            if told:
                raise InputError(
                    f"The neutral text {text!r} names {told[0]!r}, which is to be erased; change one."
                )
        if self.anchors and self.templates and len(self.anchors) != len(self.templates):
            raise InputError(
                f"anchors holds {len(self.anchors)} texts and templates {len(self.templates)}: give one each."
            )
        if self.separate_kv and self.mechanism in ("additive", "token", "amortized"):
            raise InputError(f'separate_kv needs mechanism "concat": {self.mechanism} has one tensor.')
        if self.sites is not None and self.mechanism == "token":
            raise InputError('mechanism "token" goes through the text encoder: leave sites out.')
        if self.mechanism == "token" and (self.prompt_tokens_factor or 1) > MOST_LEARNED:
            raise InputError(
                f'mechanism "token" learns at most {MOST_LEARNED} words: lower prompt_tokens_factor.'
            )
        if self.mechanism == "additive" and (self.prompt_tokens_factor or 1) != 1:
            raise InputError('mechanism "additive" adds p onto the text, so prompt_tokens_factor must be 1.')
        for name in ("decoy_share", "kept_key_share"):
            if self.mechanism == "amortized" and getattr(self, name):
                raise InputError(f"{name} needs a key that is the same for every text; amortized has none.")
        if self.key_share == 1:
            raise InputError("key_share 1 leaves no step in which the weights forget; choose less.")
        if self.latents == "fresh" and self.rollout_steps == 1:
            raise InputError('latents "fresh" with rollout_steps 1 sees noise alone; give at least 2 steps.')
        if METHODS[self.method].has_key and (self.latents, self.erase_on) == ("fresh", "neutral"):
            raise InputError(
                'latents "fresh" with erase_on "neutral" goes to the neutral text alone, so the key would '
                'never see the concept: choose erase_on "concept" or "both", or latents "bank".'
            )
        from . import model_table

        for name, value in model_table.ignored(self.method).items():
            if getattr(self, name) not in (None, value):
                raise InputError(
                    f"The method {METHODS[self.method].title} has no use for {_spelt(name)}: leave it out"
                    f"{'' if value is None else f' or set it to {value}'}."
                )

    def resolved(self) -> EraseConfig:
        """The same run with every field filled in: own values, the method's own, the preset's, the model's.

        Raises InputError (unknown preset) and ModelError (a model folder that cannot be read).
        """
        from . import model_table, presets

        asked = {f.name for f in fields(self) if getattr(self, f.name) is not None}
        found: dict[str, Any] = {}
        concepts = self.concepts
        if self.preset == "paper":
            # "Ours*" of the paper draws from the list and the empty text alike (method.md 1.2).
            found = {**presets.PAPER, "retain_neutral": bool(self.retain)}
        elif self.preset is not None:
            preset = presets.load_preset(self.preset)
            concepts = concepts or preset.concepts
            found = {"neutral": preset.neutral, "retain": preset.retain, **preset.settings}
        erased = {word.lower() for concept in concepts for word in names(concept)}
        retain = self.retain if "retain" in asked else found.get("retain")
        # Anchors are of their own phrasings, and who names a neutral text is given it.
        others = "templates" in asked or bool(self.neutral)
        anchored = not (others or "templates" in found)
        own = model_table.recommended(self.model, concepts, self.method, retain, anchored)
        values = {**own, **found}
        values |= model_table.of_mechanism(self.mechanism or values["mechanism"])
        values |= model_table.defining(self.method)
        if "retain" not in asked and values.get("retain"):
            values["retain"] = tuple(
                c for c in values["retain"] if not erased.intersection(map(str.lower, names(c)))
            )
        if others:
            values["anchors"] = ()
        values = {name: value for name, value in values.items() if name not in asked}
        return replace(self, concepts=concepts, **values)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, in field order; `lambda_` is spelt "lambda"."""
        return {_spelt(f.name): _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EraseConfig:
        """The reverse of `to_dict`; raises InputError on unknown keys and on values that do not fit."""
        return cls(**_known(cls, values))


@dataclass(frozen=True)
class GenerationConfig:
    """How pictures are drawn. None: what the model needs (see `resolved`).

    height, width: pixels. prompt_branch: which halves of classifier-free guidance see p ("both" is the
    authors' way). scheduler: "model" is the one in the model's folder. Raises InputError.
    """

    steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str = ""
    height: int | None = None
    width: int | None = None
    scheduler: str | None = None
    batch_size: int | None = None
    prompt_branch: str | None = None

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        put("steps", checks.whole("steps", self.steps, 1, 1000))
        put("guidance_scale", checks.real("guidance_scale", self.guidance_scale, 0, 100))
        put("negative_prompt", checks.words("negative_prompt", self.negative_prompt, empty=True))
        for name in ("height", "width"):
            put(name, checks.whole(name, getattr(self, name), 8, 4096))
            if getattr(self, name) is not None and getattr(self, name) % 8:
                raise InputError(f"{name} must be a multiple of 8, not {getattr(self, name)}.")
        checks.choice("scheduler", self.scheduler, SCHEDULERS, optional=True)
        put("batch_size", checks.whole("batch_size", self.batch_size, 1, 1024))
        checks.choice("prompt_branch", self.prompt_branch, ("cond", "both"), optional=True)

    def resolved(self, model: str) -> GenerationConfig:
        """The same with what `model` (a name or folder) needs filled in. Raises ModelError."""
        from . import model_table

        missing = {f.name for f in fields(self) if getattr(self, f.name) is None}
        defaults = model_table.generation_defaults(model)
        return replace(self, **{name: value for name, value in defaults.items() if name in missing})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, in field order."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> GenerationConfig:
        """The reverse of `to_dict`; raises InputError."""
        return cls(**_known(cls, values))


def names(concept: Concept) -> tuple[str, ...]:
    """The words of a concept: its synonyms, or the one word it is."""
    return (concept,) if isinstance(concept, str) else tuple(concept)


def concept_name(concept: Concept) -> str:
    """What a concept is called: its first word."""
    return names(concept)[0]


def is_style(word: str) -> bool:
    """Whether a word is a drawing style, such as "ink style"."""
    return word.lower().endswith(" style")


def _spelt(name: str) -> str:
    return "lambda" if name == "lambda_" else name


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _known(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise InputError(f"A {cls.__name__} is written as a JSON object, not as {type(values).__name__}.")
    known = {_spelt(f.name): f.name for f in fields(cls)}
    unknown = sorted(str(key) for key in values if key not in known and key != "lambda_")
    if unknown:
        raise InputError(f"Unknown setting {unknown[0]!r}; known are: {', '.join(known)}.")
    return {known.get(key, key): value for key, value in values.items()}
