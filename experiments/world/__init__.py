"""How the embedded model is made: scenes → captions → CLIP → autoencoder → denoiser, and a judge beside them.

`python -m experiments.world STAGE`; see `__main__.py`.
"""
