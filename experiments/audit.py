"""`python -m experiments.audit`: see `studies.audit`."""

from .launch import program

main, __getattr__ = program(globals())
