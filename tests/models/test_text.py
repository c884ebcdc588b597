"""The prompt encoder against the pipeline's own encoding, and what can silently go wrong on the way.

The regression that matters most: attention must stay causal. An encoder that is handed embeddings instead of ids can
lose its causal mask without any error, and then every certificate is about another function.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from certify.models import PromptEncoder, load_pipeline, load_text_encoder
from tests.pipelines import CONTEXT, WIDTH, save_pipeline, vocabulary

PROMPTS = ["a photo of the red starfish", "sunflower", "a small wheel in the painting, red and blue circle", ""]


def test_words_are_runs_of_tokens_up_to_the_end_of_word_mark(encoder: PromptEncoder) -> None:
    t = encoder.tokenize("a starfish, sunflower")
    assert t.tokens[: t.length] == (
        "<|startoftext|>", "a</w>", "star", "fish</w>", ",</w>", "sun", "flow", "er</w>", "<|endoftext|>",
    )  # fmt: skip
    assert t.words == ((1, 2), (2, 4), (4, 5), (5, 8))
    assert t.kinds == ("begin", *["word"] * 7, "end", *["padding"] * (CONTEXT - 9))
    assert (t.length, t.end, t.empty, t.attention_mask) == (9, 8, False, None)
    assert len(t.tokens) == len(t.ids) == CONTEXT


def test_the_empty_prompt_is_begin_end_and_padding(encoder: PromptEncoder) -> None:
    t = encoder.tokenize("")
    assert t.empty
    assert t.length == 2
    assert t.words == ()
    assert t.content == ()


def test_special_tokens_inside_a_prompt_are_words_by_themselves(encoder: PromptEncoder) -> None:
    # Written out, or standing for characters that the vocabulary lacks: the end token inside is not the prompt's end.
    t = encoder.tokenize("red <|endoftext|> circle")
    assert t.kinds[:5] == ("begin", "word", "word", "word", "end")
    assert t.words == ((1, 2), (2, 3), (3, 4))


def test_a_word_without_end_mark_counts_as_one(encoder: PromptEncoder) -> None:
    whole = encoder.tokenize("a starfish")
    cut = encoder.assemble(whole.content[:-1])
    assert cut.tokens[1:3] == ("a</w>", "star")
    assert cut.words == ((1, 2), (2, 3))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_assembling_the_content_gives_the_prompt_back(encoder: PromptEncoder, prompt: str) -> None:
    t = encoder.tokenize(prompt)
    a = encoder.assemble(t.content, prompt)
    assert torch.equal(a.ids, t.ids)
    assert (a.tokens, a.words, a.kinds, a.length) == (t.tokens, t.words, t.kinds, t.length)


def test_padding_that_is_not_the_end_token(pipeline_folder_sd2: Path) -> None:
    encoder = load_text_encoder(pipeline_folder_sd2)
    t = encoder.tokenize("a wheel")
    assert set(t.tokens[t.length :]) == {"!"}
    assert t.tokens[t.end] == "<|endoftext|>"
    assert torch.equal(encoder.assemble(t.content).ids, t.ids)


def test_a_prompt_that_just_fits(encoder: PromptEncoder) -> None:
    t = encoder.tokenize(" ".join(["red"] * (CONTEXT - 2)))
    assert t.length == CONTEXT
    assert "padding" not in t.kinds


@pytest.mark.parametrize("prompt", PROMPTS)
def test_zero_noise_is_the_pipelines_own_encoding_bit_for_bit(pipe: Any, encoder: PromptEncoder, prompt: str) -> None:
    t = encoder.tokenize(prompt)
    with torch.no_grad():
        own, _ = pipe.encode_prompt(prompt, "cpu", 1, False)
    assert torch.equal(encoder.encode(encoder.embed(t)[None], t), own)
    assert torch.equal(encoder.plain(prompt), own)


def test_a_batch_at_zero_noise_is_the_pipelines_own_batch(pipe: Any, encoder: PromptEncoder) -> None:
    with torch.no_grad():
        own, _ = pipe.encode_prompt(PROMPTS, "cpu", 1, False)
    tokenized = [encoder.tokenize(p) for p in PROMPTS]
    z = torch.stack([encoder.embed(t) for t in tokenized])
    assert torch.equal(encoder.encode_batch(torch.stack([t.ids for t in tokenized]), z), own)
    assert torch.equal(encoder.plain(PROMPTS), own)
    torch.testing.assert_close(encoder.plain(PROMPTS, batch_size=1), own, rtol=1e-5, atol=1e-5)


def test_sd2_layout_agrees_with_its_pipeline(pipeline_folder_sd2: Path) -> None:
    pipe = load_pipeline(pipeline_folder_sd2)
    encoder = PromptEncoder.from_pipeline(pipe)
    with torch.no_grad():
        own, _ = pipe.encode_prompt("a red wheel", "cpu", 1, False)
    assert torch.equal(encoder.plain("a red wheel"), own)


def test_an_attention_mask_is_passed_where_the_pipeline_passes_one(tmp_path: Path) -> None:
    pipe = load_pipeline(save_pipeline(tmp_path / "masked", use_attention_mask=True))
    encoder = PromptEncoder.from_pipeline(pipe)
    t = encoder.tokenize("a red wheel")
    assert t.attention_mask is not None
    assert t.attention_mask.tolist() == [1] * t.length + [0] * (CONTEXT - t.length)
    with torch.no_grad():
        own, _ = pipe.encode_prompt("a red wheel", "cpu", 1, False)
    assert torch.equal(encoder.encode(encoder.embed(t)[None], t), own)
    assert torch.equal(encoder.plain("a red wheel"), own)
    with pytest.raises(ValueError, match="attention_mask is None: must be given"):
        encoder.encode_batch(t.ids[None])


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_dtypes(pipeline_folder: Path, dtype: str) -> None:
    pipe = load_pipeline(pipeline_folder, dtype=dtype)
    encoder = PromptEncoder.from_pipeline(pipe)
    t = encoder.tokenize("a red wheel")
    y = encoder.embed(t)
    with torch.no_grad():
        own, _ = pipe.encode_prompt("a red wheel", "cpu", 1, False)
    assert y.dtype == own.dtype == getattr(torch, dtype)
    assert torch.equal(encoder.encode(y[None], t), own)
    assert encoder.encode(y[None].float(), t).dtype == own.dtype


def test_later_tokens_never_change_earlier_outputs(encoder: PromptEncoder) -> None:
    t = encoder.tokenize("a photo of the red starfish")
    y = encoder.embed(t)
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    plain = encoder.encode(y[None], t)[0]
    for position in range(CONTEXT):
        z = y.clone()
        z[position:] += noise[position:]
        moved = encoder.encode(z[None], t)[0]
        assert torch.equal(moved[:position], plain[:position])
        assert not torch.allclose(moved[position], plain[position], atol=1e-3)


def test_the_causality_test_would_notice_bidirectional_attention(encoder: PromptEncoder) -> None:
    def open_up(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "attention_mask": None, "is_causal": False}

    t = encoder.tokenize("a photo of the red starfish")
    y = encoder.embed(t)
    z = y.clone()
    z[-1] += torch.randn(WIDTH, generator=torch.Generator().manual_seed(0))
    handle = encoder.text_encoder.encoder.register_forward_pre_hook(open_up, with_kwargs=True)
    try:
        assert not torch.allclose(encoder.encode(z[None], t)[0, 0], encoder.encode(y[None], t)[0, 0], atol=1e-3)
    finally:
        handle.remove()
    assert torch.equal(encoder.encode(z[None], t)[0, 0], encoder.encode(y[None], t)[0, 0])


def test_noise_reaches_the_encoding_and_only_for_the_call(encoder: PromptEncoder) -> None:
    t = encoder.tokenize("a red circle")
    y, plain = encoder.embed(t), encoder.plain("a red circle")
    z = y + torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(encoder.encode(z[None], t), plain, atol=0.1)
    assert torch.equal(encoder.plain("a red circle"), plain)
    assert torch.equal(encoder.embed(t), y)
    assert not encoder.embeddings._forward_hooks


def test_the_hook_is_gone_after_an_exception(encoder: PromptEncoder) -> None:
    t = encoder.tokenize("a red circle")

    def fail(*_: Any) -> None:
        raise RuntimeError("interrupted")

    handle = encoder.text_encoder.encoder.register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="interrupted"):
            encoder.encode(encoder.embed(t)[None], t)
    finally:
        handle.remove()
    assert not encoder.embeddings._forward_hooks
    assert torch.equal(encoder.encode(encoder.embed(t)[None], t), encoder.plain("a red circle"))


@pytest.mark.parametrize("where", ["before", "after"])
def test_calls_nested_in_a_call_see_their_own_embeddings(pipeline_folder: Path, where: str) -> None:
    # A function of z may well encode something else while it runs: a reference, say.
    encoder = load_text_encoder(pipeline_folder)
    a, b = encoder.tokenize("a red circle"), encoder.tokenize("a blue wheel")
    noise = torch.randn(2, CONTEXT, WIDTH, generator=torch.Generator().manual_seed(0))
    za, zb = encoder.embed(a)[None] + noise[:1], encoder.embed(b)[None] + noise[1:]
    alone = {"a": encoder.encode(za, a), "b": encoder.encode(zb, b), "plain": encoder.plain("sunflower")}
    inner: dict[str, torch.Tensor] = {}

    def nested(*_: Any) -> None:
        if not inner:
            inner["y"] = torch.empty(0)
            inner["b"] = encoder.encode(zb, b)
            inner["plain"] = encoder.plain("sunflower")
            inner["y"] = encoder.embed(b)

    module = encoder.text_encoder if where == "before" else encoder.text_encoder.encoder
    handle = module.register_forward_pre_hook(nested)
    try:
        outer = encoder.encode(za, a)
    finally:
        handle.remove()
    assert torch.equal(outer, alone["a"])
    assert torch.equal(inner["b"], alone["b"])
    assert torch.equal(inner["plain"], alone["plain"])
    assert torch.equal(inner["y"], encoder.embed(b))


def test_an_encoder_that_bypasses_its_embedding_module_is_caught(pipeline_folder: Path) -> None:
    encoder = load_text_encoder(pipeline_folder)
    t = encoder.tokenize("a red circle")
    z = encoder.embed(t)[None]
    encoder.text_encoder.forward = lambda *_, **__: (torch.zeros(1, CONTEXT, WIDTH),)
    with pytest.raises(RuntimeError, match="did not ask its embedding module"):
        encoder.encode(z, t)


def test_dropout_stays_out_and_training_mode_stays_on(pipeline_folder: Path) -> None:
    encoder = load_text_encoder(pipeline_folder)
    plain = encoder.plain("a red circle")
    for module in encoder.text_encoder.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.5
    encoder.text_encoder.train()
    encoder.text_encoder.final_layer_norm.eval()
    assert torch.equal(encoder.plain("a red circle"), plain)
    assert encoder.text_encoder.encoder.training
    assert not encoder.text_encoder.final_layer_norm.training


def test_gradients_on_request(encoder: PromptEncoder) -> None:
    t = encoder.tokenize("a red circle")
    z = encoder.embed(t)[None].requires_grad_()
    assert not encoder.encode(z, t).requires_grad
    (gradient,) = torch.autograd.grad(encoder.encode(z, t, grad=True)[0, t.end].square().sum(), z)
    assert gradient[0, 3].abs().sum() > 0
    assert gradient[0, t.end + 1 :].abs().sum() == 0


def test_what_ends_the_encoder(encoder: PromptEncoder) -> None:
    assert encoder.final_layer_norm is encoder.text_encoder.final_layer_norm
    assert (encoder.context_length, encoder.width) == (CONTEXT, WIDTH)
    assert (encoder.dtype, encoder.device.type) == (torch.float32, "cpu")


def test_the_spread_is_that_of_the_embedding_table(encoder: PromptEncoder) -> None:
    table = encoder.embeddings.weight.detach().double()
    assert encoder.embedding_std == pytest.approx(((table - table.mean(0)) ** 2).mean().sqrt().item(), rel=1e-5)
    # Two random entries are √(2 · width) spreads apart, in root mean square.
    i = torch.randint(0, len(table), (2, 20_000), generator=torch.Generator().manual_seed(0))
    distance = (table[i[0]] - table[i[1]]).square().sum(1).mean().sqrt().item()
    assert distance == pytest.approx(encoder.embedding_std * (2 * WIDTH) ** 0.5, rel=0.02)


def test_textual_inversion_prompts_are_prepared_as_by_the_pipeline(pipe: Any) -> None:
    shim = SimpleNamespace(
        tokenizer=pipe.tokenizer,
        text_encoder=pipe.text_encoder,
        maybe_convert_prompt=lambda text, tokenizer: text.replace("<thing>", "red circle"),
    )
    encoder = PromptEncoder.from_pipeline(shim)
    assert torch.equal(encoder.tokenize("a <thing>").ids, encoder.tokenize("a red circle").ids)


def test_global_random_state_is_untouched(encoder: PromptEncoder) -> None:
    before = torch.random.get_rng_state()
    encoder.plain(PROMPTS)
    assert torch.equal(torch.random.get_rng_state(), before)


class _Foreign(torch.nn.Module):
    config = SimpleNamespace(model_type="t5")


class CLIPTextModelWithProjection(torch.nn.Module):  # the name is what is checked
    config = SimpleNamespace(model_type="clip_text_model")


def _left(pipe: Any) -> Any:
    tokens, merges = vocabulary()
    tokenizer = type(pipe.tokenizer)(tokens, [tuple(m.split()) for m in merges])
    tokenizer.padding_side = "left"
    return tokenizer


BAD_CALLS = {
    "not a string": (lambda e, p: e.tokenize(7), TypeError, r"prompt = 7: must be a string"),
    "longer than the context": (
        lambda e, p: e.tokenize("red " * 30),
        ValueError,
        r"prompt = 'red red .*…': has 32 tokens with begin and end, must have at most 16",
    ),
    "content too long": (
        lambda e, p: e.assemble([1] * 15),
        ValueError,
        r"content has 17 tokens .*: must have at most 16",
    ),
    "wrong shape of z": (
        lambda e, p: e.encode(torch.zeros(16, 32), e.tokenize("a")),
        ValueError,
        r"z has shape \(16, 32\): must be \(batch, 16, 32\)",
    ),
    "wrong batch of z": (
        lambda e, p: e.encode_batch(e.tokenize("a").ids[None], torch.zeros(2, 16, 32)),
        ValueError,
        r"z has shape \(2, 16, 32\): must be \(1, 16, 32\)",
    ),
    "wrong shape of ids": (
        lambda e, p: e.encode_batch(torch.zeros(1, 3, dtype=torch.long)),
        ValueError,
        r"ids has shape \(1, 3\): must be \(batch, 16\)",
    ),
    "no prompts": (lambda e, p: e.plain([]), ValueError, r"prompts is empty: must hold at least one prompt"),
    "batch size": (lambda e, p: e.plain("a", batch_size=0), ValueError, r"batch_size = 0: must be a whole number >= 1"),
    "T5": (
        lambda e, p: PromptEncoder(p.tokenizer, _Foreign()),
        ValueError,
        r"text_encoder is a _Foreign \(model type 't5'\): must be a CLIPTextModel",
    ),
    "with projection": (
        lambda e, p: PromptEncoder(p.tokenizer, CLIPTextModelWithProjection()),
        ValueError,
        r"text_encoder is a CLIPTextModelWithProjection .*: must be a CLIPTextModel",
    ),
    "no text encoder": (
        lambda e, p: PromptEncoder(p.tokenizer, None),
        TypeError,
        r"text_encoder is a NoneType: must be",
    ),
    "no tokenizer": (lambda e, p: PromptEncoder(None, p.text_encoder), TypeError, r"tokenizer is a NoneType: must be"),
    "padding on the left": (
        lambda e, p: PromptEncoder(_left(p), p.text_encoder),
        ValueError,
        r"tokenizer.padding_side = 'left': must be 'right'",
    ),
    "no pipeline": (
        lambda e, p: PromptEncoder.from_pipeline(object()),
        TypeError,
        r"pipe is a object without .tokenizer",
    ),
    "SDXL": (
        lambda e, p: PromptEncoder.from_pipeline(
            SimpleNamespace(tokenizer=p.tokenizer, text_encoder=p.text_encoder, text_encoder_2=object())
        ),
        ValueError,
        r"with two text encoders: must have one",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls(name: str, encoder: PromptEncoder, pipe: Any) -> None:
    call, error, message = BAD_CALLS[name]
    with pytest.raises(error, match=message):
        call(encoder, pipe)


def test_a_too_long_prompt_is_an_error_and_not_a_log_line(
    encoder: PromptEncoder, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="at most 16"):
        encoder.tokenize("red " * 30)
    assert not caplog.records
    assert capfd.readouterr().err == ""
