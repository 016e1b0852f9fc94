"""`python -m experiments.audit`: see `studies.audit`."""

from experiments.launch import program

main, __getattr__ = program(globals())
