"""`python -m experiments.forget_vision_language`: see `studies.forget_vision_language`."""

from .launch import program

main, __getattr__ = program(globals())
