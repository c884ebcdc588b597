"""Experiments: what is done with `certify`, from making the embedded world on. Imports `certify`, never the reverse."""
