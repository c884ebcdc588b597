"""How a rewriter is trained: on pairs of the embedded world, then by reward.

Training data of the embedded world is made, not collected: captions of training combinations in pairs that differ by the
noun (or the style), the concept's word on one side and a neutral one on the other. Captions without the concept stay as
they are. Some have words thrown in at random places, or all their words in another order, on both sides: an attacker's
prompts are not captions. Which of the words that mean a thing are known is a setting: the first beside its name is, as in
the concept pairs, and whether the rewriter understands the others is what unseen prompts show.

Of every thing alike: were all words shown but those that mean the concept, a word never seen would always be one of these,
and to rewrite what is new would look like understanding. So as many words of other things are held back as of the concept,
and in some captions the noun is a made-up word that stays.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from certify import _validate
from certify.models import PromptEncoder
from experiments.defenses.defense import fitting
from experiments.defenses.rewriter import Rewriter
from experiments.settings import check
from experiments.unlearning.concept import Concept
from experiments.unlearning.training import Rng, TrainingLoop

__all__ = ["Training", "pairs", "reinforce", "reward", "shown", "spoken", "train", "world_words"]

Reward = Callable[[Sequence[str], Sequence[str], int], Tensor]
"""(prompts, answers, seed of the images) → (b,)."""


@dataclass(frozen=True)
class Training:
    """How a rewriter of the embedded world is trained.

    Attributes:
        steps, batch, learning_rate: of the supervised part (Adam, learning rate falling to zero).
        known: how many of the words that mean a thing are shown beside its name, from the most frequent on; of the
            concept and of all else.
        toxic: share of pairs that have something to rewrite.
        made: share of the other pairs whose noun (or style) is a made-up word.
        noise: share of pairs with words thrown in, up to five.
        mixed: share of pairs with their words in another order.
        layers, heads, width: of the model.
        rounds: PPO rounds after the supervised part; 0: none.
        prompts, draws: prompts a round, and answers drawn to each.
        images: images an answer, in the reward.
        ppo_rate: learning rate of PPO.
        clip: of PPO's ratio.
        cap: largest part that the image–text score has in the reward. The published .31, on CLIP ViT-L/14's scale, is a
            little above the mean of Stable Diffusion's images (.302); so is .68 on the scale of the embedded world's CLIP
            (.664 for prompts of the tune split). Whether tuning by reward improves on pairs alone was not measured.
    """

    steps: int = 800
    batch: int = 96
    learning_rate: float = 2e-3
    known: int = 1
    toxic: float = 0.5
    made: float = 0.3
    noise: float = 0.4
    mixed: float = 0.15
    layers: int = 2
    heads: int = 4
    width: int = 96
    rounds: int = 0
    prompts: int = 8
    draws: int = 4
    images: int = 2
    ppo_rate: float = 1.9e-5
    clip: float = 0.2
    cap: float = 0.68

    def __post_init__(self) -> None:
        check(
            self,
            counts=("steps", "batch", "layers", "heads", "width", "prompts", "images"),
            from_zero=("known", "rounds"),
            positive=("learning_rate", "ppo_rate", "clip", "cap"),
            shares=("toxic", "made", "noise", "mixed"),
        )
        _validate.count("draws", self.draws, minimum=2)


def shown(concept: Concept, known: int) -> tuple[list[str], dict[str, list[str]]]:
    """What training shows, the held-back words left out: the concept's words, and those of each other thing.

    Raises:
        ValueError: the concept is none of the embedded world's.
    """
    others = {thing: many[: 1 + known] for thing, many in spoken(concept).items() if thing != concept.name}
    return [*concept.erase, *concept.implicit[:known]], others


def pairs(
    concept: Concept,
    count: int,
    rng: Rng,
    settings: Training,
    fits: Callable[[str], bool] = bool,
    thrown: Sequence[str] = (),
) -> list[tuple[str, str]]:
    """(prompt, what it should become) from captions of training combinations; only texts that fit.

    Args:
        concept, settings: as in `train`.
        count: how many.
        rng: all randomness.
        fits: whether a text is not too long.
        thrown: words to throw in; (): none are, and the order of words stays.

    Raises:
        ValueError: the concept is none of the embedded world's.
    """
    world, python = concept.world, rng.python
    words, others = shown(concept, settings.known)
    kept_back = world_words(concept) - {word for many in others.values() for word in many}
    choose = {
        "toxic": settings.toxic,
        "made": settings.made,
        "words": words,
        "others": others,
        "made up": lambda source: _made_up(source, kept_back),
    }
    examples: list[tuple[str, str]] = []
    for row in world.samples(4 * count, rng.source):
        if len(examples) == count:
            break
        made = world.rewritten(concept.name, python, row, choose)
        if made is None:
            continue
        before, after = made
        if thrown:
            before, after = _disturbed(before, after, thrown, settings, python)
        if fits(before) and fits(after):
            examples.append((before, after))
    return (
        examples
        if len(examples) == count
        else examples + pairs(concept, count - len(examples), rng, settings, fits, thrown)
    )


def _made_up(rng: random.Random, but: set[str]) -> str:
    """A word of three to seven letters."""
    while True:
        word = "".join(rng.choices(string.ascii_lowercase, k=rng.randrange(3, 8)))
        if word not in but:
            return word


def _disturbed(
    before: str, after: str, thrown: Sequence[str], settings: Training, rng: random.Random
) -> tuple[str, str]:
    """Both texts with the same words thrown in at the same places, or in the same other order."""
    a, b = before.split(), after.split()
    if rng.random() < settings.noise:
        # Where both are alike: before the first word that differs, or behind the last.
        head = sum(1 for _ in takewhile(lambda two: two[0] == two[1], zip(a, b, strict=False)))
        tail = sum(
            1 for _ in takewhile(lambda two: two[0] == two[1], zip(a[head:][::-1], b[head:][::-1], strict=False))
        )
        for _ in range(rng.randrange(1, 6)):
            word, place = rng.choice(thrown), rng.randrange(head + tail + 2)
            for words in (a, b):
                words.insert(place if place <= head else len(words) - (place - head - 1), word)
            head, tail = (head + 1, tail) if place <= head else (head, tail + 1)
    if len(a) == len(b) and rng.random() < settings.mixed:
        order = rng.sample(range(len(a)), len(a))
        a, b = [a[i] for i in order], [b[i] for i in order]
    return " ".join(a), " ".join(b)


def spoken(concept: Concept) -> dict[str, list[str]]:
    """Every thing of the concept's kind, and the words for it, its name first.

    Raises:
        ValueError: the concept is none of the embedded world's.
    """
    return concept.world.spoken(concept.name)


def world_words(concept: Concept) -> set[str]:
    """Every word for a thing of the concept's kind."""
    return {word for many in spoken(concept).values() for word in many}


def _thrown(model: Rewriter, concept: Concept, known: int) -> list[str]:
    """Words to throw in: the vocabulary's tokens as words of their own, but none of the concept's and none held back."""
    kept_back = world_words(concept) - {word for many in shown(concept, known)[1].values() for word in many}
    texts = {
        text.lower() for text in model.texts([[i] for i in range(model.vocabulary - 2)])
    }  # the last two: begin, end
    return sorted(text for text in texts - kept_back if text and model.fits(text))


def train(
    encoder: PromptEncoder, concept: Concept, settings: Training, loop: TrainingLoop, *, score: Reward | None = None
) -> tuple[Rewriter, dict[str, Any]]:
    """A rewriter for one concept: supervised, then by `score`, if it is given and there are rounds.

    Returns:
        The rewriter and figures worth keeping.

    Raises:
        ValueError: rounds are asked for without a reward, or a loss is not finite.
    """
    if settings.rounds and score is None:
        raise ValueError(f"rounds = {settings.rounds}: must come with a reward")
    model = Rewriter(encoder, layers=settings.layers, heads=settings.heads, width=settings.width, seed=loop.seed)
    parameters = dict(model.named_parameters())
    optimiser = torch.optim.AdamW(parameters.values(), lr=settings.learning_rate, weight_decay=0.01)
    warm = max(1, settings.steps // 20)
    thrown = _thrown(model, concept, settings.known)

    def loss(step: int, rng: Rng) -> Tensor:
        rate = min((step + 1) / warm, 1 - step / settings.steps)
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * rate
        examples = pairs(concept, settings.batch, rng, settings, model.fits, thrown)
        log_p, counts = model.scores(model.ids([a for a, _ in examples]), model.ids([b for _, b in examples]))
        return -log_p[counts].mean()

    losses = loop.run("rewriter", parameters, optimiser, settings.steps, loss, clip=1.0)
    record: dict[str, Any] = {"last losses": losses[-10:]}
    if settings.rounds and score is not None:
        record["rewards"] = reinforce(model, concept, settings, loop, score)
    return model, record


def reinforce(model: Rewriter, concept: Concept, settings: Training, loop: TrainingLoop, score: Reward) -> list[float]:
    """PPO: answers are drawn, scored, and made more probable as far as they are better than the others to their prompt.

        A = (r − mean r)/(std r + 10⁻³),     loss = −mean min( q A, clip(q, 1−c, 1+c) A ),    q = p/p_old of the answer

    The advantage is taken within a prompt's own draws, in place of a learned value. Two steps a round.

    Returns:
        The mean reward of every round made in this call.
    """
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.ppo_rate)
    means: list[float] = []
    count = settings.prompts * settings.draws
    blank = torch.full((count, model.room), model.pad)
    # What the second step of a round needs of the first is part of the run's state: a stopped run goes on the same.
    given_, answers_, old, advantage = blank.clone(), blank.clone(), torch.zeros(count), torch.zeros(count)

    def loss(step: int, rng: Rng) -> Tensor:
        if step % 2 == 0:
            repeated = [
                a for a, _ in pairs(concept, settings.prompts, rng, settings, model.fits) for _ in range(settings.draws)
            ]
            drawn = model.answer(model.ids(repeated), rng.source)
            rewards = score(repeated, model.texts(drawn), rng.python.getrandbits(31)).view(-1, settings.draws)
            means.append(float(rewards.mean()))
            better = rewards - rewards.mean(dim=1, keepdim=True)
            advantage.copy_((better / (rewards.std(dim=1, keepdim=True) + 1e-3)).flatten())
            for held, rows in ((given_, model.ids(repeated)), (answers_, drawn)):
                held.fill_(model.pad)
                for place, row in zip(held, rows, strict=True):
                    place[: len(row)] = torch.tensor(row, dtype=torch.long)
        given, answers = ([[i for i in row if i != model.pad] for row in t.tolist()] for t in (given_, answers_))
        log_p, counts = model.scores(given, answers)
        now = (log_p * counts).sum(dim=1)
        if step % 2 == 0:
            old.copy_(now.detach())
        ratio = (now - old).exp()
        clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
        return -torch.minimum(ratio * advantage, clipped * advantage).mean()

    state = {"given": given_, "answers": answers_, "old": old, "advantage": advantage}
    loop.run(
        "rewriter-ppo", dict(model.named_parameters()), optimiser, 2 * settings.rounds, loss, clip=1.0, state=state
    )
    return means


def reward(
    pipe: Any, concept: Concept, settings: Training, *, steps: int | None = None, guidance: float | None = None
) -> Reward:
    """The published reward, with the embedded world's judge and CLIP:  5 − 5·mean p + min(mean s, cap).

    p is the judge's probability of the concept in an image of the answer, s the score of the image against the prompt.
    """
    world = concept.world
    encoder = PromptEncoder.from_pipeline(pipe)

    def scored(prompts: Sequence[str], answers: Sequence[str], seed: int) -> Tensor:
        m = settings.images
        embeds = encoder.plain([fitting(encoder, answer) for answer in answers]).repeat_interleave(m, dim=0)
        images = world.images(pipe, embeds, seed=seed, steps=steps, guidance=guidance)
        p = world.probability(images, concept.name).view(-1, m).mean(dim=1)
        s = world.tower.image_text_score(images, [text for text in prompts for _ in range(m)]).view(-1, m).mean(dim=1)
        return 5 - 5 * p + s.clamp(max=settings.cap)

    return scored
