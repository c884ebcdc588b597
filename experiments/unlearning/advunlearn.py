"""AdvUnlearn: adversarial training of the text encoder. The U-Net stays; what T_φ says about the concept changes.

    inner  a    = argmin ‖ e(x_t, T_φ([a; prompt])) − e(x_t, T_0(prompt)) ‖²           k soft tokens before the prompt
    outer  loss = ‖ e(x_t, T_φ([a; prompt])) − sg[ e(x_t, c_0) − η (e(x_t, c) − e(x_t, c_0)) ] ‖²
                  + w ‖ e(x_t', T_φ(r)) − e(x_t', T_0(r)) ‖²                                       (means)

e is the frozen U-Net, T_0 the text encoder before training, c = T_0(prompt), c_0 that of the empty prompt, r prompts that
must stay. The token a is free in the space of word embeddings: it stands for any word that brings the concept back.

Reference: Zhang et al. (2024), "Defensive Unlearning with Adversarial Training for Robust Concept Erasure in Diffusion
Models". Known from the public source: both problems; what trains (encoder layers and the final layer norm, not the
embeddings of tokens and positions); k = 1, 30 Adam steps of 1e-3 at every iteration after 200 without attack; Adam,
learning rate 1e-5, 1 000 iterations, η = 1; 5 prompts to stay, w = 0.3 in the recipe (1 in the code); the attack's
optimiser never zeroes its gradient, or, in the fast attack, moves by its sign. Ours: gradients are zeroed; the token
starts as noise of the table's standard deviation; it is one for a whole batch of sentences, kept for `every`
iterations; x_t come from the model before training, and may be drawn once and reused (`cache`); where a concept stands in
sentences, c_0 is the same sentence without it, and the prompts that stay are those with other words in its place and the
empty one.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from certify.models import PromptEncoder, TokenizedPrompt
from experiments.settings import check
from experiments.unlearning import esd
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.method import Edit, Method, copied
from experiments.unlearning.parameters import trainable
from experiments.unlearning.training import Rng, TrainingLoop

__all__ = ["METHOD", "Case", "Settings", "attack", "case_of", "encoded", "erase", "outer"]


@dataclass(frozen=True)
class Settings:
    """Options of AdvUnlearn; the defaults are the published recipe's.

    Attributes:
        negative_guidance: η.
        iterations, batch: steps of Adam, and prompts in one.
        learning_rate: Adam's.
        warm_up: iterations before the first attack.
        every: iterations from one attack to the next.
        tokens: k.
        attack_steps, attack_rate: of the attack's Adam, or of its signs.
        sign: steps by the gradient's sign.
        retain: prompts that stay, in one iteration.
        retain_weight: w.
        steps, guidance: of the DDIM run that x_t comes from.
        cache: batches of x_t drawn before training and reused; 0: fresh ones at every iteration.
    """

    negative_guidance: float = 1.0
    iterations: int = 1000
    batch: int = 1
    learning_rate: float = 1e-5
    warm_up: int = 200
    every: int = 1
    tokens: int = 1
    attack_steps: int = 30
    attack_rate: float = 1e-3
    sign: bool = False
    retain: int = 5
    retain_weight: float = 0.3
    steps: int = 50
    guidance: float = 3.0
    cache: int = 0

    def __post_init__(self) -> None:
        check(
            self,
            counts=("iterations", "batch", "every", "tokens", "attack_steps", "retain", "steps"),
            from_zero=("warm_up", "cache"),
            positive=("negative_guidance", "learning_rate", "attack_rate", "retain_weight", "guidance"),
        )


@dataclass(frozen=True)
class Case:
    """One batch: what the frozen model says where the trained one will be asked.

    Attributes:
        prompts: name the concept.
        x_t, t: half-finished samples under them.
        own: e(x_t, T_0(prompt)), the attack's aim.
        aim: ESD's target, the training's.
        retained: prompts that stay.
        retained_x, retained_t, retained_aim: the same of them, with e(x_t', T_0(r)).
    """

    prompts: tuple[TokenizedPrompt, ...]
    x_t: Tensor
    t: Tensor
    own: Tensor
    aim: Tensor
    retained: tuple[TokenizedPrompt, ...]
    retained_x: Tensor
    retained_t: Tensor
    retained_aim: Tensor


def encoded(encoder: PromptEncoder, prompts: tuple[TokenizedPrompt, ...], token: Tensor | None) -> Tensor:
    """T_φ of prompts with gradient, with soft tokens between their begin and their first word: (b, tokens, width).

    Args:
        encoder: T_φ.
        prompts: b of them.
        token: (k, width); None: the prompts as they are.

    Raises:
        ValueError: a prompt does not fit with k more tokens.
    """
    if token is None:
        rows, z = list(prompts), None
    else:
        k = len(token)
        rows = [encoder.assemble([*(p.content[:1] or (int(p.ids[0]),)) * k, *p.content], p.prompt) for p in prompts]
        table = torch.stack([encoder.embed(row) for row in rows])
        z = torch.cat([table[:, :1], token.expand(len(rows), -1, -1), table[:, 1 + k :]], dim=1)
    masks = [row.attention_mask for row in rows if row.attention_mask is not None]
    return encoder.encode_batch(
        torch.stack([row.ids for row in rows]), z, torch.stack(masks) if masks else None, grad=True
    )


def attack(diffusion: Diffusion, encoder: PromptEncoder, case: Case, token: Tensor, settings: Settings) -> Tensor:
    """The inner problem from `token` on, without gradient for the weights: (k, width).

    Args:
        diffusion: whose frozen U-Net is asked.
        encoder: T_φ.
        case: the batch.
        token: (k, width), where to start.
        settings: steps, their size, and whether they go by sign.
    """
    token = token.detach().clone().requires_grad_(True)
    optimiser = torch.optim.Adam([token], lr=settings.attack_rate)
    for _ in range(settings.attack_steps):
        c = encoded(encoder, case.prompts, token).to(diffusion.device, diffusion.dtype)
        loss = torch.nn.functional.mse_loss(diffusion.predict(case.x_t, case.t, c), case.own)
        (slope,) = torch.autograd.grad(loss, token)
        if settings.sign:
            with torch.no_grad():
                token -= settings.attack_rate * slope.sign()
        else:
            token.grad = slope
            optimiser.step()
    return token.detach()


def case_of(diffusion: Diffusion, concept: Concept, settings: Settings, rng: Rng) -> Case:
    """A batch: sentences, samples of the model before training that stop half way, and what that model predicts there.

    Raises:
        ValueError: a sentence does not fit into the context.
    """

    def half_finished(c: Tensor) -> tuple[Tensor, Tensor]:
        return diffusion.half_finished(c, steps=settings.steps, guidance=settings.guidance, source=rng.source)

    sentences = concept.sentences(settings.batch, rng.python)
    retained = [s.retained for s in concept.sentences(settings.retain, rng.python)]
    if len(retained) > 1:
        retained[-1] = ""  # guidance asks for it at every step
    c, c_0 = esd.prompts(diffusion, sentences)
    x_t, t = half_finished(c)
    r = diffusion.encode(retained)
    retained_x, retained_t = half_finished(r)
    with torch.no_grad():
        own, retained_aim = diffusion.predict(x_t, t, c), diffusion.predict(retained_x, retained_t, r)
    tokenize = diffusion.encoder.tokenize
    return Case(
        tuple(tokenize(s.target) for s in sentences),
        x_t,
        t,
        own,
        esd.target(diffusion, diffusion.unet, x_t, t, c, c_0, settings.negative_guidance),
        tuple(map(tokenize, retained)),
        retained_x,
        retained_t,
        retained_aim,
    )


def outer(diffusion: Diffusion, encoder: PromptEncoder, case: Case, token: Tensor | None, settings: Settings) -> Tensor:
    """The outer problem's loss, with gradient for T_φ."""

    def error(prompts: tuple[TokenizedPrompt, ...], soft: Tensor | None, x: Tensor, t: Tensor, aim: Tensor) -> Tensor:
        c = encoded(encoder, prompts, soft).to(diffusion.device, diffusion.dtype)
        return torch.nn.functional.mse_loss(diffusion.predict(x, t, c), aim)

    retained = error(case.retained, None, case.retained_x, case.retained_t, case.retained_aim)
    return error(case.prompts, token, case.x_t, case.t, case.aim) + settings.retain_weight * retained


def erase(diffusion: Diffusion, concept: Concept, settings: Settings, loop: TrainingLoop) -> Edit:
    """Trains a copy of the text encoder and returns the weights that changed; the pipeline's own stays, as T_0.

    Raises:
        ValueError: a sentence does not fit into the context with the soft tokens, or the loss is not finite.
    """
    diffusion.unet.requires_grad_(False)
    encoder = PromptEncoder(diffusion.encoder.tokenizer, copy.deepcopy(diffusion.encoder.text_encoder))
    weights = trainable(encoder.text_encoder, "encoder")
    optimiser = torch.optim.Adam(weights.values(), lr=settings.learning_rate)
    token = torch.zeros(settings.tokens, encoder.width, device=encoder.device, dtype=encoder.dtype)
    rng = Rng(loop.seed)
    cases = [case_of(diffusion, concept, settings, rng) for _ in range(settings.cache)]

    def loss(step: int, rng: Rng) -> Tensor:
        case = rng.python.choice(cases) if cases else case_of(diffusion, concept, settings, rng)
        since = step - settings.warm_up
        if since >= 0 and since % settings.every == 0:
            start = encoder.embedding_std * torch.randn(token.shape, generator=rng.source)
            for p in weights.values():
                p.requires_grad_(False)  # the attack needs no gradient of the weights
            token.copy_(attack(diffusion, encoder, case, start.to(token.device, token.dtype), settings))
            for p in weights.values():
                p.requires_grad_(True)
        return outer(diffusion, encoder, case, token.clone() if since >= 0 else None, settings)

    losses = loop.run("advunlearn", weights, optimiser, settings.iterations, loss, state={"token": token}, rng=rng)
    return Edit(
        text_encoder=copied(weights),
        record={"trained": "encoder", "last losses": losses[-20:]},
    )


METHOD = Method(
    name="advunlearn",
    title="AdvUnlearn (Zhang et al. 2024)",
    run=erase,
    settings=Settings,
    embedded=lambda kind: Settings(
        negative_guidance=1.5,
        iterations=240,
        batch=8,
        learning_rate=3e-4,
        warm_up=40,
        every=8,
        attack_steps=8,
        attack_rate=0.05,
        retain=8,
        retain_weight=1.0,
        steps=8,
        guidance=2.0,
        cache=16,
    ),
    published="1,000 iterations of 1 prompt, 30 attack steps in each after the first 200",
)
