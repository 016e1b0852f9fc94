"""From the command line to files: what every study's program does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxunlearn.core import checks

from .. import common, files, flags
from ..launch import started
from ..requests import Ask, about, read
from . import cautions, certify, render, table, tune
from .run import record
from .study import (
  REPORT,
  SELECT,
  Beds,
  Kind,
  Plan,
  Requests,
  Study,
)


def prepare(study: Study, options: Any) -> Plan:
  """Checks everything that can be checked before training.

  Raises:
    ValueError: one line that names the option, what was found and wanted.
  """
  flags.check_seeds(options.seeds, options.first_seed)
  groups = study.groups or None
  methods = flags.chosen(options.methods, study.methods, groups=groups)
  notes: tuple[str, ...] = ()
  is_default = options.methods == type(options).methods
  if study.smoke is not None and is_default and options.preset == "smoke":
    # One that is to be certified is asked for.
    few = {*study.smoke, options.certificate}
    notes = (
      f"smoke has {len(study.smoke)} of {len(methods)} methods; --methods all has "
      "every one.",
    )
    methods = tuple(name for name in methods if name in few)
  count = options.seeds or study.seeds(options)
  if not options.retrain:
    count = 1  # There is one model to answer for.
  seeds = tuple(range(options.first_seed, options.first_seed + count))
  plan = make_plan(study, options, seeds, methods, options.request, REPORT)
  copies = cautions.of_copies(plan.requests, plan.beds.sources[0])
  plan = plan._replace(notes=(*copies, *plan.notes, *notes))
  certify.check(plan)
  if options.tune is None:
    if options.write_settings is not None:
      raise ValueError("Expected --tune with --write-settings, got none.")
    return plan
  if options.tune < 2:
    raise ValueError(f"Expected --tune > 1, got {options.tune}.")
  tuned = tuple(name for name in methods if study.methods[name].space)
  if not tuned or study.tune_request is None:
    raise ValueError("Expected --methods with settings to --tune, got none.")
  seeds = tuple(range(tune.FIRST_SEED, tune.FIRST_SEED + study.tune_seeds))
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
  text = study.request(options) if request is None else request
  forms = [kind.form for kind in study.kinds.values()]
  said = " or ".join(filter(None, [", ".join(forms[:-1]), *forms[-1:]]))
  spelled = study.spell(options, text)
  asks = () if study.requests else read(spelled, study.kinds, said)
  beds = study.beds(options, seeds, part, asks)
  by_hand = study.settings(options)
  by_hand = {name: by_hand.get(name, {}) for name in methods}
  settings, origins = tune.defaults(study, options, by_hand)
  plan = Plan(
    study,
    options,
    seeds,
    beds,
    study.requests(options, seeds, beds, text)
    if study.requests
    else masks(asks, study.kinds, beds, getattr(options, "sequence", False)),
    methods,
    settings,
    (),
    _strategy(options.strategy),
    origins=origins,
  )
  plan = study.fit(plan)
  return plan._replace(measures=tuple(study.measures(plan)))


def _strategy(text: str | None) -> str | int:
  """As `map_many` takes it; the cores of a CPU are busy with one model."""
  if text is None:
    return "map" if jax.default_backend() == "cpu" else "vmap"
  if text in ("vmap", "map"):
    return text
  if text.isdecimal() and 0 < len(text) < 10 and int(text) > 0:
    return int(text)
  raise ValueError(
    f"Expected --strategy vmap, map or a positive integer, got {text!r}."
  )


def masks(
  asks: Sequence[Ask],
  kinds: Mapping[str, Kind],
  beds: Beds,
  in_sequence: bool = False,
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
  forget, marks = jax.tree.map(lambda *each: np.stack(each), *found)
  names = tuple(ask.text for ask in asks)
  if not in_sequence:
    return Requests(names, forget, forget, marks)
  return _in_sequence(names, forget, marks)


def _in_sequence(names: tuple[str, ...], forget: Any, marks: Any) -> Requests:
  """Rows forgotten so far, and rows that are new; of a row the first counts."""
  if len(names) < 2:
    raise ValueError(
      "Expected several requests for --sequence, such as --request "
      f"'class:0;class:1;class:2', got {names[0]!r} alone."
    )
  so_far = np.logical_or.accumulate(forget)
  added = so_far.copy()
  added[1:] &= ~so_far[:-1]
  for name, mask in zip(names, added):
    if not mask.any(axis=-1).all():
      raise ValueError(
        f"Expected every request of --sequence to add rows, got {name!r}, whose "
        "rows were all forgotten before."
      )
  if so_far[-1].all(axis=-1).any():
    raise ValueError(
      "Expected the requests of --sequence to leave rows to retain, got "
      f"{len(names)} that together cover all {forget.shape[-1]} rows."
    )
  places = tuple(f"{i}. {name}" for i, name in enumerate(names, start=1))
  marks = jax.tree.map(np.logical_or.accumulate, marks)
  return Requests(places, so_far, added, marks, True)


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
  program = started(study.name)
  asked = flags.parse(study.options, program, argv)
  if asked.write_settings is not None:
    return _write_settings(asked, prepare)
  if not asked.retrain:
    alone = certify.run_alone, certify.write_alone
    _, made = common.run_program(asked, prepare, *alone)
    print(
      made.claims[0], f"Certificate: {asked.out}/certificate.html", sep="\n"
    )
    return
  plan, summary = common.run_program(asked, prepare, run, render.write)
  columns = study.columns and study.columns(plan)
  known, out = table.definitions(plan), plan.options.out
  render.show(common.wide_console(), summary, columns, known, out)


def _write_settings(asked: Any, prepare: Callable[[Any], Plan]) -> None:
  """Chooses settings, adds them to a file, and that is all."""
  with common.failing_on_system_errors():
    with common.failing_on_bad_input():
      flags.check(asked)
      common.use_compilation_cache()
      path = files.checked_path(asked.write_settings, "--write-settings")
      if path.is_dir():
        raise ValueError(
          f"Expected --write-settings to be a file, got the folder {path}."
        )
      files.made_folder(path.parent, "--write-settings")
      plan = prepare(asked)
      tune.read(path)  # Refuses another file.
    for line in plan.notes:
      print(f"note: {line}", file=sys.stderr)
    if plan.selection is None:
      return
    with common.progress() as bar:
      task = bar.add_task("training", total=None)
      say = lambda words: bar.update(task, description=words)
      tuned: dict[str, tune.Tuned] = {}
      for name, one in tune.choose(plan.selection, asked.tune, record, say):
        tuned[name] = one
        # At once, as what a stopped run has chosen is worth keeping, and beside
        # what another run has written meanwhile.
        tune.write(path, tune.read(path), plan.selection, tuned)
  print(f"Settings of {len(tuned)} methods: {path}")
