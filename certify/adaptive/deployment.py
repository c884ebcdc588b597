"""Deployment: what runs, as a function of the noisy copies of y that it sees. T5 speaks about this object.

    d = adaptive.deployment("a photo of …")
    z = d.draw(generator)                      (1, copies, tokens, width): y + G_1, …, y + G_copies
    h = d(z, generator)                        (1, tokens, width): the prompt_embeds

Whatever the policy, y reaches the output through these copies alone. A statistic of the deployed encoding (its distance from
a reference, a detector's verdict on the image made from it) is then a statistic of `copies` noisy inputs:

    certify.event_bound(lambda z, generator: detect(generate(d(z, generator))), d.y, d.noise, replicas=d.copies, rho=…)

The numbers of copies and of draws differ: a smoother whose K draws share one noisy copy of y has one copy (T7).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from certify import _validate
from certify._records import Record
from certify._text import shown
from certify.adaptive.policies import POLICIES, SHARING, SMOOTHERS, adapted, copies, smoothed
from certify.models.text import PromptEncoder, TokenizedPrompt
from certify.montecarlo.streams import row_generator
from certify.noise import GaussianNoise

__all__ = ["Deployment", "deployed", "side_information", "stream_name"]


def side_information(encoder: PromptEncoder, tokenized: TokenizedPrompt) -> TokenizedPrompt:
    """What of a prompt is not perturbed and may be read: length, kinds, word boundaries, attention mask. Its words are gone.

    T reads no more than that beside the embeddings; CLIP wants token ids, too, but only to find the end of the text, and
    for an output that is not used here. Every word has the same id in what this returns.
    """
    blank = encoder.assemble((0,) * (tokenized.length - 2))
    return replace(blank, words=tokenized.words)


def stream_name(tokenized: TokenizedPrompt) -> str:
    """Names a prompt's noise stream: by its tokens, not by its text.

    That Σ is not to read y (T7) is no objection: with a secret seed the streams of two prompts are both fresh, and with a
    published one T5 claims nothing.
    """
    return "prompt " + " ".join(str(i) for i in tokenized.content)


@dataclass(frozen=True, eq=False)
class Deployment(Record):
    """The deployed encoding of one prompt as a function of noisy copies of it.

    Called with `(z, generator=None)`: z (b, copies, tokens, width) → (b, tokens, width). The generator is for noise beyond
    that in z, which only "noise-then-adapt" has.

    Attributes:
        y: (tokens, width), the prompt's token embeddings before positions.
        noise: what is added in each copy. Perturbations are measured in its ‖·‖_Σ.
        replicas: K, encodings behind one output.
        smoother: "median" or "mean".
        policy: covariance policy (T7).
        encoder: T.
        side: what else is read (`side_information`).
        sharing: what the K encodings share under "noise-then-adapt".
        sigma_of: σ(z) of a batch (b, tokens, width) → (b, tokens, 1), for "noise-then-adapt"; None: Σ is that of `noise`.
        batch_size: sequences in one call of the text encoder.
    """

    y: Tensor
    noise: GaussianNoise
    replicas: int
    smoother: str
    policy: str
    encoder: PromptEncoder
    side: TokenizedPrompt
    sharing: str = "none"
    sigma_of: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name, allowed in (("smoother", SMOOTHERS), ("policy", POLICIES), ("sharing", SHARING)):
            _validate.choice(name, getattr(self, name), allowed)

    @property
    def copies(self) -> int:
        """Noisy copies of y that one deployed encoding sees: the number under the root in T5."""
        return self.replicas if self.sigma_of is None else copies(self.replicas, self.sharing)

    @property
    def independent(self) -> bool:
        """Whether the K encodings are independent draws of one law, each from one copy of its own. T6 presumes that."""
        return self.copies == self.replicas

    def draw(self, generator: torch.Generator, count: int = 1) -> Tensor:
        """The copies of `count` deployed encodings: (count, copies, tokens, width)."""
        number = _validate.count("count", count)
        return self.noise.draw(self.y, number * self.copies, generator).unflatten(0, (number, self.copies))

    def inputs(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """What T is given: (b, copies, tokens, width) → (b, replicas, tokens, width).

        Raises:
            ValueError: z has another shape, or the policy draws noise of its own and there is no generator.
        """
        expected = (self.copies, *self.y.shape)
        if z.ndim != 4 or tuple(z.shape[1:]) != expected:
            raise ValueError(f"z has shape {tuple(z.shape)}: must be (batch, {', '.join(map(str, expected))})")
        if self.sigma_of is None:
            return z
        if generator is None:
            raise ValueError(f"generator = None: must be given, policy {self.policy!r} draws noise beyond that in z")
        least = self.noise.sigma
        return adapted(z, self.sigma_of, least, generator, replicas=self.replicas, sharing=self.sharing)

    def __call__(self, z: Tensor, generator: torch.Generator | None = None) -> Tensor:
        x = self.inputs(z, generator)
        rows = x.flatten(0, 1).split(self.batch_size)
        encoded = torch.cat([self.encoder.encode(chunk, self.side) for chunk in rows])
        return smoothed(encoded.unflatten(0, x.shape[:2]), self.smoother)


def deployed(
    encoder: PromptEncoder, rows: Sequence[tuple[Deployment, str]], seed: int | None, batch_size: int
) -> Tensor:
    """One deployed encoding of every prompt: draw the copies, apply.

    Args:
        encoder: T.
        rows: prompts, all with the same number of replicas, and the names of their noise streams. As many prompts share a
            batch as fit into it whole.
        seed: of the noise; None: a fresh secret one, of which every row has its own part.
        batch_size: sequences in one call of the text encoder.

    Returns:
        (b, tokens, width).

    Raises:
        ValueError: an encoding is not finite.
    """
    if seed is None:
        rows = [(deployment, f"{number} {name}") for number, (deployment, name) in enumerate(rows)]
    seed = _validate.seed_or_fresh(seed)
    replicas = rows[0][0].replicas
    together = max(1, batch_size // replicas)
    results: list[Tensor] = []
    for start in range(0, len(rows), together):
        chunk = rows[start : start + together]
        x = []
        for deployment, name in chunk:
            source = row_generator(seed, name, deployment.y.device)
            # The second noise continues the stream of the first.
            x.append(deployment.inputs(deployment.draw(source), source)[0])
        z = torch.cat(x)
        ids = torch.stack([d.side.ids for d, _ in chunk]).repeat_interleave(replicas, dim=0)
        masks = [d.side.attention_mask for d, _ in chunk if d.side.attention_mask is not None]
        mask = torch.stack(masks).repeat_interleave(replicas, dim=0) if masks else None
        encoded = torch.cat(
            [
                encoder.encode_batch(
                    ids[i : i + batch_size], z[i : i + batch_size], None if mask is None else mask[i : i + batch_size]
                )
                for i in range(0, len(z), batch_size)
            ]
        )
        results += [
            smoothed(draws[None], d.smoother)[0] for draws, (d, _) in zip(encoded.split(replicas), chunk, strict=True)
        ]
    result = torch.stack(results)
    if not bool(torch.isfinite(result).all()):
        largest = max(float(d.noise.sigma.max()) for d, _ in rows)
        raise ValueError(
            f"encoding holds NaN or infinity: must be finite; in {encoder.dtype} the largest σ, "
            f"{shown(largest, 'near', 4)}, may be too large, or the text encoder's weights are broken"
        )
    return result
