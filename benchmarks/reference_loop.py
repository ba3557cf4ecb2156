"""KPOP written plainly, as its paper and the public code of its family do it: what ours is measured against.

Two whole U-Nets, a new guided partial rollout of theta' for every z_t, one forward a term, nothing shared.
Draws (concept, phrasing, noise, depth of the rollout) are those of kpop's latents="fresh", so that without
retained texts both give the same weights: a test. Covers mechanism "concat" with one p, eps losses, Adam.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from diffusers.models.attention_processor import AttnProcessor2_0

from kpop import models
from kpop.batches import keyed
from kpop.config import EraseConfig, concept_name
from kpop.hidden_prompt import HiddenPrompt
from kpop.precision import precision_context
from kpop.prompt_attention import site_names
from kpop.run_texts import phrasings, retained_texts
from kpop.runs import Run
from kpop.weights import WeightDelta, trainable_names

Told = Callable[[int, dict[str, float]], bool | None]


def train_plainly(
    cfg: EraseConfig,
    pipe,
    run: Run,
    separate: bool = False,
    precision: str = "fp32",
    before: Callable[[], None] = lambda: None,
    told: Told = lambda step, losses: None,
) -> None:
    """Train cfg (resolved) and leave weights and keys in the run folder.

    separate: a z_t of its own for the transfer and the removal step, else they share one. before(): called
    before each step. told(step, losses) after it; True ends the run there.
    Raises ValueError on settings that this loop does not know.
    """
    _check(cfg, pipe)
    theta = pipe.unet  # frozen
    theta_ = copy.deepcopy(theta)  # theta', a second whole U-Net
    if precision == "fp32":
        theta_ = theta_.float()
    names = trainable_names(theta_, cfg.trainable)
    moved = {name: theta_.get_parameter(name).requires_grad_() for name in names}
    trained = {name: torch.nn.Parameter(weight.detach().float().clone()) for name, weight in moved.items()}
    optimizer = torch.optim.Adam(trained.values(), lr=cfg.learning_rate)
    prompts = [_new_prompt(cfg, pipe, i) for i in range(len(cfg.concepts))]
    prompt_optimizers = [torch.optim.Adam([p], lr=cfg.prompt_learning_rate) for p in prompts]
    concepts = [phrasings(concept, cfg.templates) for concept in cfg.concepts]
    kept = [*retained_texts(cfg), *([cfg.neutral] if cfg.retain_neutral else [])]
    device = theta.device
    states: dict[str, torch.Tensor] = {}

    def text(words: list[str]) -> torch.Tensor:
        for word in set(words) - set(states):
            states[word] = models.encode(pipe, [word])[0].to(device, theta.dtype)
        return torch.stack([states[word] for word in words])

    def eps(unet, z, t, c, p=None) -> torch.Tensor:
        with precision_context(unet, precision), reads(unet, p, cfg.sites):
            return unet(z.to(unet.dtype), t, encoder_hidden_states=c.to(unet.dtype)).sample.float()

    @torch.no_grad()
    def latents(step: int, words: list[str], which: str) -> tuple[torch.Tensor, int]:
        """z_t on the way to the concept, guided, by the current theta' without p; and t."""
        scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
        scheduler.set_timesteps(cfg.rollout_steps)
        depth = rollout_depth(cfg, step, which)
        z = torch.cat([_noise(cfg, theta, step, f"{row}{which}") for row in range(len(words))]).to(device)
        c = torch.cat([text([""] * len(words)), text(words)])
        for t in scheduler.timesteps[:depth]:
            e_0, e_n = eps(theta_, torch.cat([z, z]), t, c).chunk(2)
            z = scheduler.step(e_0 + cfg.rollout_guidance * (e_n - e_0), t, z).prev_sample
        return z, int(scheduler.timesteps[depth])

    for step in range(1, cfg.steps + 1):
        before()
        i = keyed(cfg.seed, step, "concept").randrange(len(concepts))
        words = [keyed(cfg.seed, step, row).choice(concepts[i]) for row in range(cfg.batch_size)]
        siblings = [
            keyed(cfg.seed, step, row, "retain").choice(kept) for row in range(cfg.batch_size) if kept
        ]
        left = _rate_left(step, cfg.steps, cfg.rate_decay)
        c_e, c_n = text(words), text([cfg.neutral] * len(words))
        c_r = text(siblings) if siblings else None

        # Transfer (Eq. 5-6): one step on p, theta' fixed.
        z, t = latents(step, words, "")
        with torch.no_grad():
            e_e = eps(theta, z, t, c_e)
            e_r = eps(theta, z, t, c_r) if siblings else None
        p, optimizer_p = prompts[i], prompt_optimizers[i]
        optimizer_p.param_groups[0]["lr"] = cfg.prompt_learning_rate * left
        l_transfer = F.mse_loss(eps(theta_, z, t, c_e, p), e_e)
        l_transfer.backward(inputs=[p])
        if siblings and cfg.key_retain_weight > 0:
            l_key_retain = F.mse_loss(eps(theta_, z, t, c_r, p), e_r)
            (cfg.key_retain_weight * l_key_retain).backward(inputs=[p])
        optimizer_p.step()
        optimizer_p.zero_grad()

        # Removal (Eq. 7): one step on theta', p fixed.
        if separate:
            z, t = latents(step, words, " removal")
            with torch.no_grad():
                e_e = eps(theta, z, t, c_e)
                e_r = eps(theta, z, t, c_r) if siblings else None
        with torch.no_grad():
            e_n = eps(theta, z, t, c_n)
            aim = e_n - cfg.negative_guidance * (e_e - e_n)
        optimizer.param_groups[0]["lr"] = cfg.learning_rate * left
        losses = {"l_transfer": l_transfer.detach()}
        losses["l_erase"] = F.mse_loss(eps(theta_, z, t, c_e), aim)
        losses["l_erase"].backward()
        losses["l_recover"] = F.mse_loss(eps(theta_, z, t, c_e, p.detach()), e_e)
        (cfg.lambda_ * losses["l_recover"]).backward()
        if siblings and cfg.retain_weight > 0:
            losses["l_retain"] = F.mse_loss(eps(theta_, z, t, c_r), e_r)
            (cfg.retain_weight * losses["l_retain"]).backward()
        for name, weight in moved.items():  # float32 copies descend, whatever theta' computes in
            trained[name].grad, weight.grad = weight.grad.float(), None
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            for name, weight in moved.items():
                weight.copy_(trained[name])
        if told(step, {name: float(loss.detach()) for name, loss in losses.items()}):
            break

    digest = models.model_hash(pipe)
    for concept, p in zip(cfg.concepts, prompts, strict=True):
        p = p.detach()
        key = HiddenPrompt(concept_name(concept), p, p, "concat", cfg.sites, digest)
        key.save(run.key_path(concept_name(concept)))
    WeightDelta(trained, digest, {"trainable": cfg.trainable}).save(run.weights_path)


def rollout_depth(cfg: EraseConfig, step: int, which: str = "") -> int:
    """Sampling steps z_t of this training step takes, 0 to rollout_steps - 1; which: "" or " removal"."""
    return keyed(cfg.seed, step, "timestep" + which).randrange(cfg.rollout_steps)


class WithPrompt:
    """K = W_k cat(C, p), V = W_v cat(C, p) along the tokens (Table 1), then attention as before."""

    def __init__(self, p: torch.Tensor):
        self.p, self.plain = p, AttnProcessor2_0()

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **more):
        p = self.p.expand(len(encoder_hidden_states), -1, -1).to(encoder_hidden_states.dtype)
        return self.plain(attn, hidden_states, torch.cat([encoder_hidden_states, p], 1), **more)


@contextmanager
def reads(unet, p: torch.Tensor | None, sites: str):
    """Inside the block the U-Net's cross-attention at `sites` reads p."""
    places = [unet.get_submodule(name) for name in site_names(unet, sites)] if p is not None else []
    for place in places:
        place.processor = WithPrompt(p)
    try:
        yield
    finally:
        for place in places:
            place.processor = AttnProcessor2_0()


def _check(cfg: EraseConfig, pipe) -> None:
    known = {
        "mechanism": "concat", "separate_kv": False, "prompt_sharing": "per-concept", "loss_space": "eps",
        "prompt_optimizer": "adam", "rho": None, "rho_p": None, "base_run": None,
    }  # fmt: skip
    for name, value in known.items():
        if getattr(cfg, name) != value:
            raise ValueError(f"The reference loop knows only {name} {value!r}, not {getattr(cfg, name)!r}.")
    if pipe.scheduler.config.get("prediction_type", "epsilon") != "epsilon":
        raise ValueError("The reference loop knows only models that predict epsilon.")


def _new_prompt(cfg: EraseConfig, pipe, index: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(keyed(cfg.seed, "prompt", index).getrandbits(63))
    tokens = pipe.tokenizer.model_max_length * cfg.prompt_tokens_factor
    shape = (1, tokens, pipe.unet.config.cross_attention_dim)
    p = torch.randn(shape, generator=generator) * cfg.prompt_init_std
    return p.to(pipe.unet.device).requires_grad_()


def _noise(cfg: EraseConfig, unet, step: int, row: str) -> torch.Tensor:
    seed = keyed(cfg.seed, step, row, "noise").getrandbits(63)
    shape = (1, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _rate_left(step: int, steps: int, decay: float) -> float:
    return 1.0 if decay == 0 else min(1.0, (1 - (step - 1) / steps) / decay)
