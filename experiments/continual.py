"""`python -m experiments.continual`: see `studies.continual`."""

from experiments.launch import program

main, __getattr__ = program(globals())
