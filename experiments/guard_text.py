"""`python -m experiments.guard_text`: see `studies.guard_text`."""

from .launch import program


def _alone(argv=None):
  from .studies.guard_text import main as run

  run(argv)


main, __getattr__ = program(globals(), alone=_alone)
