"""Timing of defences, with fakes whose times are known."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from certify import load_pipeline, world
from experiments.defenses import DEFENSES
from experiments.tables.timing import measured
from experiments.unlearning.concept import Concept


class Fake:
    """Takes the seconds it is told, times what the machine is slowed down by; keeps a log of who drew what."""

    def __init__(self, name, seconds, log, slowed=lambda call: 1.0):
        self.name, self.seconds, self.log, self.slowed = name, seconds, log, slowed

    def make(self, prompts, seeds):
        self.log.append((self.name, *prompts, *seeds))
        return SimpleNamespace(images=torch.zeros(1, 3, 2, 2), seconds=self.seconds * self.slowed(len(self.log)))


def test_a_slower_defence_is_found_slower():
    log: list[tuple[str, str, int]] = []
    found = measured(
        {"none": Fake("none", 0.2, log), "slow": Fake("slow", 0.5, log), "quick": Fake("quick", 0.1, log)},
        ["a", "b"],
        rounds=3,
        seed=4,
    )
    assert list(found) == ["none", "slow", "quick"]
    assert found["none"] == pytest.approx({"seconds": 0.2, "ratio": 1.0})
    assert found["slow"] == pytest.approx({"seconds": 0.5, "ratio": 2.5})
    assert found["quick"] == pytest.approx({"seconds": 0.1, "ratio": 0.5})
    counted = log[3:]
    assert len(counted) == 3 * 2 * 3
    assert {entry[1:] for entry in counted} == {("a", 4), ("b", 5)}
    for start in range(0, len(counted), 3):  # interleaved: each prompt under every defence before the next
        assert {entry[0] for entry in counted[start : start + 3]} == {"none", "slow", "quick"}
    assert {counted[start][0] for start in range(0, len(counted), 3)} == {"none", "slow", "quick"}


def test_the_first_image_is_not_counted_and_one_bad_round_does_not_matter():
    log: list[tuple[str, str, int]] = []

    def slowed(call):  # calls 1 and 2 come first; 3 to 6 are the first round
        return 1000.0 if call <= 6 else 1.0

    defenses = {"none": Fake("none", 0.2, log, slowed), "slow": Fake("slow", 0.3, log, slowed)}
    found = measured(defenses, ["a", "b"], rounds=3)
    assert found["slow"] == pytest.approx({"seconds": 0.3, "ratio": 1.5})
    worse = measured(
        {"none": defenses["none"], "slow": Fake("slow", 0.3, log, lambda call: 1000.0 if call % 4 < 3 else 1.0)},
        ["a", "b"],
        rounds=3,
    )
    assert worse["slow"]["seconds"] > 1  # the control: most rounds are bad


def test_a_machine_that_grows_slower_leaves_the_ratio():
    log: list[tuple[str, str, int]] = []

    def slowed(call):
        return 1.0 + (call - 1) // 4  # by round: the four images of a round are alike

    defenses = {"none": Fake("none", 0.2, log, slowed), "same": Fake("same", 0.2, log, slowed)}
    log += [("", "", 0)] * 2
    found = measured(defenses, ["a", "b"], rounds=5)
    assert found["same"]["ratio"] == pytest.approx(1.0)
    assert found["same"]["seconds"] > 0.2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 2}, "rounds = 2: must be a whole number >= 3"),
        ({"prompts": []}, "must hold at least one"),
        ({"against": "nothing"}, "against = 'nothing': must be one of 'none'"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_bad_input(changes, message):
    given = {"prompts": ["a"], "rounds": 3} | changes
    with pytest.raises(ValueError, match=message):
        measured({"none": Fake("none", 0.1, [])}, given.pop("prompts"), **given)


def test_defences_can_be_timed():
    """Of the shipped model; that the times are positive is all that is said of them."""
    pipe = load_pipeline()
    concept = Concept.embedded("cross", sentences=5)
    defenses = {
        name: DEFENSES[name](pipe, steps=1, guidance=2.0, concept=concept, settings=DEFENSES[name].embedded())
        for name in ("none", "sld-max")
    }
    found = measured(defenses, [world.prompts("tune")[0]["prompt"]], rounds=3)
    assert found["none"]["seconds"] > 0
    assert found["none"]["ratio"] == 1.0
    assert found["sld-max"]["ratio"] > 0
