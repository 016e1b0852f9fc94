"""`python -m experiments.forget_graph`: see `studies.forget_graph`."""

from .launch import program

main, __getattr__ = program(globals())
