"""`python -m experiments.forget_recommendations`: see `studies.forget_recommendations`."""

from experiments.launch import program

main, __getattr__ = program(globals())
