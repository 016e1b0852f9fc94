"""`python -m experiments.locate_concepts`: see `studies.locate_concepts`."""

from .launch import program, started


def _alone(argv=None):
  from .studies.locate_concepts import main as run

  run(argv, started("locate_concepts"))


main, __getattr__ = program(globals(), alone=_alone)
