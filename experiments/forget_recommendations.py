"""`python -m experiments.forget_recommendations`: see `studies.forget_recommendations`."""

from .launch import program

main, __getattr__ = program(globals())
