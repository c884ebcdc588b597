"""The second world, in the making: concepts that can be absent, and words that go with them in a part of the scenes.

It is not shipped yet: `certify/world/` holds the first one. What both share stands in `experiments/world/`, what only the
second needs stands here. `python -m experiments.world.second STAGE`; see `__main__.py`.
"""
