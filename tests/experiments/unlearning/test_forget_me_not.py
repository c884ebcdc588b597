"""FMN: which tokens, their probabilities by hand, its update, the inversion, and processors as they were."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from experiments.unlearning import forget_me_not as fmn
from experiments.unlearning import parameters
from experiments.unlearning.concept import Concept
from experiments.unlearning.diffusion import Diffusion
from experiments.unlearning.training import Rng, TrainingLoop

CONCEPT = Concept.of(["starfish"], templates=["a red {}", "the {} and a circle"])
QUICK = fmn.Settings(iterations=2, images=3, steps=2, batch=2, learning_rate=1e-3)


def spelled(diffusion: Diffusion, prompt: fmn.Prompt) -> str:
    ids = prompt.ids[prompt.first : prompt.stop].tolist()
    return "".join(diffusion.encoder.tokenizer.convert_ids_to_tokens(ids))


@pytest.mark.parametrize(
    ("template", "phrase", "expected"),
    [
        ("a red {} in the sun", "circle", (3, 4)),
        ("{}", "starfish", (1, 3)),  # two tokens
        ("the circle and a {}", "circle", (5, 6)),  # the second of two
        ("the {} and a circle", "circle", (2, 3)),
        ("a {} and a circle", "red circle", (2, 4)),
    ],
)
def test_the_concepts_tokens_are_found(epsilon, template, phrase, expected):
    prompt = fmn.placed(epsilon, template, phrase)
    assert (prompt.first, prompt.stop) == expected
    assert spelled(epsilon, prompt).replace("</w>", " ").strip() == phrase
    assert torch.equal(prompt.ids, epsilon.encoder.tokenize(template.format(phrase)).ids)
    at = prompt.positions(end=False)
    assert at.nonzero().flatten().tolist() == list(range(*expected))
    later = prompt.positions(end=True).nonzero().flatten().tolist()
    assert later == [*range(*expected), *range(prompt.end, 16)]


def test_places_for_learned_tokens(epsilon):
    prompt = fmn.placed(epsilon, "the {} and a circle", "starfish", 4)
    assert (prompt.first, prompt.stop, prompt.end) == (2, 6, 9)
    with pytest.raises(ValueError, match="tokens with begin and end"):
        fmn.placed(epsilon, "the {} and a circle", "starfish", 14)


def by_hand(unet, x_t, t, c) -> list[torch.Tensor]:
    """softmax(Q Kᵀ/√d) of every cross-attention layer, from its inputs and weights: (b, heads, places, tokens)."""
    found, handles = [], []

    def look(module, args, options):
        h, e = args[0] if args else options["hidden_states"], options["encoder_hidden_states"]
        q, k = h @ module.to_q.weight.T, e @ module.to_k.weight.T
        q, k = (v.unflatten(-1, (module.heads, -1)).transpose(1, 2) for v in (q, k))
        found.append((q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1))

    for name, module in unet.named_modules():
        if name.endswith("attn2"):
            handles.append(module.register_forward_pre_hook(look, with_kwargs=True))
    unet(x_t, t, c)
    for handle in handles:
        handle.remove()
    return found


def test_the_loss_is_the_norm_of_the_attention_on_these_tokens(tiny):
    x_t, t = tiny.normal(2, torch.Generator().manual_seed(0)), torch.tensor([10, 700])
    c = tiny.encode(["a red circle", "the starfish"])
    at = torch.zeros(2, 16)
    at[0, 3] = at[1, 2] = at[1, 3] = 1
    maps = by_hand(tiny.unet, x_t, t, c)
    norms = [torch.cat([m[i][..., at[i].bool()].flatten() for m in maps]).norm() for i in range(2)]
    torch.testing.assert_close(fmn.attended(tiny, x_t, t, c, at), torch.stack(norms).mean())
    everything = fmn.attended(tiny, x_t, t, c, torch.ones(2, 16))
    assert float(everything) > float(torch.stack(norms).mean())


def test_watching_changes_nothing_and_ends(tiny):
    x_t, t, c = tiny.normal(1, torch.Generator().manual_seed(0)), torch.tensor([10]), tiny.encode(["a red circle"])
    processors = dict(tiny.unet.attn_processors)
    plain = tiny.predict(x_t, t, c)
    with fmn.watched(tiny.unet) as kept:
        assert torch.equal(tiny.predict(x_t, t, c), plain)
    assert len(kept) == sum(name.endswith("attn2") for name, _ in tiny.unet.named_modules())
    for m in kept:
        torch.testing.assert_close(m.sum(dim=-1), torch.ones(m.shape[:-1]))
    with pytest.raises(KeyError), fmn.watched(tiny.unet):
        raise KeyError
    assert all(tiny.unet.attn_processors[name] is p for name, p in processors.items())
    with pytest.raises(ValueError, match="has no cross-attention"), fmn.watched(torch.nn.Linear(2, 2)):
        pass


@pytest.mark.parametrize("which", ["full", "xattn"])
def test_training_takes_attention_away(velocity, which):
    prompt = fmn.placed(velocity, "a red {}", "starfish")
    x_t, t = velocity.normal(8, torch.Generator().manual_seed(7)), velocity.times(8, torch.Generator().manual_seed(7))
    c = velocity.encode(["a red starfish"]).expand(8, -1, -1)
    at = prompt.positions(False).expand(8, -1)
    before = float(fmn.attended(velocity, x_t, t, c, at).detach())
    weights = {name: p.detach().clone() for name, p in velocity.unet.named_parameters()}
    concept = Concept.of(["starfish"], templates=["a red {}"])
    edit = fmn.forget(
        velocity, concept, replace(QUICK, parameters=which, iterations=10, learning_rate=1e-2), TrainingLoop()
    )
    assert float(fmn.attended(velocity, x_t, t, c, at).detach()) < 0.9 * before
    moved = {name for name, p in velocity.unet.named_parameters() if not torch.equal(p, weights[name])}
    assert moved <= set(edit.unet) == set(parameters.trainable(velocity.unet, which))


def test_one_step_is_adamws_on_the_clipped_gradient(epsilon):
    original = epsilon.frozen_copy()
    settings = replace(QUICK, iterations=1, batch=1, images=1, parameters="xattn", clip=1e-3, weight_decay=0.1)
    concept = Concept.of(["starfish"], templates=["a red {}"])
    edit = fmn.forget(epsilon, concept, settings, TrainingLoop(seed=6))
    fresh = Diffusion(epsilon.pipe)
    fresh.unet = fresh.pipe.unet = original
    image = fresh.generated(["a red starfish"], steps=2, guidance=7.5, source=Rng(6 * 1_000_003 + 1).source)
    rng = Rng(6)
    rng.python.randrange(1)
    noise = torch.randn(1, 4, 4, 4, generator=rng.source)
    t = torch.randint(0, 1000, (1,), generator=rng.source)
    weights = parameters.trainable(original, "xattn")
    maps = by_hand(original, fresh.scheduler.add_noise(image, noise, t), t, fresh.encode(["a red starfish"]))
    loss = torch.cat([m[..., 3:5].flatten() for m in maps]).norm()
    assert edit.record["last losses"] == [pytest.approx(float(loss.detach()), rel=1e-4)]
    gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    total = torch.stack([g.norm() for g in gradients if g is not None]).norm()
    for (name, p), g in zip(weights.items(), gradients, strict=True):
        if g is None:  # what comes after the last attention: not even decayed
            assert torch.equal(edit.unet[name], p)
            continue
        g = g * min(1.0, 1e-3 / float(total))
        expected = p * (1 - 1e-3 * 0.1) - 1e-3 * g / (g.abs() + 1e-8)
        far = g.abs() > 1e-7  # where Adam's step does not hang on rounding
        torch.testing.assert_close(edit.unet[name][far], expected.detach()[far], rtol=0, atol=1e-4)


def test_inversion_learns_tokens_and_nothing_else(epsilon):
    latents = epsilon.normal(3, torch.Generator().manual_seed(0))
    prompts = [fmn.placed(epsilon, "a red {}", "starfish", 4)] * 3
    before = {n: p.clone() for m in (epsilon.unet, epsilon.pipe.text_encoder) for n, p in m.state_dict().items()}
    settings = replace(QUICK, inversion=True, inversion_iterations=1, inversion_rate=1e-3)
    found = fmn.invert(epsilon, CONCEPT, latents, prompts, settings, TrainingLoop(seed=1))
    assert found.shape == (4, 32)
    # The start: the name's two tokens, then two random words.
    encoder, table = epsilon.encoder, epsilon.pipe.text_encoder.get_input_embeddings().weight.detach()
    words = torch.randint(len(encoder.tokenizer) - 2, (4,), generator=Rng(1).source)
    start = torch.cat([table[encoder.tokenize("starfish").ids[1:3]], table[words[2:]]])
    # One step of AdamW (decay 1e-2) on the diffusion loss.
    rng, learned = Rng(1), start.clone().requires_grad_(True)
    index = [rng.python.randrange(3) for _ in range(2)]
    noise = torch.randn(2, 4, 4, 4, generator=rng.source)
    t = torch.randint(0, 1000, (2,), generator=rng.source)
    sentence = encoder.tokenize("a red starfish")  # begin, a, red, then the places
    rows = encoder.embed(sentence)
    z = torch.cat([rows[:3], learned, rows[5:6], rows[-1:].expand(8, -1)])  # the end, and padding like it
    ids = encoder.assemble([*sentence.content[:2], *[0] * 4])
    c = encoder.encode(z.expand(2, -1, -1), ids, grad=True)
    x_t = epsilon.scheduler.add_noise(latents[index], noise, t)
    loss = (epsilon.unet(x_t, t, c).sample - noise).square().mean()
    g = torch.autograd.grad(loss, learned)[0]
    expected = start * (1 - 1e-3 * 1e-2) - 1e-3 * g / (g.abs() + 1e-8)
    far = g.abs() > 1e-7  # where Adam's step does not hang on rounding
    assert far.float().mean() > 0.8
    torch.testing.assert_close(found[far], expected[far], rtol=0, atol=1e-4)
    after = {n: p for m in (epsilon.unet, epsilon.pipe.text_encoder) for n, p in m.state_dict().items()}
    assert all(torch.equal(before[n], after[n]) for n in before)
