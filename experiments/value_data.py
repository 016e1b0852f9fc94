"""`python -m experiments.value_data`: see `studies.value_data`."""

from .launch import program

main, __getattr__ = program(globals())
