"""`python -m experiments.forget`: see `studies.forget`."""

from .launch import program

main, __getattr__ = program(globals(), instead={"--exact": "forget_exact"})
