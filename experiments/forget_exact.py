"""`python -m experiments.forget_exact`: see `studies.forget_exact`."""

from .launch import program

main, __getattr__ = program(globals())
