"""`python -m experiments.value_data`: see `studies.value_data`."""

from experiments.launch import program

main, __getattr__ = program(globals())
