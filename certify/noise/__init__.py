"""Noises: one file each, beside the protocol that the bounds know them by."""

from certify.noise.gaussian import Ellipsoid, GaussianNoise, as_noise
from certify.noise.protocol import Noise, Region, Tails
from certify.noise.uniform import CrossPolytope, UniformNoise

__all__ = ["CrossPolytope", "Ellipsoid", "GaussianNoise", "Noise", "Region", "Tails", "UniformNoise", "as_noise"]
