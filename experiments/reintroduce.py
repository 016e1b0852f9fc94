"""`python -m experiments.reintroduce`: see `studies.reintroduce`."""

from .launch import program

main, __getattr__ = program(globals())
