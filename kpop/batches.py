"""Which rows a training step sees: latents, timesteps, texts and the frozen model's targets.

Every draw is keyed by (seed, step, row): a resumed run, a retry or another machine draws the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import models
from .config import EraseConfig, concept_name
from .continual import Forgotten, kept_words, still_hidden
from .hidden_prompt import HiddenPrompt
from .processes import Processes
from .run_texts import aims, kept_templates, near_texts, pairs, phrase, retained_texts
from .trajectories import Bank, Trajectories, noise_levels

if TYPE_CHECKING:
    from diffusers import StableDiffusionPipeline

TRAJECTORIES = 8  # of each phrasing of a concept, and of the neutral text
ANCHORED = 40  # of all phrasings together where each has an anchor, and of all anchors, at least 2 each
PAIRED = 1  # of each text of two things, and of what it is aimed at
RETAINED = 36  # trajectories of all retained texts together, at least 1 each
ALONE = Processes()
MOST_WEIGHT = 1000.0  # of a noisy x0-space row, where alpha-bar is nearly 0


@dataclass(frozen=True)
class Rows:
    """Rows of one kind. z: [B, C, h, w]; t: [B]; text: states C [B, 77, d_c]; target: like z; weight: [B];
    prompts: the B texts of these states, for a p that the text encoder reads.
    """

    z: Tensor
    t: Tensor
    text: Tensor
    target: Tensor
    weight: Tensor
    prompts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """One step's rows, all of one concept.

    concept: z_t towards c_e, text c_e, target eps(z_t, c_e). erase: text c_e, target eps(z_t, c_n), or past
    it with negative guidance; z_t on the trajectories that the method erases on. retain: siblings and the
    neutral text, each with its own eps; None for none. neutral: like erase.text, of what L1 aims a row at.
    earlier: a key of the run that this one started from, and rows of what it opens; None where there is none.
    decoys: of every row of `erase` what its wrong key is drawn from, None where it sees no key; () for none
    at all. kept_keys: the same of `retain`, see decoys.of_kept_row. others: keys of the other concepts.
    """

    concept_index: int
    concept: Rows
    erase: Rows
    retain: Rows | None
    neutral: Tensor | None = None
    earlier: tuple[HiddenPrompt, Rows] | None = None
    decoys: tuple[int | None, ...] = ()
    kept_keys: tuple[int | None, ...] = ()
    others: tuple[HiddenPrompt, ...] = ()


def joined(parts: Iterable[Rows]) -> Rows:
    """Rows of several kinds, one after another."""
    parts = list(parts)
    kinds = ("z", "t", "text", "target", "weight")
    tensors = (torch.cat([getattr(part, kind) for part in parts]) for kind in kinds)
    return Rows(*tensors, prompts=tuple(text for part in parts for text in part.prompts))


def weighs(cfg: EraseConfig) -> bool:
    """Whether anything is retained at all."""
    return cfg.retain_weight > 0 or cfg.key_retain_weight > 0


def texts_to_keep(cfg: EraseConfig, earlier: Sequence[Forgotten] = ()) -> tuple[str, ...]:
    """The texts to retain, those of earlier runs included; () where they have no weight."""
    if not weighs(cfg):
        return ()
    more = [phrase(kept_templates(cfg, word)[0], word) for word in kept_words(cfg, earlier)]
    return tuple(dict.fromkeys([*retained_texts(cfg), *more]))


def keys_to_keep(cfg: EraseConfig, earlier: Sequence[Forgotten]) -> list[Forgotten]:
    """Those of `earlier` whose key is to go on opening what it opens; none where that has no weight."""
    return [item for item in still_hidden(cfg, earlier) if item.key is not None and cfg.retain_weight > 0]


def erased_on(cfg: EraseConfig) -> tuple[str, ...]:
    """The kinds of trajectories on which L1's z_t lie. `latents` "fresh" walks towards one of them alone."""
    return ("concept", "neutral") if cfg.erase_on == "both" else (cfg.erase_on,)


def pushes_pairs(cfg: EraseConfig) -> bool:
    """Whether negative guidance pushes past what a text of two things is aimed at, a picture of its own.

    A single concept goes without it, and the key has less to undo; of five, with fewer steps each, much is
    still seen then.
    """
    return len(cfg.concepts) > 1


def bank_wants(
    cfg: EraseConfig, retained: Sequence[str] | None = None, rows: int | None = None
) -> list[tuple[str, int, tuple[str, ...]]]:
    """(text, trajectories, texts whose eps is asked for on them too) that the bank of a run holds.

    retained: the texts to keep, where they are more than cfg's own. rows: of a step in all processes.
    """
    told = {text: aim for concept in cfg.concepts for text, aim in aims(cfg, concept).items()}
    retained = texts_to_keep(cfg) if retained is None else retained
    draws = cfg.steps * (rows or cfg.batch_size)  # no more trajectories than rows that will be drawn
    count = min(TRAJECTORIES, draws)
    each = min(max(1, RETAINED // max(len(retained), 1)), draws)
    pushes = cfg.negative_guidance > 0 and "neutral" in erased_on(cfg)
    some = min(count, max(2, ANCHORED // len(cfg.anchors))) if cfg.anchors else count
    wanted, neutral = {}, cfg.neutral or ""
    for text in dict.fromkeys([neutral, *told.values()]):
        aimed = tuple(other for other, aim in told.items() if aim == text)
        wanted[text] = (count if text == neutral else some, aimed if pushes else ())
    wanted |= {text: (some, (aim,)) for text, aim in told.items()}
    wanted |= {text: (each, ()) for text in dict.fromkeys(retained) if text not in wanted}
    for concept in cfg.concepts:
        for text, aim in pairs(cfg, concept):
            wanted[text] = (PAIRED, (aim,))
            many, targets = wanted.get(aim, (PAIRED, ()))
            wanted[aim] = (many, (*targets, text) if pushes and pushes_pairs(cfg) else targets)
    return [(text, *what) for text, what in wanted.items()]


def bank_parts(cfg: EraseConfig, retained: Sequence[str] | None = None) -> dict[tuple, int]:
    """(text, trajectories, asked texts, how they are walked) -> rows through the U-Net to make them.

    The neutral text's come first; {} with fresh latents. retained: as in bank_wants.
    """
    if cfg.latents == "fresh":
        return {}
    how = (cfg.rollout_steps, cfg.rollout_guidance)
    return {
        (text, count, targets, *how): count * cfg.rollout_steps * (2 + len({*targets} - {text, ""}))
        for text, count, targets in bank_wants(cfg, retained)
    }


def keyed(*parts: object) -> random.Random:
    """The generator of one draw."""
    return random.Random(" ".join(map(str, parts)))


class Batches:
    """What both sources share: texts, their states, and loss weights."""

    def __init__(
        self,
        pipe: StableDiffusionPipeline,
        cfg: EraseConfig,
        earlier: Sequence[Forgotten],
        processes: Processes,
    ):
        self.pipe, self.cfg = pipe, cfg
        self.own_rows = processes.own_rows(cfg.batch_size)
        self.all_rows = cfg.batch_size * processes.count
        self.device = pipe.unet.device
        earlier = still_hidden(cfg, earlier)
        kept = keys_to_keep(cfg, earlier)
        self.earlier = [(concept_name(c.concept), c.key.to(self.device, torch.float32)) for c in kept]
        self.neutral = cfg.neutral or ""
        self.erase_on = erased_on(cfg)
        self.aims = [aims(cfg, concept) for concept in cfg.concepts]
        self.concepts = [tuple(told) for told in self.aims]
        self.pairs = [pairs(cfg, concept) for concept in cfg.concepts]
        self.not_pushed = set() if pushes_pairs(cfg) else {text for two in self.pairs for text, _ in two}
        self.retained, self.near = texts_to_keep(cfg, earlier), [()] * len(cfg.concepts)
        if weighs(cfg):
            # Near a concept that an earlier run erased as much is at stake as near one's own.
            before = [text for item in earlier for text in near_texts(pipe, cfg, item.concept, item.siblings)]
            before = [text for text in before if text in self.retained]
            near = [near_texts(pipe, cfg, concept, cfg.retain or ()) for concept in cfg.concepts]
            self.near = [tuple(dict.fromkeys([*own, *before])) for own in near]
        self.keeps_neutral = bool(cfg.retain_neutral) and weighs(cfg)
        self.states: dict[str, Tensor] = {}
        self.alphas = noise_levels(pipe)
        self.predicts_v = pipe.scheduler.config.get("prediction_type", "epsilon") == "v_prediction"

    def earlier_of(self, step: int) -> tuple[HiddenPrompt, str, int]:
        """The earlier key of a step, the text it opens, and its place in `earlier`."""
        which = keyed(self.cfg.seed, step, "earlier").randrange(len(self.earlier))
        word, key = self.earlier[which]
        return key, phrase(kept_templates(self.cfg, word)[0], word), which

    def concept_of(self, step: int) -> int:
        """One concept a step (method.md 1.2: `random.sample(words, 1)`)."""
        return keyed(self.cfg.seed, step, "concept").randrange(len(self.concepts))

    def erased_of(self, step: int, row: int, draw: random.Random) -> tuple[str, str]:
        """The text of a row of the concept, and the text that L1 aims it at."""
        index = self.concept_of(step)
        text, two = draw.choice(self.concepts[index]), self.pairs[index]
        paired = keyed(self.cfg.seed, step, row, "pair")
        if two and paired.random() < self.cfg.pair_share:
            return paired.choice(two)
        return text, self.aims[index][text]

    def retain_of(self, step: int, row: int) -> str | None:
        """The retained text of a row, or None for the neutral text; the first row is the neutral text's.

        A share of the rows (near_share) is of texts near the concept, where most is at stake.
        """
        if self.keeps_neutral and (not self.retained or (row == 0 and self.all_rows > 1)):
            return None
        alone = [None] if self.keeps_neutral and self.all_rows == 1 else []  # one row serves both in turn
        draw = keyed(self.cfg.seed, step, row, "retain")
        text, near = draw.choice([*self.retained, *alone]), self.near[self.concept_of(step)]
        share = self.cfg.near_share
        return draw.choice(near) if near and text is not None and draw.random() < share else text

    def keys_seen(self, step: int, kinds: int, keeps: bool) -> tuple[tuple[int | None, ...], ...]:
        """Batch.decoys and Batch.kept_keys.

        kinds: how many rows of `erase` there are to each row of a step; keeps: whether any row is retained.
        """
        kept = self._draws(self.cfg.kept_key_share, step, 1, "kept key") if keeps else ()
        return self._draws(self.cfg.decoy_share, step, kinds, "decoy"), kept

    def _draws(self, share: float, step: int, kinds: int, what: str) -> tuple[int | None, ...]:
        if not share:
            return ()
        draws = [keyed(self.cfg.seed, step, row, k, what) for row in self.own_rows for k in range(kinds)]
        return tuple(draw.getrandbits(62) if draw.random() < share else None for draw in draws)

    def state(self, text: str) -> Tensor:
        """C of a text, [77, d_c]."""
        if text not in self.states:
            self.states[text] = models.encode(self.pipe, [text])[0].to(self.device, self.pipe.unet.dtype)
        return self.states[text]

    def rows(self, items: list[tuple[Tensor, int, str, Tensor]]) -> Rows:
        """(z, t, text, target) per row, stacked on the device."""
        z, t, texts, target = zip(*items, strict=True)
        times = torch.tensor([int(x) for x in t])
        return Rows(
            torch.stack(z).to(self.device),
            times.to(self.device),
            torch.stack([self.state(text) for text in texts]),
            torch.stack(target).to(self.device),
            self.weights(times).to(self.device),
            texts,
        )

    def weights(self, t: Tensor) -> Tensor:
        """[B]: what turns a squared error of the model's own output into one of eps, or of x0.

        eps = sqrt(1 - a) z + sqrt(a) v and x0 = (z - sqrt(1 - a) eps) / sqrt(a), a = alpha-bar(t).
        """
        a = self.alphas[t]
        if self.cfg.loss_space == "x0":
            return (1 - a) if self.predicts_v else ((1 - a) / a.clamp(min=1e-8)).clamp(max=MOST_WEIGHT)
        return a if self.predicts_v else torch.ones_like(a)

    def erased(self, text: str, e_n: Tensor, e_c: Tensor) -> Tensor:
        """L1's target eps(z, c_n) - eta (eps(z, c_e) - eps(z, c_n)); eta = 0 is Eq. 7, 1 is ESD's.

        Of two things beside a single concept eta is 0, see `pushes_pairs`.
        """
        eta = 0.0 if text in self.not_pushed else self.cfg.negative_guidance
        return e_n - eta * (e_c - e_n)


class BankBatches(Batches):
    """Rows from trajectories of the frozen model, made once.

    Erased pictures walk neutral trajectories and recovered ones concept trajectories, so KPOP's L1 sees both.
    The U-Net must hold theta when it is made.
    """

    def __init__(
        self,
        pipe: StableDiffusionPipeline,
        cfg: EraseConfig,
        bank: Bank,
        earlier: Sequence[Forgotten] = (),
        processes: Processes = ALONE,
    ):
        super().__init__(pipe, cfg, earlier, processes)
        wanted = bank_wants(cfg, self.retained, self.all_rows)
        self.bank: dict[str, Trajectories] = {}
        for text, count, targets in wanted:
            self.bank[text] = bank.get(text, count, targets)
        many = wanted[0][1]  # as many as of the neutral text
        told = [(phrase(kept_templates(cfg, word)[0], word), key) for word, key in self.earlier]
        self.opened = [bank.get(text, many, key=key) for text, key in told]

    def draw(self, step: int) -> Batch:
        """The rows of a step."""
        cfg, index = self.cfg, self.concept_of(step)
        concept, erase, retain, aims = [], [], [], []
        for row in self.own_rows:
            draw = keyed(cfg.seed, step, row)
            text, aim = self.erased_of(step, row, draw)
            aims += [self.state(aim)] * len(self.erase_on)
            z, t, eps = self._pick(draw, text)
            concept.append((z, t, text, eps[text]))
            if "concept" in self.erase_on:
                erase.append((z, t, text, self.erased(text, eps[aim], eps[text])))
            z, t, eps = self._pick(draw, aim)
            if "neutral" in self.erase_on:
                erase.append((z, t, text, self.erased(text, eps[aim], eps.get(text, eps[aim]))))
            if self.retained or self.keeps_neutral:
                retain.append(self._retained(draw, self.retain_of(step, row), index))
        kept = self.rows(retain) if retain else None
        neutral = torch.stack(aims)
        earlier, keys = self._earlier(step), self.keys_seen(step, len(self.erase_on), bool(retain))
        return Batch(index, self.rows(concept), self.rows(erase), kept, neutral, earlier, *keys)

    def _earlier(self, step: int) -> tuple[HiddenPrompt, Rows] | None:
        if not self.opened:
            return None
        key, text, which = self.earlier_of(step)
        at, items = self.opened[which], []
        for row in self.own_rows:
            draw = keyed(self.cfg.seed, step, row, "earlier")
            s, n = draw.randrange(at.z.shape[0]), draw.randrange(at.z.shape[1])
            items.append((at.z[s, n], int(at.timesteps[s]), text, at.eps[text][s, n]))
        return key, self.rows(items)

    def _retained(self, draw: random.Random, text: str | None, index: int) -> tuple[Tensor, int, str, Tensor]:
        if text is not None:
            z, t, eps = self._pick(draw, text)
            return z, t, text, eps[text]
        # Guidance asks for eps(z, '') on the way to every picture, not only to neutral ones.
        places = [self.neutral, draw.choice(self.concepts[index])]
        places += [draw.choice(self.retained)] if self.retained else []
        where = draw.choice(places)
        z, t, eps = self._pick(draw, where)
        what = draw.choice([text for text in dict.fromkeys((self.neutral, "")) if text in eps])
        return z, t, what, eps[what]

    def _pick(self, draw: random.Random, text: str) -> tuple[Tensor, int, dict[str, Tensor]]:
        found = self.bank[text]
        s, n = draw.randrange(found.z.shape[0]), draw.randrange(found.z.shape[1])
        return found.z[s, n], int(found.timesteps[s]), {other: eps[s, n] for other, eps in found.eps.items()}
