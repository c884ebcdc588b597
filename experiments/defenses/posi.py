"""POSI: a language model rewrites the prompt before the text encoder sees it.

    x → z = rewriter(x) → T(z);    trained on pairs, then for  r = 5 − 5·mean p_unsafe + min( mean s_CLIP, 0.31 )

Reference: Wu et al. (2024), "Universal Prompt Optimizer for Safe Text-to-Image Generation". Known from the public source:
LLaMA-7B with LoRA of rank 8; supervised on toxic and clean pairs that GPT-3.5 wrote (learning rate 5e-5, 3 epochs); PPO,
learning rate 1.9e-5, one epoch, for the reward above, p_unsafe by Q16 over 10 images at guidance 7, s_CLIP against the prompt.
Ours, for the embedded world: a transformer of two layers, trained from pairs of captions (`experiments.defenses.rewriter`)
by `python -m experiments posi-train`, with PPO for the same reward as an option. For real models: any causal language
model in a local folder, asked by an instruction; not trained here. It never looks prompts up: what it does to prompts
that it has not seen is the measurement.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from certify import _validate
from certify.models.quiet import quiet_libraries
from experiments.defenses.defense import Defense, fitting
from experiments.defenses.rewriter import Rewriter, Training, reward, train

__all__ = ["INSTRUCTION", "LanguageModel", "Posi", "Settings", "add_arguments", "judged", "main"]

INSTRUCTION = (
    "Rewrite the image description so that it shows nothing of this: {concept}. Keep everything else. "
    "Answer with the description alone.\nDescription: {prompt}\nRewritten:"
)
"""What a language model is asked; `{concept}` and `{prompt}` are filled in."""


@dataclass(frozen=True)
class Settings:
    """Options of POSI.

    Attributes:
        rewriter: file of a trained rewriter, of `posi-train`; or
        model: folder of a causal language model of transformers, with its tokenizer. One of the two.
        instruction: what the language model is asked.
        longest: tokens that it may answer with.
    """

    rewriter: str = ""
    model: str = ""
    instruction: str = INSTRUCTION
    longest: int = 77

    def __post_init__(self) -> None:
        _validate.count("longest", self.longest)
        if "{prompt}" not in self.instruction:
            raise ValueError(f"instruction = {self.instruction!r}: must have the place {{prompt}}")


class LanguageModel:
    """A causal language model in a local folder, asked for a rewriting; greedy.

    Args:
        folder: with model and tokenizer.
        concept: what the answer must not show.
        instruction, longest: as in `Settings`.

    Raises:
        FileNotFoundError: no such folder.
    """

    def __init__(self, folder: str | Path, concept: str, *, instruction: str = INSTRUCTION, longest: int = 77) -> None:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"model = {str(folder)!r}: must be a folder with a causal language model")
        with quiet_libraries(diffusers=False):
            from transformers import AutoModelForCausalLM, AutoTokenizer

            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
        self.concept, self.instruction, self.longest = concept, instruction, longest

    def asked(self, prompt: str) -> str:
        """What the model is given, by its own chat template where it has one."""
        text = self.instruction.replace("{concept}", self.concept).replace("{prompt}", prompt)
        if getattr(self.tokenizer, "chat_template", None):
            said = [{"role": "user", "content": text}]
            return str(self.tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True))
        return text

    @torch.no_grad()
    def rewrite(self, prompts: Sequence[str]) -> list[str]:
        """The first line of every answer; where it is empty, nothing of the prompt is left."""
        answers = []
        for prompt in prompts:
            templated = bool(getattr(self.tokenizer, "chat_template", None))
            given = self.tokenizer(self.asked(prompt), return_tensors="pt", add_special_tokens=not templated)
            stop = self.tokenizer.eos_token_id
            out = self.model.generate(
                input_ids=given["input_ids"],
                attention_mask=given["attention_mask"],
                max_new_tokens=self.longest,
                do_sample=False,
                pad_token_id=stop if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id,
            )
            text = str(self.tokenizer.decode(out[0, given["input_ids"].shape[1] :], skip_special_tokens=True)).strip()
            answers.append(text.splitlines()[0].strip().strip('"') if text else "")
        return answers


class Posi(Defense):
    """The rewriter's answer in place of the prompt."""

    name = "posi"

    def __init__(self, pipe: Any, **options: Any) -> None:
        super().__init__(pipe, **options)
        s: Settings = self.settings
        if bool(s.rewriter) == bool(s.model):
            raise ValueError(f"rewriter = {s.rewriter!r}, model = {s.model!r}: must be exactly one of the two")
        self.by: Rewriter | LanguageModel
        if s.rewriter:
            self.by = Rewriter.load(s.rewriter, self.encoder)
        else:
            words = ", ".join(self._against().erase)
            self.by = LanguageModel(s.model, words, instruction=s.instruction, longest=s.longest)

    @classmethod
    def published(cls) -> Settings:
        return Settings()

    def rewritten(self, prompts: Sequence[str]) -> list[str]:
        # The small model reads as much as the encoder does.
        texts = [fitting(self.encoder, p) for p in prompts] if isinstance(self.by, Rewriter) else list(prompts)
        return self.by.rewrite(texts)

    def described(self) -> dict[str, Any]:
        s: Settings = self.settings
        if s.rewriter:
            digest = hashlib.sha256(Path(s.rewriter).read_bytes()).hexdigest()
            return {"rewriter": Path(s.rewriter).name, "sha256": digest}
        return {**asdict(s), "model": Path(s.model).name}


def judged(model: Rewriter, concept: Any, rows: Sequence[dict[str, str]], known: int) -> dict[str, float]:
    """What a rewriter does to prompts of a split, as shares.

    "named", "known", "unknown": prompts with the concept's name, with a word for it that training showed, with one that it
    did not: share that have none of the concept's words any more and kept every other word.
    "others": prompts without the concept: share left as they were.
    """
    words = {*concept.erase, *concept.implicit}
    shown = {*concept.implicit[:known]}
    counts: dict[str, list[bool]] = {"named": [], "known": [], "unknown": [], "others": []}
    for row, answer in zip(rows, model.rewrite([row["prompt"] for row in rows]), strict=True):
        before, after = (text.lower().replace(",", " ").split() for text in (row["prompt"], answer))
        told = [word for word in before if word in words]
        if not told:
            counts["others"].append(before == after)
            continue
        kind = "named" if told[0] in concept.erase else "known" if told[0] in shown else "unknown"
        articles = {"a", "an", "the"}
        rest = {word for word in before if word not in words} - articles
        counts[kind].append(not words & set(after) and rest <= set(after))
    return {kind: sum(seen) / len(seen) for kind, seen in counts.items() if seen}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `posi-train`."""
    parser.add_argument("--concept", required=True, help="a shape or a style of the embedded world")
    parser.add_argument("--out", required=True, type=Path, help="file for the rewriter (.safetensors)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting; repeat for several"
    )
    parser.add_argument("--seed", type=int, default=0)


def main(a: Any) -> int:
    """Trains a rewriter for the embedded world, saves it, and judges it on the tune split."""
    from certify import load_pipeline, world
    from certify.models import PromptEncoder
    from experiments.unlearning.command import progress
    from experiments.unlearning.concept import Concept
    from experiments.unlearning.training import Loop

    concept, settings = Concept.embedded(a.concept), _changed(Training(), a.set)
    if a.out.suffix != ".safetensors":
        raise ValueError(f"out = {str(a.out)!r}: must end in .safetensors")
    if a.out.exists():
        raise FileExistsError(f"out = {str(a.out)!r}: is there already; choose another name")
    pipe = load_pipeline()
    encoder = PromptEncoder.from_pipeline(pipe)
    loop = Loop(
        seed=a.seed,
        folder=a.out.with_suffix(".run"),
        progress=progress(),
        what=f"rewriter of {concept.name}, {settings}",
    )
    started = time.perf_counter()
    score = reward(pipe, concept, settings) if settings.rounds else None
    model, record = train(encoder, concept, settings, loop, score=score)
    seconds = time.perf_counter() - started
    shares = judged(model, concept, world.prompts("tune"), settings.known)
    about = {"concept": concept.name, "training": asdict(settings), "seed": a.seed, "seconds": round(seconds, 1)}
    model.save(a.out, {**about, "tune": shares, **record})
    loop.finish()
    a.out.with_suffix(".run").rmdir()
    print(f"written: {a.out} ({a.out.stat().st_size / 1e6:.2f} MB) after {seconds:.0f} s")
    print("tune split: " + ", ".join(f"{kind} {share:.3f}" for kind, share in shares.items()))
    return 0


def _changed(settings: Training, changes: Sequence[str]) -> Training:
    kinds = {f.name: type(getattr(settings, f.name)) for f in fields(Training)}
    given: dict[str, Any] = {}
    for change in changes:
        name, _, text = change.partition("=")
        if name not in kinds:
            raise ValueError(f"set = {change!r}: must be NAME=VALUE with a name among {', '.join(kinds)}")
        try:
            given[name] = kinds[name](text)
        except ValueError as error:
            raise ValueError(f"set = {change!r}: must be a {kinds[name].__name__}") from error
    return replace(settings, **given)
