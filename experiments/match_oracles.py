"""`python -m experiments.match_oracles`: see `studies.match_oracles`."""

from .launch import program

main, __getattr__ = program(globals())
