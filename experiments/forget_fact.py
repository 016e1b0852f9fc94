"""`python -m experiments.forget_fact`: see `studies.forget_fact`."""

from .launch import program, started


def _alone(argv=None):
  from .studies.forget_fact import main as run

  run(argv, started("forget_fact"))


main, __getattr__ = program(globals(), alone=_alone)
