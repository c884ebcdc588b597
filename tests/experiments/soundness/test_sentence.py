"""Another encoder: a small random BERT in a folder, attacked as the embedded model is."""

from __future__ import annotations

import math

import pytest
import torch

from certify.bounds import METHODS
from experiments.soundness import report
from experiments.soundness.sentence import SENTENCES, sentence
from experiments.soundness.suite import Plan, attack


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({w for s in SENTENCES for w in s.split()})]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            initializer_range=0.5,
        )
        model = BertModel(config)
    model.save_pretrained(folder)
    return folder


def test_a_sentence_is_its_own_encoding(folder):
    from transformers import AutoTokenizer, BertModel

    case = sentence(folder, SENTENCES[0])
    ids = AutoTokenizer.from_pretrained(folder)(SENTENCES[0], return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = BertModel.from_pretrained(folder).eval()(ids).last_hidden_state
    torch.testing.assert_close(case.f(case.y[None]), expected)
    torch.testing.assert_close(case.differentiable(case.y[None]), expected)
    sigma = case.noise.sigma_for(case.y.shape)
    assert (sigma[[0, -1]] == 0).all()
    assert (sigma[1:-1] > 0).all()
    case.support.over(tuple(expected.shape[1:]))
    outputs = case.f(case.noise.draw(case.y, 200, torch.Generator().manual_seed(0)))
    assert ((outputs >= case.support.lower) & (outputs <= case.support.upper)).all()


def test_its_bounds_stand(folder):
    plan = Plan(prompts=1, rhos=(1.0,), n=2000, verify=390, percentiles=(0.5,), steps=3, draws=16, replicas=3, q=0.8)
    rows = attack(sentence(folder, SENTENCES[0]), plan, 0)
    assert not any(row.violated for row in rows)
    for kind, method in METHODS:
        found = [row for row in rows if f" {method}, {kind}" in row.claim and "of K" not in row.claim]
        assert any(row.aimed and math.isfinite(row.ratio) for row in found), (kind, method)


def test_misuse(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must be a folder with config.json"):
        sentence(tmp_path, SENTENCES[0])
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="does not load as a BERT"):
        sentence(tmp_path, SENTENCES[0])
    with pytest.raises(ValueError, match="model = None: must be the folder of a BERT"):
        report._sentences(Plan(prompts=1), None)
    with pytest.raises(ValueError, match="prompts = 5: must be at most 2"):
        report._sentences(Plan(prompts=5), str(folder))
