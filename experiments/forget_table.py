"""`python -m experiments.forget_table`: see `studies.forget_table`."""

from .launch import program

main, __getattr__ = program(globals())
