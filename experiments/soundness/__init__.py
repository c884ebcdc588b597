"""Soundness by attack: are the certified bounds true, and how much of them does the strongest attack use up?

`attack` optimises perturbations inside the certified ellipsoid, `verify` decides from fresh draws whether one of them breaks a
bound, `suite` does it for every theorem about the encoding, `images` for the certified attack success rate, `report` is the
command `python -m experiments soundness`. Figures: docs/guide/soundness.md.
"""
