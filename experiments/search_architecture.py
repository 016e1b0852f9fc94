"""`python -m experiments.search_architecture`: see `studies.search_architecture`."""

from .launch import program

main, __getattr__ = program(globals())
