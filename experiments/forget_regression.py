"""`python -m experiments.forget_regression`: see `studies.forget_regression`."""

from .launch import program

main, __getattr__ = program(globals())
