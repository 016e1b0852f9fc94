"""`python -m experiments.guard_text`: see `studies.guard_text`."""

from .launch import program, started


def _alone(argv=None):
  from .studies.guard_text import main as run

  run(argv, started("guard_text"))


main, __getattr__ = program(globals(), alone=_alone)
