"""`python -m experiments.synthetic_tables`: see `studies.synthetic_tables`."""

from __future__ import annotations

from experiments import common, flags
from experiments.studies import synthetic_tables_view as view
from experiments.studies.synthetic_tables import Options, prepare, run

__all__ = ["Options", "main", "prepare", "run"]


def main(argv=None) -> None:
  """The program; bad input ends it with one line and exit status 2."""
  asked = flags.parse(Options, "python -m experiments.synthetic_tables", argv)
  plan, summary = common.run_program(asked, prepare, run, view.write)
  view.show(common.wide_console(), plan, summary)


if __name__ == "__main__":
  main()
