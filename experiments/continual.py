"""`python -m experiments.continual`: see `studies.continual`."""

from .launch import program

main, __getattr__ = program(globals())
