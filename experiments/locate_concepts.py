"""`python -m experiments.locate_concepts`: see `studies.locate_concepts`."""

from .launch import program

main, __getattr__ = program(globals(), alone=True)
