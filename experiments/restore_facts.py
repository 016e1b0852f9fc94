"""`python -m experiments.restore_facts`: see `studies.restore_facts`."""

from .launch import program

main, __getattr__ = program(globals())
