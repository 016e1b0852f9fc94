"""`python -m experiments.forget_corpus`: see `studies.forget_corpus`."""

from .launch import program

main, __getattr__ = program(globals())
