"""`python -m experiments.guard_text`: see `studies.guard_text`."""

from .launch import program

main, __getattr__ = program(globals(), alone=True)
