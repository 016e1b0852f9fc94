"""`python -m experiments.forget_fact`: see `studies.forget_fact`."""

from .launch import program

main, __getattr__ = program(globals(), alone=True)
