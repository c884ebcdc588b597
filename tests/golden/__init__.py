"""Golden results: what every kind of statement says at fixed seeds, committed, so that a change of the code that changes no
claim can be seen to change none.

`make golden` (`python -m tests.golden`) writes files anew where results differ, and a person reads the diff before it is
committed; `test_golden.py` compares. What is compared is data: claims, evidence, tensors, and of a provenance what does not
depend on the machine or the day. Sentences (`reason`) are left out: they may be worded better.

How far two machines may differ. Draws come from integer generators and numpy's ziggurat, standard deviations are powers of
two and the functions add, compare and round: which draw has which rank, and every count, is the same anywhere, and words and
whole numbers are compared exactly. Numbers are compared to one part in 10⁹: limits come from scipy's special functions, sums
and eigenvalues from BLAS, whose last digits depend on the processor. What passes through a model is float32 from a matrix
product on: there one part in 500 is allowed, and only what was asked (α, its shares, p, q) is held to 10⁻⁹.

On one machine nothing may differ at all: `python -m tests.golden --exact --folder BEFORE` before a change that must not
change a claim, and `… --exact --check --folder BEFORE` after it, compare every digit and the SHA-256 of every tensor.
"""
