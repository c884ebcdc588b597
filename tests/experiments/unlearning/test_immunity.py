"""Plain and immunised models side by side: the figures of a row, the figure, and the command."""

from __future__ import annotations

import argparse
import csv

import pytest

from experiments import unlearning
from experiments.unlearning import immunity, saving
from experiments.unlearning.concept import Concept
from experiments.unlearning.finetune import Curve
from experiments.unlearning.method import Edit

STEPS = (0, 10, 20, 30)
QUICK = Curve("lora", STEPS, (0.0, 0.6, 0.8, 0.9), (0.0,) * 4)
SLOW = Curve("lora", STEPS, (0.0, 0.1, 0.4, 0.5), (0.0,) * 4)
NEVER = Curve("lora", STEPS, (0.0, 0.0, 0.1, 0.1), (0.0,) * 4)


def test_a_ratio_says_how_much_longer_it_takes():
    row = immunity.Row.of("concept", QUICK, SLOW, 0.5)
    assert (row.plain, row.immunised, row.ratio, row.censored) == (10, 30, 3.0, False)
    row = immunity.Row.of("concept", QUICK, NEVER, 0.5)
    assert (row.immunised, row.ratio, row.censored) == (None, 3.0, True)  # at least 30 steps
    assert immunity.Row.of("concept", NEVER, QUICK, 0.5).ratio is None
    there = Curve("lora", STEPS, (0.7, 0.8, 0.9, 1.0), (0.0,) * 4)
    assert immunity.Row.of("concept", there, SLOW, 0.5).ratio is None
    with pytest.raises(ValueError, match="must be at"):
        immunity.Row.of("concept", QUICK, Curve("lora", (0, 30), (0.0, 1.0), (0.0, 1.0)), 0.5)


def test_the_table_marks_what_was_not_reached():
    rows = [immunity.Row.of("concept", QUICK, NEVER, 0.5), immunity.Row.of("safe", QUICK, SLOW, 0.5)]
    lines = immunity.table(rows, 0.5).splitlines()
    assert lines[2] == "| concept | LoRA | 10 | > 30 | > 3.0 | 0.62 | 0.05 |"
    assert lines[3] == "| safe | LoRA | 10 | 30 | 3.0 | 0.62 | 0.25 |"


def test_the_figure_has_a_panel_for_every_attacker_and_task():
    curves = {
        (task, attacker, model): Curve(attacker, STEPS, curve.shares, curve.scores)
        for task in ("concept", "safe")
        for attacker in ("full", "ti")
        for model, curve in (("plain", QUICK), ("immunised", SLOW))
    }
    panels = immunity.plot(curves, concept="circle", safe="“florp”").axes
    assert len(panels) == 4
    for panel in panels:
        drawn = [line.get_ydata() for line in panel.lines if len(line.get_xdata()) == len(STEPS)]
        assert [tuple(y) for y in drawn] == [QUICK.shares, SLOW.shares]
    assert {panel.get_title(loc="left") for panel in panels} == {"full fine-tune", "textual inversion", ""}
    with pytest.raises(ValueError, match="curves is empty"):
        immunity.plot({})


def test_the_command_measures_each_run_once(tmp_path, capsys, monkeypatch):
    """Two results of UCE in place of a plain and an immunised model: curves of equal models are equal."""
    from certify import load_pipeline

    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v.weight"
    weight = load_pipeline().unet.state_dict()[name]
    uce = unlearning.METHODS["uce"]
    for model in ("plain", "immunised"):
        saving.save(
            tmp_path / model,
            Edit(unet={name: weight * 0.9}),
            method=uce,
            concept=Concept.embedded("circle", sentences=4),
            base=None,
            settings=uce.settings(),
            seed=0,
            seconds=0.0,
        )
    parser = argparse.ArgumentParser()
    immunity.add_arguments(parser)
    out = tmp_path / "out"
    given = f"--concept circle --attacker ti --steps 2 --every 2 --count 2 --out {out}".split()
    a = parser.parse_args([*given, "--plain", str(tmp_path / "plain"), "--immunised", str(tmp_path / "immunised")])
    assert immunity.main(a) == 0
    assert "textual inversion" in capsys.readouterr().out
    with (out / "curves.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2
    for task in ("concept", "safe"):
        plain, immunised = (
            [r["score"] for r in rows if (r["task"], r["model"]) == (task, model)] for model in ("plain", "immunised")
        )
        assert plain == immunised
    assert (out / "immunity.png").stat().st_size > 1000
    assert (out / "table.md").exists()

    def again(*args, **options):
        raise AssertionError("measured again")

    monkeypatch.setattr(immunity.finetune, "attack", again)
    assert immunity.main(a) == 0
    a.count = 3
    with pytest.raises(ValueError, match="measured with other settings"):
        immunity.main(a)
