"""`python -m experiments.forget_text`: see `studies.forget_text`."""

from .launch import program

main, __getattr__ = program(globals())
