"""`python -m experiments.forget_corrupted`: see `studies.forget_corrupted`."""

from __future__ import annotations

import functools

from experiments.bench import shell
from experiments.bench.run import run
from experiments.studies.forget_corrupted import STUDY, Options

__all__ = ["Options", "main", "prepare", "run"]

prepare = functools.partial(shell.prepare, STUDY)


def main(argv=None) -> None:
  """The program; bad input ends it with one line and exit status 2."""
  shell.main(STUDY, prepare, run, argv)


if __name__ == "__main__":
  main()
