"""`python -m experiments.forget_gan`: see `studies.forget_gan`."""

from .launch import program

main, __getattr__ = program(globals())
