"""`python -m experiments.synthetic_tables`: see `studies.synthetic_tables`."""

from .launch import program, started


def _main(argv=None) -> None:
  from . import common, flags
  from .studies import synthetic_tables as study
  from .studies import synthetic_tables_view as view

  asked = flags.parse(study.Options, started("synthetic_tables"), argv)
  found = common.run_program(asked, study.prepare, study.run, view.write)
  view.show(common.wide_console(), *found)


main, __getattr__ = program(globals(), _main)
