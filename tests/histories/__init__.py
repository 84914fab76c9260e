"""Histories: real workers under random tasks and random faults, checked as a whole against the promises.

`python -m histories` draws scripts from a seed, plays them on real servers and checks what came of it::

    PYTHONPATH=tests python -m histories --minutes 5 --seed 7

docs/explanation/guarantees.md holds the guarantees; :mod:`histories.checker` checks a history against them.
"""
