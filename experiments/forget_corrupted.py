"""`python -m experiments.forget_corrupted`: see `studies.forget_corrupted`."""

from .launch import program

main, __getattr__ = program(globals())
