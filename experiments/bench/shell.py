"""From the command line to files: what every study's program does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import tyro

from experiments import common, flags
from experiments.bench import render, tune
from experiments.bench.study import (
  REPORT,
  SELECT,
  Beds,
  Kind,
  Plan,
  Requests,
  Study,
)
from jaxunlearn.core import checks

SEPARATOR = ";"  # Between several requests.


def prepare(study: Study, options: Any) -> Plan:
  """Checks everything that can be checked before training.

  Raises:
    ValueError: one line that names the option, what was found and wanted.
  """
  flags.check_seeds(options.seeds, options.first_seed)
  groups = study.groups or None
  methods = flags.chosen(options.methods, study.methods, groups=groups)
  count = options.seeds or study.seeds[options.preset]
  seeds = tuple(range(options.first_seed, options.first_seed + count))
  plan = make_plan(study, options, seeds, methods, options.request, REPORT)
  if options.tune is None:
    return plan
  if options.tune < 2:
    raise ValueError(f"Expected --tune > 1, got {options.tune}.")
  tuned = tuple(name for name in methods if study.methods[name].space)
  if not tuned or study.tune_request is None:
    raise ValueError("Expected --methods with settings to --tune, got none.")
  seeds = tuple(tune.FIRST_SEED + i for i in range(study.tune_seeds))
  request = study.tune_request(options)
  selection = make_plan(study, options, seeds, tuned, request, SELECT)
  return plan._replace(selection=selection)


def make_plan(
  study: Study,
  options: Any,
  seeds: tuple[int, ...],
  methods: tuple[str, ...],
  request: str | None,
  part: str,
) -> Plan:
  """The plan for some seeds, methods and requests; see `prepare`."""
  beds = study.beds(options, seeds, part)
  if request is None:
    request = study.request(options)
  on_cpu = jax.default_backend() == "cpu"
  settings = study.settings(options)
  return Plan(
    study,
    options,
    seeds,
    beds,
    parse(request, study.kinds, beds),
    methods,
    {name: settings.get(name, {}) for name in methods},
    tuple(study.measures(options, beds)),
    options.strategy or ("map" if on_cpu else "vmap"),
  )


def parse(text: str, kinds: Mapping[str, Kind], beds: Beds) -> Requests:
  """Builds the requests that a flag's text asks for.

  Args:
    text: "kind:value", or several with semicolons between.
    kinds: see `Kind`.
    beds: of all seeds; what can be forgotten.

  Raises:
    ValueError: in one line, a text of another form, what the kind refuses, a
      request that is empty or covers everything for some seed, one that comes
      twice.
  """
  forms = [kind.form for kind in kinds.values()]
  forms = " or ".join(filter(None, [", ".join(forms[:-1]), forms[-1]]))
  names = tuple(part.strip() for part in text.split(SEPARATOR) if part.strip())
  if not names:
    raise ValueError(f"Expected --request {forms}, got {text!r}.")
  if len(set(names)) < len(names):
    raise ValueError(f"Expected --request to differ, got {text!r}.")
  found = []
  for name in names:
    kind, _, value = name.partition(":")
    if kind not in kinds:
      raise ValueError(f"Expected --request {forms}, got {name!r}.")
    try:
      pairs = [kinds[kind].mask(value, source) for source in beds.sources]
      for mask, _ in pairs:
        checks.request_values(mask, "--request")
    except ValueError as error:
      raise ValueError(f"--request {name}: {error}") from error
    found.append(jax.tree.map(lambda *seeds: np.stack(seeds), *pairs))
  stacked = jax.tree.map(lambda *each: np.stack(each), *found)
  return Requests(names, *stacked)


def main(
  study: Study,
  prepare: Callable[[Any], Plan],
  run: Callable[..., Any],
  argv: Sequence[str] | None = None,
) -> None:
  """The program; bad input ends it with one line and exit status 2.

  Args:
    study: see `Study`.
    prepare: `options -> plan`.
    run: `(plan, progress) -> evidence`.
    argv: the arguments; those of the process if None.
  """
  asked = tyro.cli(
    study.options, prog=f"python -m experiments.{study.name}", args=argv
  )
  plan, summary = common.run_program(asked, prepare, run, render.write)
  render.show(common.wide_console(), plan, summary)
