"""`python -m experiments.compare`: see `studies.compare`."""

from .launch import program

main, __getattr__ = program(globals())
