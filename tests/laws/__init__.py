"""Laws: what holds for every function, input, noise and number of draws (hypothesis).

test_monotone       bounds grow with ρ, with confidence and with what is asked; they shrink with evidence
test_equivariant    units, directions, names of outputs, shapes; one σ is a tensor full of it
test_consistent     different ways to ask about the same draws agree
test_merging        parts merge to one run; what was put away or stopped goes on as if it had not been
test_roundtrip      certificates come back as they were; more than follows from the evidence is refuted
test_geometry       the ellipsoid and its balls; how far noise lets a probability move
test_false_laws     sentences that sound right and are not, each of which is caught
test_strategies     every corner that `tests/strategies.py` promises is reached
test_policies       covariance policies (T7)
test_uniform        uniform noise (T13)

`built.py` holds every method of `certify.bounds`, built once and asked often; a new one is a line there, and in the tables
`BOUNDS` (test_equivariant) and `RESULTS` (test_roundtrip). Profiles: tests/conftest.py.
"""
