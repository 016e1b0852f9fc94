"""`python -m experiments.probe_prompts`: see `studies.probe_prompts`."""

from .launch import program

main, __getattr__ = program(globals())
