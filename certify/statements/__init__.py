"""Statements: the questions that can be asked of a function under noise, and their answers.

    bounds, radii, curves, several of one set of draws     ask.py
    how draws are made: the options of all of them         drawing.py
    what is deployed, with K noisy copies (T5)             replicas.py
    a rate over a set of prompts                           rates.py
    stopping early                                         decide.py, decide_mse.py, decision.py, stopping.py
    how many draws it takes                                plan.py
    the estimators themselves                              smoothers.py

The functions are names of the package itself: `certify.mse_bound`, `certify.event_bound`, `certify.decide_event`.
"""
