"""The papers' figures, as printed there. None of them is ours, and none is about the embedded world.

Tables 1–6 and 8–12: Han et al. (2025), "Adaptive Median Smoothing: Adversarial Defense for Unlearned Text-to-Image Diffusion
Models at Inference Time" (ICML). Their model is Stable Diffusion 1.4 (1.5 and 2.1 in Table 10), their prompts and detectors
are others than the embedded world's, and what their FID is measured against is not said: a published figure stands beside a
measured one to show which way a defence moves it, not how far.

The pruning paper: Yang, Cao and Xu (2024), "Pruning for Robust Concept Erasing in Diffusion Models". Nothing but its abstract
was at hand; `HEADLINE` is what that says, and no figure of its tables stands anywhere here.

Keys: attacks by the names of `experiments.attacks.ATTACKS`, where "implicit" is the paper's I2P; "average", the mean success
rate over the table's attacks; "average:first" and "average:second" of Table 11's two concepts; "fid"; "image_text", the CLIP
score without its factor of 100; "seconds", of inference an image. Rates are shares. Victims and defences by their names here:
"ams" is the paper's own defence, "none" no defence.
"""

from __future__ import annotations

from collections.abc import Sequence

from experiments.tables.table import Line

__all__ = ["HEADLINE", "PUBLISHED", "SOURCES", "source"]

_DECIMALS = 6  # more than any printed figure has after its division by 100


def _lines(keys: str, rows: Sequence[tuple[str | float, ...]]) -> tuple[Line, ...]:
    """Rows of (victim, defence, the figures of `keys` as printed)."""
    names = keys.split()
    lines = []
    for victim, defense, *figures in rows:
        values = {key: _share(key, float(figure)) for key, figure in zip(names, figures, strict=True)}
        lines.append(Line(victim=str(victim), defense=str(defense), values=values))
    return tuple(lines)


def _share(key: str, printed: float) -> float:
    return printed if key in ("fid", "seconds") else round(printed / 100, _DECIMALS)


def _sweep(rows: Sequence[tuple[str, float, int, float, float, float]]) -> tuple[Line, ...]:
    """Rows of (victim, σ₀, k, figures)."""
    lines = _lines("average fid image_text", [(victim, "ams", *figures) for victim, _, _, *figures in rows])
    return tuple(
        Line(line.victim, line.defense, line.values, settings={"sigma0": sigma0, "k": k})
        for line, (_, sigma0, k, *_) in zip(lines, rows, strict=True)
    )


PUBLISHED: dict[str, tuple[Line, ...]] = {
    "1": _lines(
        "implicit p4d uda ring-a-bell mma qf-pgd average fid image_text",
        [
            ("ESD", "none", 6.34, 29.89, 42.37, 53.68, 7.50, 12.71, 25.42, 7.161, 30.18),
            ("ESD", "race", 3.76, 17.62, 16.95, 31.58, 5.70, 9.32, 14.16, 7.843, 30.08),
            ("ESD", "sld-weak", 5.37, 28.74, 27.97, 48.07, 8.20, 15.25, 22.27, 7.806, 30.02),
            ("ESD", "sld-medium", 4.19, 25.29, 12.71, 34.39, 7.60, 10.17, 15.73, 10.435, 29.48),
            ("ESD", "sld-strong", 3.76, 18.01, 7.63, 18.25, 7.60, 6.78, 10.34, 15.627, 29.08),
            ("ESD", "sld-max", 3.76, 6.90, 3.39, 10.18, 4.30, 6.78, 5.89, 25.544, 28.54),
            ("ESD", "blacklist", 6.02, 13.79, 26.27, 17.54, 6.20, 15.25, 14.18, 7.298, 30.06),
            ("ESD", "posi", 5.16, 18.39, 16.10, 30.88, 3.80, 13.56, 14.65, 7.774, 29.75),
            ("ESD", "ams", 3.19, 10.98, 11.02, 2.92, 4.23, 8.47, 6.80, 7.365, 30.10),
            ("UCE", "none", 11.49, 44.06, 73.73, 37.89, 39.30, 35.59, 40.34, 4.379, 31.02),
            ("UCE", "rece", 4.94, 22.99, 14.41, 11.23, 19.90, 12.71, 14.36, 6.001, 30.78),
            ("UCE", "sld-weak", 12.57, 50.57, 67.80, 42.11, 45.00, 36.44, 42.42, 5.635, 30.87),
            ("UCE", "sld-medium", 13.53, 52.87, 55.93, 43.16, 44.60, 28.81, 39.82, 8.084, 30.64),
            ("UCE", "sld-strong", 13.10, 44.83, 45.76, 38.95, 42.70, 27.12, 35.41, 12.412, 30.31),
            ("UCE", "sld-max", 12.03, 37.93, 33.90, 26.67, 35.50, 20.34, 27.73, 18.445, 29.90),
            ("UCE", "blacklist", 9.88, 29.12, 55.93, 28.77, 27.00, 33.05, 30.63, 4.576, 30.92),
            ("UCE", "posi", 9.13, 27.20, 30.51, 22.81, 10.60, 26.27, 21.09, 5.270, 30.56),
            ("UCE", "ams", 4.33, 19.16, 11.02, 5.03, 17.53, 9.04, 11.02, 5.343, 30.48),
        ],
    ),
    "2": _lines(
        "seconds",
        [("", "none", 9.435), ("", "blacklist", 9.462), ("", "sld", 11.779), ("", "ams", 10.317)],
    ),
    "3": _sweep(
        [
            ("ESD", 0.003, 9, 12.54, 7.252, 30.16),
            ("ESD", 0.006, 9, 6.80, 7.365, 30.10),
            ("ESD", 0.009, 9, 2.78, 7.530, 29.98),
            ("ESD", 0.006, 5, 11.28, 7.366, 30.14),
            ("ESD", 0.006, 13, 4.98, 7.370, 30.02),
            ("UCE", 0.006, 9, 18.69, 4.477, 30.91),
            ("UCE", 0.009, 9, 14.46, 4.766, 30.77),
            ("UCE", 0.012, 9, 11.02, 5.343, 30.48),
            ("UCE", 0.012, 5, 17.71, 5.237, 30.54),
            ("UCE", 0.012, 13, 9.14, 5.600, 30.32),
        ],
    ),
    "4": _lines(
        "average fid image_text",
        [("UCE", "ams local", 15.03, 4.800, 30.72), ("UCE", "ams global", 11.02, 5.343, 30.48)],
    ),
    "5": _lines(
        "average fid image_text",
        [
            ("ESD", "none", 25.42, 7.161, 30.18),
            ("ESD", "ams", 6.80, 7.365, 30.10),
            ("ESD", "ams self-generated", 5.33, 7.436, 30.09),
            ("UCE", "none", 40.34, 4.379, 31.02),
            ("UCE", "ams", 11.02, 5.343, 30.48),
            ("UCE", "ams self-generated", 15.93, 5.526, 30.54),
        ],
    ),
    "6": _lines(
        "implicit uda ring-a-bell qf-pgd average fid image_text",
        [
            ("ESD", "none", 17.59, 38.33, 50.00, 28.33, 33.56, 7.656, 29.75),
            ("ESD", "race", 19.97, 35.00, 55.60, 35.00, 36.39, 8.509, 29.71),
            ("ESD", "sld-weak", 16.01, 32.50, 42.27, 29.17, 29.98, 8.392, 29.67),
            ("ESD", "sld-medium", 15.48, 30.83, 32.13, 25.83, 26.07, 10.759, 29.58),
            ("ESD", "sld-strong", 12.57, 27.50, 21.07, 20.83, 20.49, 14.477, 29.43),
            ("ESD", "sld-max", 9.39, 16.67, 9.47, 17.50, 13.26, 19.274, 29.23),
            ("ESD", "ams", 15.61, 28.06, 11.87, 25.28, 20.20, 7.942, 29.68),
            ("UCE", "none", 22.22, 48.33, 74.13, 40.00, 46.17, 5.531, 31.05),
            ("UCE", "rece", 18.92, 39.17, 60.40, 31.67, 37.54, 6.743, 30.90),
            ("UCE", "sld-weak", 18.65, 37.50, 66.40, 36.67, 39.80, 6.872, 30.94),
            ("UCE", "sld-medium", 18.78, 35.00, 55.07, 30.83, 34.92, 9.327, 30.49),
            ("UCE", "sld-strong", 15.61, 30.83, 41.07, 29.17, 29.17, 14.223, 30.42),
            ("UCE", "sld-max", 15.34, 26.67, 27.87, 26.67, 24.14, 22.306, 29.78),
            ("UCE", "ams", 18.21, 30.00, 11.29, 29.72, 22.31, 6.063, 30.56),
        ],
    ),
    "8": _lines(
        "average fid image_text",
        [
            ("ESD", "none", 56.11, 6.595, 30.06),
            ("ESD", "sld-weak", 46.78, 7.521, 29.90),
            ("ESD", "sld-medium", 28.44, 9.624, 29.45),
            ("ESD", "sld-strong", 22.33, 12.510, 28.88),
            ("ESD", "sld-max", 18.11, 16.630, 28.26),
            ("ESD", "ams", 26.07, 7.959, 29.66),
            ("UCE", "none", 58.56, 5.281, 31.03),
            ("UCE", "sld-weak", 45.44, 6.133, 31.02),
            ("UCE", "sld-medium", 40.11, 8.201, 30.65),
            ("UCE", "sld-strong", 32.11, 10.582, 30.12),
            ("UCE", "sld-max", 21.00, 14.223, 29.25),
            ("UCE", "ams", 29.85, 7.142, 30.29),
        ],
    ),
    "9": _lines(
        "average fid image_text",
        [
            ("ESD", "none", 11.33, 5.612, 30.38),
            ("ESD", "sld-weak", 6.00, 6.133, 30.37),
            ("ESD", "sld-medium", 1.33, 7.929, 30.03),
            ("ESD", "sld-strong", 0.00, 10.971, 29.46),
            ("ESD", "sld-max", 0.00, 15.364, 28.70),
            ("ESD", "ams", 0.00, 6.181, 30.16),
            ("UCE", "none", 39.83, 2.024, 31.11),
            ("UCE", "sld-weak", 24.50, 4.035, 30.98),
            ("UCE", "sld-medium", 1.67, 6.569, 30.55),
            ("UCE", "sld-strong", 0.00, 10.692, 29.56),
            ("UCE", "sld-max", 0.00, 17.322, 28.30),
            ("UCE", "ams", 0.00, 3.843, 30.94),
        ],
    ),
    "10": _lines(
        "average fid image_text",
        [
            ("SD 1.5", "none", 28.05, 4.354, 31.05),
            ("SD 1.5", "rece", 9.02, 7.589, 30.52),
            ("SD 1.5", "blacklist", 24.49, 4.557, 30.94),
            ("SD 1.5", "posi", 20.13, 5.243, 30.23),
            ("SD 1.5", "ams", 10.65, 5.460, 30.56),
            ("SD 2.1", "none", 21.52, 5.303, 31.00),
            ("SD 2.1", "rece", 2.08, 11.856, 29.33),
            ("SD 2.1", "blacklist", 14.04, 5.511, 30.91),
            ("SD 2.1", "posi", 17.77, 6.175, 30.15),
            ("SD 2.1", "ams", 7.01, 6.575, 30.66),
        ],
    ),
    "11": _lines(
        "average:first average:second fid image_text",
        [("", "none", 24.22, 36.30, 6.181, 30.92), ("", "ams", 5.26, 9.18, 6.752, 30.31)],
    ),
    "12": _lines(
        "average fid image_text",
        [("", "advunlearn", 1.39, 6.973, 29.03), ("", "ams", 1.62, 7.783, 29.80)],
    ),
}
"""Table → the lines of Han et al. (2025), in the paper's order. The row that Table 3 prints in both of a model's sweeps
stands here once."""

_PAPER = "Han et al. (2025)"
_NUDITY = "“nudity” erased, detected by NudeNet at .6"

SOURCES: dict[str, str] = {
    "1": f"Stable Diffusion 1.4, {_NUDITY}",
    "2": "Stable Diffusion 1.4, one image on a V100; which SLD it was is not said",
    "3": f"Stable Diffusion 1.4, {_NUDITY}; σ₀ in that model's token embeddings' own unit",
    "4": f"Stable Diffusion 1.4, {_NUDITY}",
    "5": f"Stable Diffusion 1.4, {_NUDITY}; ams by 7,863 prompt pairs of ViSU, self-generated by 100",
    "6": "Stable Diffusion 1.4, “violence” erased, detected by a fine-tuned Q16",
    "8": "Stable Diffusion 1.4, “gun” erased; mean of UDA, Ring-A-Bell and QF-PGD; the detector is not said",
    "9": "Stable Diffusion 1.4, “Van Gogh” erased; mean of UDA, Ring-A-Bell and QF-PGD; the detector is not said",
    "10": "Stable Diffusion 1.5 and 2.1 after UCE, “nudity” erased; mean of I2P, P4D, Ring-A-Bell and QF-PGD",
    "11": "Stable Diffusion 1.4, “nudity” (first) and “violence” (second) erased; means of I2P, Ring-A-Bell and QF-PGD",
    "12": f"Stable Diffusion 1.4, {_NUDITY}; mean of I2P, Ring-A-Bell, MMA and QF-PGD; ams on ESD with σ₀ = .012, k = 9",
}
"""Table → what its figures are about."""

HEADLINE = (
    "Yang, Cao and Xu (2024), “Pruning for Robust Concept Erasing in Diffusion Models”, abstract: “a significant enhancement "
    "in our model's ability to resist adversarial inputs, achieving nearly a 40% improvement in erasing the NSFW content and "
    "a 30% improvement in erasing artwork style”. On Stable Diffusion, by the captions of its figures. Whether these are "
    "points or parts, and of what, the abstract does not say; the paper's tables were not at hand."
)
"""What is known of the pruning paper's comparison."""


def source(number: str) -> str:
    """Whose figures a table's published lines are, and on what model: to stand wherever they are shown.

    Args:
        number: "1" … "12" or "pruning".

    Raises:
        ValueError: no figures of such a table are here.
    """
    if number == "pruning":
        return HEADLINE
    if number not in SOURCES:
        raise ValueError(f"number = {number!r}: must be one of {', '.join(SOURCES)}, pruning")
    return f"{_PAPER}, Table {number}: {SOURCES[number]}"
