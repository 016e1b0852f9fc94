"""`python -m experiments.forget_identity`: see `studies.forget_identity`."""

from .launch import program

main, __getattr__ = program(globals())
