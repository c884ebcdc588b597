"""Benchmarks: what a certificate costs beyond running the model, as ratios within one run.

`python -m benchmarks` measures everything and prints the table of docs/benchmarks.md; `python -m benchmarks floor
--quick` a part.
"""
