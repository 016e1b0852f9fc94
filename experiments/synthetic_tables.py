"""`python -m experiments.synthetic_tables`: see `studies.synthetic_tables`."""

from experiments.launch import program


def _main(argv=None) -> None:
  from experiments import common, flags
  from experiments.studies import synthetic_tables as study
  from experiments.studies import synthetic_tables_view as view

  name = "python -m experiments.synthetic_tables"
  asked = flags.parse(study.Options, name, argv)
  found = common.run_program(asked, study.prepare, study.run, view.write)
  view.show(common.wide_console(), *found)


main, __getattr__ = program(globals(), _main)
