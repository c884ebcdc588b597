"""Data sets: the prompts of a file, and runs that certify every one of them.

prompts as people keep them, in tables     prompt_files.py
a run over all of them, resumable          runs.py
"""
