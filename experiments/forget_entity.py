"""`python -m experiments.forget_entity`: see `studies.forget_entity`."""

from .launch import program

main, __getattr__ = program(globals())
