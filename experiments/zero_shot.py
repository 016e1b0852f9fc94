"""`python -m experiments.zero_shot`: see `studies.zero_shot`."""

from .launch import program

main, __getattr__ = program(globals())
