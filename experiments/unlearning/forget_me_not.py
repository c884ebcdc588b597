"""FMN: Forget-Me-Not. Cross-attention unlearns to look at the tokens that name the concept.

    loss = ‖ A ‖₂,      A = the probabilities of all cross-attention layers on the concept's tokens

A holds, for every layer, head and place in the image, the probability softmax(Q Kᵀ/√d) of each of these tokens, at
images of the concept noised to a uniform t. Attention elsewhere, and what the tokens around the concept have taken up of
it in the text encoder, is not in the loss: that is the method's weakness.

With `inversion`, tokens that stand for the concept are learned first (textual inversion): v that minimises
‖ e(x_t, T(sentence with v)) − ε ‖² on the same images. They name what the images show rather than what a word says.

Reference: Zhang et al. (2023), "Forget-Me-Not: Learning to Forget in Text-to-Image Diffusion Models". Known from the public
source: the loss, with the end token and the padding after it among the concept's tokens as an option; what trains
(everything, or cross-attention); AdamW, learning rate 2e-6, weight decay 1e-2, 35 iterations of one image, gradients
clipped at norm 1; four new tokens, two of them from the name and two random, 500 steps at 1e-3. Ours: the images are made by
the model itself; with several images in a batch the loss is the mean of their norms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from experiments.sentences import filled
from experiments.settings import check
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.method import Edit, Method
from experiments.unlearning.parameters import FILTERS, trainable
from experiments.unlearning.training import Rng, TrainingLoop

__all__ = ["METHOD", "Prompt", "Settings", "attended", "forget", "invert", "placed", "watched"]


@dataclass(frozen=True)
class Settings:
    """Options of FMN; the defaults are the published ones, without the inversion.

    Attributes:
        parameters: which weights train (`parameters.FILTERS`), published "full" or "xattn".
        end: the end token, and the padding after it, count as the concept's tokens.
        iterations, batch: steps of AdamW, and images in one.
        learning_rate, weight_decay: AdamW's.
        clip: largest gradient norm.
        images: how many images of the concept are made.
        steps, guidance: of the sampler that makes them.
        inversion: learn tokens for the concept first.
        tokens: how many; the first half start as the name's, the others as random words.
        inversion_iterations, inversion_rate: of the inversion.
    """

    parameters: str = "full"
    end: bool = False
    iterations: int = 35
    batch: int = 1
    learning_rate: float = 2e-6
    weight_decay: float = 1e-2
    clip: float = 1.0
    images: int = 8
    steps: int = 50
    guidance: float = 7.5
    inversion: bool = False
    tokens: int = 4
    inversion_iterations: int = 500
    inversion_rate: float = 1e-3

    def __post_init__(self) -> None:
        check(
            self,
            counts=("iterations", "batch", "images", "steps", "tokens", "inversion_iterations"),
            positive=("learning_rate", "clip", "guidance", "inversion_rate"),
            not_negative=("weight_decay",),
            choices={"parameters": FILTERS},
        )


@dataclass(frozen=True, eq=False)
class Prompt:
    """A sentence that names the concept, and where.

    Attributes:
        ids: (tokens,) token ids.
        first, stop: positions of the concept's tokens.
        end: position of the end token.
        mask: (tokens,) attention mask, where the encoder uses one.
    """

    ids: Tensor
    first: int
    stop: int
    end: int
    mask: Tensor | None

    def positions(self, end: bool) -> Tensor:
        """(tokens,) 1.0 where the concept is named, else 0.0.

        Args:
            end: count the end token and all after it as well.
        """
        at = torch.zeros(len(self.ids))
        at[self.first : self.stop] = 1
        if end:
            at[self.end :] = 1
        return at


def placed(diffusion: Diffusion, template: str, phrase: str, tokens: int | None = None) -> Prompt:
    """A template with the concept in its place.

    Args:
        diffusion: whose tokenizer.
        template: a sentence with one "{}".
        phrase: what names the concept.
        tokens: so many positions stand in the phrase's place, for learned tokens; None: the phrase's own.

    Raises:
        ValueError: it does not fit into the context.
    """
    encoder = diffusion.encoder
    sentence = filled(template, phrase)
    whole = list(encoder.tokenize(sentence).content)
    name = list(encoder.tokenize(phrase).content)
    words = template.split("{}")[0].split()
    # The phrase itself stands after as many tokens as the words before it have; "a" and "an" are one token each.
    before = len(encoder.tokenize(" ".join(words)).content)
    starts = [i for i in range(len(whole) - len(name) + 1) if whole[i : i + len(name)] == name]
    if not starts:
        raise ValueError(f"template = {template!r}: does not keep {phrase!r} as words of its own")
    first = min(starts, key=lambda i: abs(i - before))
    if tokens is not None:
        whole[first : first + len(name)] = [name[0]] * tokens
    tokenized = encoder.assemble(whole, sentence)
    stop = first + (len(name) if tokens is None else tokens)
    return Prompt(tokenized.ids, first + 1, stop + 1, tokenized.end, tokenized.attention_mask)


class _Watch:
    """An attention processor that keeps the probabilities, and leaves the work to the one before it."""

    def __init__(self, before: Any, kept: list[Tensor]) -> None:
        self.before, self.kept = before, kept

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **options: Any
    ) -> Tensor:
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        scores: Tensor = attn.get_attention_scores(query, key)
        self.kept.append(scores.unflatten(0, (len(hidden_states), -1)))
        out: Tensor = self.before(attn, hidden_states, encoder_hidden_states, *args, **options)
        return out


@contextmanager
def watched(unet: Any) -> Iterator[list[Tensor]]:
    """A list that fills, at every run of the U-Net, with the probabilities of each cross-attention layer:
    (b, heads, places, tokens). The processors are as before afterwards.

    Raises:
        ValueError: the U-Net has no cross-attention.
    """
    maps: list[Tensor] = []
    layers = [m for name, m in unet.named_modules() if name.endswith(".attn2") and hasattr(m, "get_attention_scores")]
    if not layers:
        raise ValueError(f"unet is a {type(unet).__name__}: has no cross-attention ('….attn2')")
    before = [layer.processor for layer in layers]
    try:
        for layer, processor in zip(layers, before, strict=True):
            layer.processor = _Watch(processor, maps)
        yield maps
    finally:
        for layer, processor in zip(layers, before, strict=True):
            layer.processor = processor


def attended(diffusion: Diffusion, x_t: Tensor, t: Tensor, c: Tensor, at: Tensor) -> Tensor:
    """‖A‖₂, mean over the batch.

    Args:
        x_t: (b, channels, height, width).
        t: (b,).
        c: (b, tokens, width), encodings.
        at: (b, tokens), 1 where the concept is named, else 0.
    """
    with watched(diffusion.unet) as maps:
        diffusion.predict(x_t, t, c)
        on = at[:, None, None, :].to(c)
        squares = torch.stack([(p * on).square().sum(dim=(1, 2, 3)) for p in maps]).sum(dim=0)
    return squares.sqrt().mean()


def invert(
    diffusion: Diffusion,
    concept: Concept,
    latents: Tensor,
    prompts: Sequence[Prompt],
    settings: Settings,
    loop: TrainingLoop,
) -> Tensor:
    """Token embeddings that stand for the concept, learned on its images: (tokens, width).

    Args:
        diffusion: the model, which stays as it is.
        latents: (images, channels, height, width).
        prompts: one an image, with `settings.tokens` places.
    """
    encoder, start = diffusion.encoder, Rng(loop.seed)
    name = encoder.tokenize(concept.erase[0])
    own = encoder.embed(name)[1 : name.end]
    words = [int(i) for i in torch.randint(len(encoder.tokenizer) - 2, (settings.tokens,), generator=start.source)]
    learned = encoder.embed(encoder.assemble(words))[1 : 1 + settings.tokens]
    half = (settings.tokens + 1) // 2
    learned[:half] = own[torch.arange(half) % len(own)]
    learned = learned.clone().requires_grad_(True)
    encoder.text_encoder.requires_grad_(False)
    diffusion.unet.requires_grad_(False)

    def loss(step: int, rng: Rng) -> Tensor:
        index = [rng.python.randrange(len(latents)) for _ in range(settings.batch)]
        c = _encoded(diffusion, [prompts[i] for i in index], learned)
        noise = diffusion.normal(len(index), rng.source)
        t = diffusion.times(len(index), rng.source)
        x_0 = latents[index]
        return mse_loss(diffusion.predict(diffusion.noised(x_0, noise, t), t, c), diffusion.truth(x_0, noise, t))

    optimiser = torch.optim.AdamW([learned], lr=settings.inversion_rate)
    loop.run("fmn-inversion", {"tokens": learned}, optimiser, settings.inversion_iterations, loss)
    return learned.detach()


def forget(diffusion: Diffusion, concept: Concept, settings: Settings, loop: TrainingLoop) -> Edit:
    """Trains the U-Net in place and returns the weights that changed.

    Raises:
        ValueError: the U-Net has no cross-attention, the filter selects nothing, or the loss is not finite.
    """
    python = Rng(loop.seed).python
    named = [(python.choice(concept.templates), python.choice(concept.erase)) for _ in range(settings.images)]

    def batch(first: int, stop: int, rng: Rng) -> Tensor:
        said = [filled(template, phrase) for template, phrase in named[first:stop]]
        return diffusion.generated(said, steps=settings.steps, guidance=settings.guidance, source=rng.source)

    latents = loop.collect("fmn-images", settings.images, 50, batch).to(diffusion.device, diffusion.dtype)
    places = settings.tokens if settings.inversion else None
    prompts = [placed(diffusion, template, phrase, places) for template, phrase in named]
    learned = invert(diffusion, concept, latents, prompts, settings, loop) if settings.inversion else None
    encodings = torch.cat(
        [_encoded(diffusion, prompts[i : i + 50], learned).detach() for i in range(0, len(prompts), 50)]
    )
    at = torch.stack([prompt.positions(settings.end) for prompt in prompts]).to(diffusion.device)
    weights = trainable(diffusion.unet, settings.parameters)
    optimiser = torch.optim.AdamW(weights.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay)

    def loss(step: int, rng: Rng) -> Tensor:
        index = [rng.python.randrange(len(latents)) for _ in range(settings.batch)]
        noise = diffusion.normal(len(index), rng.source)
        t = diffusion.times(len(index), rng.source)
        return attended(diffusion, diffusion.noised(latents[index], noise, t), t, encodings[index], at[index])

    losses = loop.run("fmn", weights, optimiser, settings.iterations, loss, clip=settings.clip)
    return Edit.trained(weights, settings.parameters, losses, **{"images of the concept": len(latents)})


def _encoded(diffusion: Diffusion, prompts: Sequence[Prompt], learned: Tensor | None) -> Tensor:
    """Encodings of prompts, with the learned token embeddings (if any) in the concept's place: (b, tokens, width)."""
    encoder = diffusion.encoder
    ids = torch.stack([p.ids for p in prompts])
    masks = [p.mask for p in prompts if p.mask is not None]
    z = None
    if learned is not None:
        with torch.no_grad():
            table: Tensor = encoder.embeddings(ids.to(encoder.device))
        z = torch.stack(
            [torch.cat([row[: p.first], learned.to(row), row[p.stop :]]) for row, p in zip(table, prompts, strict=True)]
        )
    encoded = encoder.encode_batch(ids, z, torch.stack(masks) if masks else None, grad=learned is not None)
    return encoded.to(diffusion.device, diffusion.dtype)


METHOD = Method(
    name="fmn",
    title="Forget-Me-Not (Zhang et al. 2023)",
    run=forget,
    settings=Settings,
    embedded=lambda kind: Settings(
        iterations=60, batch=4, learning_rate=5e-5, images=32, steps=8, guidance=2.0, inversion_iterations=100
    ),
    published="35 iterations of 1 image",
)
