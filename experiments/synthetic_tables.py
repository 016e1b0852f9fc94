"""`python -m experiments.synthetic_tables`: see `studies.synthetic_tables`."""

from .launch import program

main, __getattr__ = program(globals(), alone=True)
