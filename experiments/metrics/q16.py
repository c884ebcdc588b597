"""Q16-style detector: a linear head on the image embedding of a CLIP in a local folder.

    p = σ( w · f/‖f‖ + b ),      f the image embedding;      fires where p ≥ threshold

Reference: Schramowski et al. (2022), "Can Machines Help Us Answering Question 16 in Datasheets…", whose head is two tuned
text embeddings and a softmax over their cosines times 100: a linear head with w = 100 (t_1/‖t_1‖ − t_0/‖t_0‖). Qu et al. (2023)
fine-tuned it for violence. Neither weights ship here, nor CLIP's: give a folder with a `CLIPModel` and a head, a
safetensors file with

    weight (1, d) or (2, d)    one row: w; two: the harmless and the harmful row, of which the difference is taken
    bias (1,) or (2,)          optional
    scale ()                   optional, multiplies weight; rows are made unit vectors first where it is given, as in Q16

`fitted` makes a head from labelled images, by logistic regression with a penalty of the weight's size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from certify import _files, _images, _validate
from experiments.files import digest
from experiments.metrics.features import ClipFeatures

__all__ = ["Q16Detector", "fitted", "save_head"]


class Q16Detector:
    """Images (b, 3, height, width) in [0, 1] → booleans (b,).

    Args:
        folder: with a `CLIPModel`.
        head: safetensors file.
        threshold: smallest probability that counts.
        batch: images at a time.

    Raises:
        FileNotFoundError: the folder or the file is not there.
        ValueError: the head does not fit the CLIP, or the threshold is out of range.
    """

    def __init__(self, folder: str | Path, head: str | Path, threshold: float = 0.5, *, batch: int = 64) -> None:
        self.threshold, self.batch = _validate.probability("threshold", threshold), _validate.count("batch", batch)
        file = Path(head)
        if not file.is_file():
            raise FileNotFoundError(f"head = {str(head)!r}: no such file")
        try:
            tensors = {name: t.float() for name, t in _files.read_tensors(file)[0].items()}
        except ValueError as error:
            raise ValueError(f"head = {str(head)!r}: {error}") from error
        self.features = ClipFeatures(folder)
        self.weight, self.bias = _row(tensors, self.features.num_features, str(head))
        self.name = f"q16:{Path(folder).name}:{file.name}:{self.threshold:g}"
        self.version = f"sha256 {digest(file)}"

    @classmethod
    def of(cls, spec: str) -> Q16Detector:
        """From "q16:CLIP_FOLDER:HEAD_FILE[:THRESHOLD]".

        Raises:
            ValueError: another form. Otherwise as for the class.
        """
        parts = spec.split(":")
        if len(parts) not in (3, 4) or not all(parts):
            raise ValueError(f"detector = {spec!r}: must be 'q16:CLIP_FOLDER:HEAD_FILE[:THRESHOLD]'")
        try:
            threshold = float(parts[3]) if len(parts) == 4 else 0.5
        except ValueError:
            raise ValueError(f"detector = {spec!r}: the threshold must be a number in (0, 1)") from None
        return cls(parts[1], parts[2], threshold)

    def probability(self, images: Tensor) -> Tensor:
        """p, (b,).

        Raises:
            TypeError, ValueError: the images are no (b, 3, height, width) in [0, 1].
        """
        _images.checked("images", images)
        device = next(self.features.parameters()).device
        parts = []
        for part in images.split(self.batch):
            f = nn.functional.normalize(self.features(part.to(device)), dim=1)
            parts.append(torch.sigmoid(f @ self.weight.to(device) + self.bias).cpu())
        return torch.cat(parts)

    def __call__(self, images: Tensor) -> Tensor:
        return self.probability(images) >= self.threshold


def fitted(features: ClipFeatures, images: Tensor, labels: Tensor, *, penalty: float = 1e-3, batch: int = 64) -> Tensor:
    """A head from labelled images: (d + 1,), the weight and then the bias, for `save_head`.

    Args:
        features: of the CLIP.
        images: (b, 3, height, width) in [0, 1].
        labels: (b,), 1 or True where an image shows it.
        penalty: times ‖w‖² in the loss, > 0: separable classes have no finite optimum without.

    Raises:
        ValueError: not a label an image, or only one class.
    """
    _images.checked("images", images)
    truth = labels.double()
    if tuple(truth.shape) != (len(images),) or set(truth.tolist()) != {0.0, 1.0}:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)} for {len(images)} images: must be 0 and 1, both of them"
        )
    f = torch.cat([nn.functional.normalize(features(part), dim=1) for part in images.split(batch)]).double()
    strength = _validate.positive("penalty", penalty)
    head = torch.zeros(f.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimiser: Any = torch.optim.LBFGS([head], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        fit = nn.functional.binary_cross_entropy_with_logits(f @ head[:-1] + head[-1], truth)
        loss: Tensor = fit + strength * head[:-1].square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return head.detach().float()


def save_head(path: str | Path, head: Tensor) -> Path:
    """Writes a head of `fitted`."""
    save_file({"weight": head[None, :-1].contiguous(), "bias": head[-1:].contiguous()}, path)
    return Path(path)


def _row(tensors: dict[str, Tensor], width: int, what: str) -> tuple[Tensor, Tensor]:
    weight = tensors.get("weight")
    if weight is None or weight.ndim != 2 or len(weight) not in (1, 2) or weight.shape[1] != width:
        shape = None if weight is None else tuple(weight.shape)
        raise ValueError(f"head = {what!r}: weight has shape {shape}, must be (1 or 2, {width})")
    bias = tensors.get("bias", torch.zeros(len(weight)))
    if tuple(bias.shape) != (len(weight),):
        raise ValueError(f"head = {what!r}: bias has shape {tuple(bias.shape)}, must be ({len(weight)},)")
    if "scale" in tensors:
        weight = float(tensors["scale"]) * nn.functional.normalize(weight, dim=1)
    return (weight[0], bias[0]) if len(weight) == 1 else (weight[1] - weight[0], bias[1] - bias[0])
