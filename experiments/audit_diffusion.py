"""`python -m experiments.audit_diffusion`: see `studies.audit_diffusion`."""

from .launch import program

main, __getattr__ = program(globals())
