"""From the command line to files: what every study's program does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

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
from experiments.requests import Ask, about, read
from jaxunlearn.core import checks


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
  forms = [kind.form for kind in study.kinds.values()]
  text = study.request(options) if request is None else request
  asks = read(
    text,
    study.kinds,
    " or ".join(filter(None, [", ".join(forms[:-1]), forms[-1]])),
  )
  beds = study.beds(options, seeds, part, asks)
  on_cpu = jax.default_backend() == "cpu"
  settings = study.settings(options)
  return Plan(
    study,
    options,
    seeds,
    beds,
    masks(asks, study.kinds, beds),
    methods,
    {name: settings.get(name, {}) for name in methods},
    tuple(study.measures(options, beds)),
    options.strategy or ("map" if on_cpu else "vmap"),
  )


def masks(
  asks: Sequence[Ask], kinds: Mapping[str, Kind], beds: Beds
) -> Requests:
  """The rows that requests are about, for each seed.

  Raises:
    ValueError: in one line, what a kind refuses, or a request that is empty or
      covers everything for some seed.
  """
  found = []
  for ask in asks:
    with about(ask):
      pairs = [kinds[ask.kind].mask(ask.value, s) for s in beds.sources]
      for mask, _ in pairs:
        checks.request_values(mask, name="--request")
    found.append(jax.tree.map(lambda *seeds: np.stack(seeds), *pairs))
  stacked = jax.tree.map(lambda *each: np.stack(each), *found)
  return Requests(tuple(ask.text for ask in asks), *stacked)


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
  program = f"python -m experiments.{study.name}"
  asked = flags.parse(study.options, program, argv)
  plan, summary = common.run_program(asked, prepare, run, render.write)
  render.show(common.wide_console(), plan, summary)
