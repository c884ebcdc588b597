"""The adaptive smoother: Σ from relevance, the median it returns, and the frozen object that certificates are about."""

import json
import math
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from certify.adaptive import AdaptiveMedianSmoother, Concept, FrozenSmoother
from certify.models import PromptEncoder, load_text_encoder
from certify.montecarlo.streams import row_generator
from certify.noise import GaussianNoise
from tests.adaptive.conftest import CIRCLE, FISH

PROMPTS = ["a photo of the red starfish", "sunflower", "a small wheel, and red coin"]


def build(encoder: PromptEncoder, **options: Any) -> AdaptiveMedianSmoother:
    return AdaptiveMedianSmoother.from_encoder(encoder, options.pop("concepts", [CIRCLE, FISH]), **options)


class TestNoise:
    """Σ of a prompt."""

    def test_sigma_grows_exponentially_with_relevance(self, encoder: PromptEncoder) -> None:
        adaptive = build(encoder, sigma0=0.006, k=9, sigma_max=math.inf)
        record = adaptive.relevance("a photo of the red starfish")
        sigma = adaptive.relevance("a photo of the red starfish").column
        assert sigma.shape == (16, 1)
        for score, kind, s, column in zip(record.relevance, record.kinds, record.sigma, sigma, strict=True):
            if kind == "word":
                assert score is not None
                assert s == pytest.approx(0.006 * math.exp(9 * score))
            else:
                assert (score, s) == (None, 0.0)
            assert column.item() == s
        assert torch.equal(adaptive.deployment("a photo of the red starfish").noise.sigma, sigma)

    def test_several_concepts_combine_by_their_maximum(self, encoder: PromptEncoder) -> None:
        both, *single = (
            build(encoder, concepts=c).relevance("a small starfish, coin") for c in ([CIRCLE, FISH], CIRCLE, [FISH])
        )
        for j, kind in enumerate(both.kinds):
            if kind == "word":
                scores = [record.relevance[j] for record in single]
                assert both.relevance[j] == max(s for s in scores if s is not None)
                assert both.concept[j] == ("circle", "fish")[scores.index(both.relevance[j])]

    def test_k_zero_is_isotropic_over_the_words(self, encoder: PromptEncoder) -> None:
        record = build(encoder, sigma0=0.01, k=0).relevance("a red starfish")
        assert {s for s, kind in zip(record.sigma, record.kinds, strict=True) if kind == "word"} == {0.01}

    @pytest.mark.parametrize(
        ("special", "noised"), [("none", set()), ("tail", {"end", "padding"}), ("base", {"begin", "end", "padding"})]
    )
    def test_special_tokens(self, encoder: PromptEncoder, special: str, noised: set[str]) -> None:
        record = build(encoder, sigma0=0.01, special_tokens=special).relevance("a red starfish")
        for kind, sigma in zip(record.kinds, record.sigma, strict=True):
            if kind != "word":
                assert sigma == (0.01 if kind in noised else 0.0)

    def test_relative_units_are_spreads(self, encoder: PromptEncoder) -> None:
        spread = encoder.embedding_std
        assert build(encoder, sigma0_relative=2.0).sigma0 == pytest.approx(2 * spread)
        assert build(encoder).sigma0 == pytest.approx(0.45 * spread)
        assert build(encoder).sigma_max == pytest.approx(2 * math.sqrt(2 * 32) * spread)
        assert build(encoder, sigma_max_relative=3.0).sigma_max == pytest.approx(3 * spread)
        assert build(encoder, sigma_max=1.5).sigma_max == 1.5

    @pytest.mark.parametrize("k", [9, 1e4, 1e300])
    def test_the_cap(self, encoder: PromptEncoder, k: float) -> None:
        record = build(encoder, k=k, sigma_max_relative=1.0).relevance("a red starfish, coin")
        assert max(record.sigma) == encoder.embedding_std
        assert all(math.isfinite(s) for s in record.sigma)

    def test_the_global_flag_only_raises_scores(self, encoder: PromptEncoder) -> None:
        local, both = (build(encoder, use_global=g).relevance(PROMPTS[0]).relevance for g in (False, True))
        pairs = [(a, b) for a, b in zip(local, both, strict=True) if a is not None and b is not None]
        assert all(b >= a for a, b in pairs)
        assert any(b > a for a, b in pairs)

    def test_the_table(self, encoder: PromptEncoder) -> None:
        lines = str(build(encoder, sigma0=0.01).relevance("a starfish")).splitlines()
        assert lines[0].split() == ["token", "kind", "relevance", "concept", "σ"]
        assert len(lines) == 7
        assert lines[-1].split() == ["11", "more", "padding", "0"]


class TestEncode:
    """Prompt → prompt_embeds."""

    @pytest.mark.parametrize("n", [1, 4, 13])
    def test_it_is_the_median_of_n_noisy_encodings(self, encoder: PromptEncoder, n: int) -> None:
        adaptive = build(encoder, n=n)
        prompt = PROMPTS[0]
        t = encoder.tokenize(prompt)
        source = row_generator(3, "prompt " + " ".join(str(i) for i in t.content))
        draws = encoder.encode(adaptive.deployment(prompt).noise.draw(encoder.embed(t), n, source), t)
        ordered = draws.sort(dim=0).values
        middle = ordered[n // 2] if n % 2 else (ordered[n // 2 - 1] + ordered[n // 2]) / 2
        assert torch.equal(adaptive.encode(prompt, seed=3)[0], middle)

    @pytest.mark.parametrize("n", [1, 4])
    def test_or_their_mean(self, encoder: PromptEncoder, n: int) -> None:
        adaptive = build(encoder, n=n, smoother="mean")
        prompt = PROMPTS[0]
        t = encoder.tokenize(prompt)
        source = row_generator(3, "prompt " + " ".join(str(i) for i in t.content))
        draws = encoder.encode(adaptive.deployment(prompt).noise.draw(encoder.embed(t), n, source), t)
        torch.testing.assert_close(adaptive.encode(prompt, seed=3)[0], draws.mean(dim=0), rtol=1e-6, atol=1e-6)
        assert adaptive.settings()["aggregate"] == "mean"

    def test_no_noise_gives_the_plain_encoding(self, encoder: PromptEncoder) -> None:
        torch.testing.assert_close(build(encoder, sigma0=1e-12, k=0).encode(PROMPTS), encoder.plain(PROMPTS))

    def test_same_seed_same_encoding(self, adaptive: AdaptiveMedianSmoother) -> None:
        assert torch.equal(adaptive.encode(PROMPTS, seed=5), adaptive.encode(PROMPTS, seed=5))
        assert not torch.allclose(adaptive.encode(PROMPTS, seed=5), adaptive.encode(PROMPTS, seed=6))

    @pytest.mark.parametrize("batch_size", [1, 5, 20, 64])
    def test_neither_company_nor_batch_size_matters(
        self, adaptive: AdaptiveMedianSmoother, encoder: PromptEncoder, batch_size: int
    ) -> None:
        alone = torch.cat([adaptive.encode(p, seed=1) for p in PROMPTS])
        other = build(encoder, batch_size=batch_size)
        # Only rounding inside the encoder may differ.
        torch.testing.assert_close(other.encode(PROMPTS, seed=1), alone, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(other.encode(PROMPTS[::-1], seed=1), alone.flip(0), rtol=1e-4, atol=1e-4)

    def test_one_prompt_is_one_batch_once_its_words_are_known(
        self, encoder: PromptEncoder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        adaptive = build(encoder)
        adaptive.encode(PROMPTS[0])
        batches: list[int] = []
        plain = encoder.encode_batch
        monkeypatch.setattr(
            encoder, "encode_batch", lambda ids, *a, **k: batches.append(len(ids)) or plain(ids, *a, **k)
        )
        adaptive.encode(PROMPTS[0])
        assert batches == [13]
        batches.clear()
        adaptive.encode([PROMPTS[0]] * 8)
        assert batches == [52, 52]

    def test_global_random_state_is_untouched(self, adaptive: AdaptiveMedianSmoother) -> None:
        before = torch.random.get_rng_state()
        adaptive.encode(PROMPTS)
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_the_pipeline_takes_it(self, adaptive: AdaptiveMedianSmoother, pipe: Any) -> None:
        pipe.set_progress_bar_config(disable=True)
        inputs = adaptive.pipeline_inputs(PROMPTS[:2], seed=1)
        assert torch.equal(inputs["prompt_embeds"], adaptive.encode(PROMPTS[:2], seed=1))
        images = pipe(
            **inputs, num_inference_steps=1, output_type="pt", generator=torch.Generator().manual_seed(0)
        ).images
        assert images.shape == (2, 3, 8, 8)

    @pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
    def test_other_dtypes(self, pipeline_folder: Path, dtype: str) -> None:
        encoder = load_text_encoder(pipeline_folder, dtype=dtype)
        adaptive = build(encoder)
        assert adaptive.encode("a red starfish").dtype == getattr(torch, dtype)
        assert adaptive.problem("a red starfish").y.dtype == getattr(torch, dtype)

    def test_an_encoding_that_is_not_finite_is_refused(self, pipeline_folder: Path) -> None:
        encoder = load_text_encoder(pipeline_folder)
        adaptive = build(encoder)
        with torch.no_grad():
            encoder.text_encoder.final_layer_norm.bias[3] = torch.nan
        with pytest.raises(ValueError, match="encoding holds NaN or infinity: must be finite"):
            adaptive.encode("a red starfish")


class TestUnconditional:
    """The branch without the prompt."""

    def test_plain_by_default(self, adaptive: AdaptiveMedianSmoother, encoder: PromptEncoder) -> None:
        assert torch.equal(adaptive.encode_unconditional(), encoder.plain(""))
        assert torch.equal(adaptive.encode_unconditional("a coin", seed=3), encoder.plain("a coin"))

    def test_smoothed_on_request_with_the_base_noise(self, encoder: PromptEncoder) -> None:
        adaptive = build(encoder, smooth_unconditional=True, sigma0=0.05)
        smoothed = adaptive.encode_unconditional(seed=1)
        t = encoder.tokenize("")
        sigma = torch.full((16, 1), 0.05, dtype=torch.float64)
        sigma[0] = 0
        z = GaussianNoise(sigma).draw(encoder.embed(t), 13, row_generator(1, "unconditional prompt "))
        assert torch.equal(smoothed[0], encoder.encode(z, t).median(dim=0).values)
        assert torch.equal(adaptive.encode_unconditional(seed=1), smoothed)
        assert not torch.equal(adaptive.encode_unconditional("a coin", seed=1), encoder.plain("a coin"))


class TestProblem:
    """What a bound takes."""

    def test_an_embedding(self, adaptive: AdaptiveMedianSmoother, encoder: PromptEncoder) -> None:
        p = adaptive.problem("a red starfish")
        assert p.y.shape == (16, 32)
        assert torch.equal(p.f(p.y[None]), encoder.plain("a red starfish"))
        assert torch.equal(p.noise.sigma, adaptive.relevance("a red starfish").column)
        assert (p.prompt, p.quantity, p.tokens) == ("a red starfish", "embedding", p.tokenized.tokens)
        assert p.token_noise == adaptive.relevance("a red starfish")

    def test_its_support_holds_whatever_the_noise(self, adaptive: AdaptiveMedianSmoother) -> None:
        p = adaptive.problem("a red starfish")
        lower, upper = p.support.over((16, 32))
        z = p.y + 100 * torch.randn(50, 16, 32, generator=torch.Generator().manual_seed(0))
        outputs = p.f(z).double()
        assert bool((outputs >= lower).all())
        assert bool((outputs <= upper).all())

    def test_a_noise_prediction(self, adaptive: AdaptiveMedianSmoother, encoder: PromptEncoder, pipe: Any) -> None:
        x_t = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(0))
        p = adaptive.problem("a red starfish", "noise-prediction", x_t=x_t, t=500)
        with torch.no_grad():
            own = pipe.unet(x_t[None], 500, encoder_hidden_states=encoder.plain("a red starfish")).sample
        assert torch.equal(p.f(p.y[None]), own)
        assert p.support is None
        assert p.f(p.y.expand(3, -1, -1)).shape == (3, 4, 4, 4)


class TestFrozen:
    """The smoother with Σ fixed."""

    def test_at_its_anchor_it_is_the_adaptive_smoother(
        self, adaptive: AdaptiveMedianSmoother, encoder: PromptEncoder
    ) -> None:
        frozen = adaptive.freeze(PROMPTS[0])
        expected = adaptive.encode(PROMPTS[0], seed=2)
        assert torch.equal(frozen.encode(PROMPTS[0], seed=2), expected)
        y = encoder.embed(encoder.tokenize(PROMPTS[0]))
        assert torch.equal(frozen.encode(y, seed=2), expected)
        assert torch.equal(frozen(y, seed=2), expected[0])
        assert torch.equal(frozen.noise.sigma, adaptive.relevance(PROMPTS[0]).column)

    def test_sigma_does_not_follow_the_input(self, adaptive: AdaptiveMedianSmoother, encoder: PromptEncoder) -> None:
        frozen = adaptive.freeze("a red starfish")
        other = "the small wheel"
        assert encoder.tokenize(other).length == frozen.tokenized.length
        assert not torch.equal(adaptive.relevance(other).column, frozen.noise.sigma)
        assert not torch.equal(frozen.encode(other, seed=0), adaptive.encode(other, seed=0))
        batch = frozen.encode(["a red starfish", other], seed=1)
        torch.testing.assert_close(batch[1], frozen.encode(other, seed=1)[0], rtol=1e-4, atol=1e-4)

    def test_distance_is_the_norm_between_embeddings(
        self, adaptive: AdaptiveMedianSmoother, encoder: PromptEncoder
    ) -> None:
        frozen = adaptive.freeze("a red coin")
        delta = (
            encoder.embed(encoder.tokenize("a red circle")) - encoder.embed(encoder.tokenize("a red coin"))
        ).double()
        assert frozen.distance("a red coin") == 0
        assert frozen.distance("a red circle") == pytest.approx(float(delta.norm()) / frozen.token_noise.sigma[3])

    def test_saved_and_loaded(self, adaptive: AdaptiveMedianSmoother, encoder: PromptEncoder, tmp_path: Path) -> None:
        frozen = adaptive.freeze(PROMPTS[0])
        loaded = FrozenSmoother.load(frozen.save(tmp_path / "new" / "folder"), encoder)
        assert torch.equal(loaded.encode(PROMPTS[0], seed=4), frozen.encode(PROMPTS[0], seed=4))
        assert loaded.token_noise == frozen.token_noise
        assert loaded.tokenized.prompt == PROMPTS[0]
        assert loaded.distance(PROMPTS[0]) == 0
        assert {p.name for p in (tmp_path / "new" / "folder").iterdir()} == {"smoother.json", "smoother.safetensors"}

    def test_the_mean_is_kept_too(self, encoder: PromptEncoder, tmp_path: Path) -> None:
        adaptive = build(encoder, smoother="mean")
        frozen = adaptive.freeze(PROMPTS[0])
        assert torch.equal(frozen.encode(PROMPTS[0], seed=4), adaptive.encode(PROMPTS[0], seed=4))
        loaded = FrozenSmoother.load(frozen.save(tmp_path), encoder)
        assert loaded.smoother == "mean"
        assert torch.equal(loaded.encode(PROMPTS[0], seed=4), frozen.encode(PROMPTS[0], seed=4))

    def test_a_file_of_version_1_is_a_median(
        self, adaptive: AdaptiveMedianSmoother, encoder: PromptEncoder, tmp_path: Path
    ) -> None:
        adaptive.freeze(PROMPTS[0]).save(tmp_path)
        loaded = FrozenSmoother.load(_edited(tmp_path, "aggregate", schema_version=1), encoder)
        assert torch.equal(loaded.encode(PROMPTS[0], seed=0), adaptive.encode(PROMPTS[0], seed=0))

    def test_private_files_do_not_hold_the_prompt(
        self, adaptive: AdaptiveMedianSmoother, encoder: PromptEncoder, tmp_path: Path
    ) -> None:
        frozen = adaptive.freeze(PROMPTS[0])
        frozen.save(tmp_path, private=True)
        assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir() if file.is_file()} == {0o600}
        text = (tmp_path / "smoother.json").read_text() + (tmp_path / "smoother.safetensors").read_bytes().decode(
            "latin-1"
        )
        assert not [
            word for word in ("photo", "star", "fish", '"ids"', frozen._key) if word in text.replace('"fish"', "")
        ]
        loaded = FrozenSmoother.load(tmp_path, encoder)
        assert torch.equal(loaded.noise.sigma, frozen.noise.sigma)
        assert loaded.tokenized.length == frozen.tokenized.length
        assert not torch.equal(
            loaded.encode(PROMPTS[0], seed=0), frozen.encode(PROMPTS[0], seed=0)
        )  # the stream's name is a secret
        with pytest.raises(ValueError, match="saved with private=True"):
            loaded.distance(PROMPTS[0])
        again = FrozenSmoother.load(loaded.save(tmp_path / "again"), encoder)
        assert torch.equal(again.encode(PROMPTS[0], seed=0), loaded.encode(PROMPTS[0], seed=0))

    def test_another_text_encoder_is_refused(
        self, adaptive: AdaptiveMedianSmoother, pipeline_folder: Path, tmp_path: Path
    ) -> None:
        adaptive.freeze(PROMPTS[0]).save(tmp_path)
        with pytest.raises(ValueError, match="made with another text encoder, or another dtype of it"):
            FrozenSmoother.load(tmp_path, load_text_encoder(pipeline_folder, dtype="float64"))


def test_everything_that_determines_sigma_is_on_record(adaptive: AdaptiveMedianSmoother) -> None:
    settings = json.loads(json.dumps(adaptive.settings()))
    assert [c["name"] for c in settings["concepts"]] == ["circle", "fish"]
    assert settings["concepts"][0]["sha256"] == CIRCLE.sha256
    assert (settings["k"], settings["n"], settings["policy"]) == (9.0, 13, "frozen")
    assert "circle, fish" in repr(adaptive)


def test_a_text_encoder_alone_agrees_with_the_pipeline(adaptive: AdaptiveMedianSmoother, pipeline_folder: Path) -> None:
    alone = build(load_text_encoder(pipeline_folder))
    assert torch.equal(alone.encode(PROMPTS[0], seed=1), adaptive.encode(PROMPTS[0], seed=1))


def _edited(folder: Path, drop: str, **changes: Any) -> Path:
    """A saved smoother with a field less, or other values."""
    file = folder / "smoother.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    del content[drop]
    file.write_text(json.dumps({**content, **changes}), encoding="utf-8")
    return folder


def _nan(shape: tuple[int, ...]) -> Tensor:
    return torch.full(shape, torch.nan)


Call = Callable[[PromptEncoder, AdaptiveMedianSmoother, Path], Any]
BAD_CALLS: dict[str, tuple[Call, type[Exception], str]] = {
    "unknown concept": (lambda e, a, d: build(e, concepts="cirle"), ValueError, r"concept = 'cirle': unknown"),
    "no concept": (
        lambda e, a, d: build(e, concepts=[]),
        ValueError,
        r"concepts is empty: must name at least one concept",
    ),
    "a concept twice": (
        lambda e, a, d: build(e, concepts=[FISH, FISH]),
        ValueError,
        r"'fish' is there twice",
    ),
    "a pair that does not fit": (
        lambda e, a, d: build(e, concepts=Concept("long", [("red " * 20, "red")])),
        ValueError,
        r"concept 'long', pair 1, positive: prompt = .* must have at most 16",
    ),
    "both base noises": (
        lambda e, a, d: build(e, sigma0=0.1, sigma0_relative=1.0),
        ValueError,
        r"sigma0 = 0\.1 and sigma0_relative = 1\.0: must be only one of the two",
    ),
    "negative base noise": (
        lambda e, a, d: build(e, sigma0=-1.0),
        ValueError,
        r"sigma0 = -1\.0: must be a finite number > 0",
    ),
    "no base noise": (lambda e, a, d: build(e, sigma0=0.0), ValueError, r"sigma0 = 0\.0: must be"),
    "NaN base noise": (
        lambda e, a, d: build(e, sigma0=math.nan),
        ValueError,
        r"sigma0 = nan: must be a finite number > 0",
    ),
    "infinite base noise": (lambda e, a, d: build(e, sigma0=math.inf), ValueError, r"sigma0 = inf: must be"),
    "relative base noise": (lambda e, a, d: build(e, sigma0_relative=-2), ValueError, r"sigma0_relative = -2: must be"),
    "base noise as text": (
        lambda e, a, d: build(e, sigma0="0.1"),
        TypeError,
        r"sigma0 = '0\.1': must be a real number",
    ),
    "both caps": (
        lambda e, a, d: build(e, sigma_max=1.0, sigma_max_relative=1.0),
        ValueError,
        r"sigma_max = 1\.0 and sigma_max_relative = 1\.0: must be only one of the two",
    ),
    "NaN cap": (lambda e, a, d: build(e, sigma_max=math.nan), ValueError, r"sigma_max = nan: must be"),
    "cap below base": (
        lambda e, a, d: build(e, sigma0=0.5, sigma_max=0.1),
        ValueError,
        r"sigma_max = 0\.1: must be at least sigma0 = 0\.5",
    ),
    "negative k": (lambda e, a, d: build(e, k=-1), ValueError, r"k = -1: must be a finite number >= 0"),
    "NaN k": (lambda e, a, d: build(e, k=math.nan), ValueError, r"k = nan: must be"),
    "no draws": (lambda e, a, d: build(e, n=0), ValueError, r"n = 0: must be a whole number >= 1"),
    "half a draw": (lambda e, a, d: build(e, n=1.5), TypeError, r"n = 1\.5: must be a whole number >= 1"),
    "policy": (
        lambda e, a, d: build(e, policy="adaptive"),
        ValueError,
        r"policy = 'adaptive': must be one of 'frozen', 'noise-then-adapt', 'memory'",
    ),
    "smoother": (
        lambda e, a, d: build(e, smoother="mode"),
        ValueError,
        r"smoother = 'mode': must be one of 'median', 'mean'",
    ),
    "first noise without its policy": (
        lambda e, a, d: build(e, sigma_min=0.1),
        ValueError,
        r"sigma_min = 0\.1: is for policy = 'noise-then-adapt', got 'frozen'",
    ),
    "relative first noise without its policy": (
        lambda e, a, d: build(e, sigma_min_relative=0.1),
        ValueError,
        r"sigma_min_relative = 0\.1: is for policy",
    ),
    "sharing without its policy": (
        lambda e, a, d: build(e, sharing="input"),
        ValueError,
        r"sharing = 'input': is for policy = 'noise-then-adapt', got 'frozen'",
    ),
    "sharing": (
        lambda e, a, d: build(e, policy="noise-then-adapt", sharing="all"),
        ValueError,
        r"sharing = 'all': must be one of 'none', 'sigma', 'input'",
    ),
    "no first noise": (
        lambda e, a, d: build(e, policy="noise-then-adapt", sigma_min=0.0),
        ValueError,
        r"sigma_min = 0\.0: must be a finite number > 0",
    ),
    "both first noises": (
        lambda e, a, d: build(e, policy="noise-then-adapt", sigma_min=0.1, sigma_min_relative=1.0),
        ValueError,
        r"sigma_min = 0\.1 and sigma_min_relative = 1\.0: must be only one of the two",
    ),
    "first noise above the cap": (
        lambda e, a, d: build(e, policy="noise-then-adapt", sigma_min=0.1, sigma0=0.01, sigma_max=0.05),
        ValueError,
        r"sigma_min = 0\.1: must be at most sigma_max = 0\.05",
    ),
    "no memory": (
        lambda e, a, d: build(e, policy="memory"),
        ValueError,
        r"memory = None, policy = 'memory': policy 'memory' must have one, and no other policy may",
    ),
    "memory without its policy": (
        lambda e, a, d: build(e, memory=d),
        ValueError,
        r"policy = 'frozen': policy 'memory' must have one, and no other policy may",
    ),
    "not a memory": (
        lambda e, a, d: build(e, policy="memory", memory=7),
        TypeError,
        r"memory is a int: must be a folder or a CovarianceMemory",
    ),
    "remembering without a memory": (
        lambda e, a, d: a.remember("a coin", 1.0),
        ValueError,
        r"policy = 'frozen': must be 'memory' for regions to be stored",
    ),
    "similarity": (
        lambda e, a, d: build(e, similarity="cosine"),
        ValueError,
        r"similarity = 'cosine': must be one of 'flattened', 'end-of-text'",
    ),
    "special tokens": (
        lambda e, a, d: build(e, special_tokens="all"),
        ValueError,
        r"special_tokens = 'all': must be one of 'none', 'tail', 'base'",
    ),
    "batch size": (lambda e, a, d: build(e, batch_size=0), ValueError, r"batch_size = 0: must be a whole number >= 1"),
    "not an encoder": (
        lambda e, a, d: AdaptiveMedianSmoother.from_encoder(object(), CIRCLE),
        TypeError,
        r"encoder is a object: must be a PromptEncoder",
    ),
    "not a pipeline": (
        lambda e, a, d: AdaptiveMedianSmoother.from_pipeline(object(), CIRCLE),
        TypeError,
        r"pipe is a object without \.tokenizer",
    ),
    "SDXL": (
        lambda e, a, d: AdaptiveMedianSmoother.from_pipeline(
            SimpleNamespace(tokenizer=e.tokenizer, text_encoder=e.text_encoder, text_encoder_2=e.text_encoder), CIRCLE
        ),
        ValueError,
        r"with two text encoders",
    ),
    "empty prompt": (lambda e, a, d: a.relevance(""), ValueError, r"prompt = '': must not be empty"),
    "blank prompt to encode": (lambda e, a, d: a.encode(["a", "  "]), ValueError, r"prompt = '  ': must not be empty"),
    "empty prompt to certify": (lambda e, a, d: a.problem(""), ValueError, r"prompt = '': must not be empty"),
    "empty prompt to freeze": (lambda e, a, d: a.freeze(""), ValueError, r"prompt = '': must not be empty"),
    "no prompts": (lambda e, a, d: a.encode([]), ValueError, r"prompts is empty: must hold at least one prompt"),
    "not a prompt": (
        lambda e, a, d: a.encode([7]),
        TypeError,
        r"prompts = \[7\]: must be a prompt or a list of prompts",
    ),
    "too long": (
        lambda e, a, d: a.encode("red " * 20),
        ValueError,
        r"has 22 tokens with begin and end, must have at most 16",
    ),
    "seed": (lambda e, a, d: a.encode("a coin", seed=-1), ValueError, r"seed = -1: must be a whole number >= 0"),
    "quantity": (
        lambda e, a, d: a.problem("a coin", "image"),
        ValueError,
        r"quantity = 'image': must be one of 'embedding', 'noise-prediction'",
    ),
    "no latent": (
        lambda e, a, d: a.problem("a coin", "noise-prediction", t=3),
        ValueError,
        r"x_t = None, t = 3: both must be given",
    ),
    "no U-Net": (
        lambda e, a, d: build(e).problem("a coin", "noise-prediction", x_t=torch.zeros(4, 4, 4), t=3),
        ValueError,
        r"must have a U-Net; build the smoother with from_pipeline",
    ),
    "frozen, another length": (
        lambda e, a, d: a.freeze("a red coin").encode("a coin"),
        ValueError,
        r"prompt = 'a coin': has 4 tokens .*, must have 5 as the prompt at which Σ was frozen: length is side information",
    ),
    "frozen, another shape": (
        lambda e, a, d: a.freeze("a coin").encode(torch.zeros(3, 32)),
        ValueError,
        r"inputs has shape \(3, 32\): must be \(batch, 16, 32\)",
    ),
    "frozen, NaN": (
        lambda e, a, d: a.freeze("a coin").encode(_nan((16, 32))),
        ValueError,
        r"inputs holds NaN or infinity",
    ),
    "frozen, none": (lambda e, a, d: a.freeze("a coin").encode([]), ValueError, r"inputs is empty"),
    "frozen called on text": (
        lambda e, a, d: a.freeze("a coin")("a coin"),
        ValueError,
        r"y is 'a coin': must have shape \(tokens, width\)",
    ),
    "deployment of several": (
        lambda e, a, d: a.freeze("a coin").deployment(torch.zeros(2, 16, 32)),
        ValueError,
        r"y is \(2, 16, 32\): must have shape \(tokens, width\)",
    ),
    "no aggregate on record": (
        lambda e, a, d: _edited(a.freeze("a coin").save(d), "aggregate") and FrozenSmoother.load(d, e),
        ValueError,
        r"has no 'aggregate'",
    ),
    "nothing to load": (
        lambda e, a, d: FrozenSmoother.load(d / "nothing", e),
        FileNotFoundError,
        r"no frozen smoother in it; looked for .*smoother\.json",
    ),
    "another format": (
        lambda e, a, d: (d / "smoother.json").write_text('{"schema_version": 99}') and FrozenSmoother.load(d, e),
        ValueError,
        r"format None, version 99; must be 'certify frozen smoother', version 1, 2 or 3",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls(name: str, encoder: PromptEncoder, adaptive: AdaptiveMedianSmoother, tmp_path: Path) -> None:
    call, error, message = BAD_CALLS[name]
    with pytest.raises(error, match=message):
        call(encoder, adaptive, tmp_path)
