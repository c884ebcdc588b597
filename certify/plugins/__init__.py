"""Plug-ins: what others find of `certify` by their own conventions. Nothing here is imported by the rest of the package.

in the benchmark suite eval-unlearn        eval_unlearn.py
"""
