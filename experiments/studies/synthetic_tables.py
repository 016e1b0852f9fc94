"""How good are synthetic tables, and do they repeat what was to be forgotten?

Question: what does TabSynDex (arXiv:2207.05295) say of the generators that the
paper compares, as published and with its defects mended; does it rise and then
flatten while a VAE or a GAN is trained, as the paper claims; and do synthetic
rows move away from a tenth of the rows when a generator is trained without them?

    python -m experiments.synthetic_tables --data-dir DIR --out out/tables

on rows of UCI Adult and of California housing (wine and diabetes of scikit-learn
where the files are missing) writes results.json, table.md, plots/ and
report.html. `quick` takes about three minutes on two CPU cores.

Nothing is unlearned here and no generator is the standard of another, so that
the study has a run of its own; the frame writes what it finds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress

from jaxunlearn import tables as ju_tables
from jaxunlearn.core.keys import derive
from jaxunlearn.core.training import map_many
from jaxunlearn.metrics.tabsyndex import tabsyndex
from jaxunlearn.metrics.tabsyndex_bands import tabsyndex_bands
from jaxunlearn.metrics.tabsyndex_nearest import nearest_record_distance
from jaxunlearn.report.files import plain

from .. import common, files, flags, requests
from ..datasets import mixed_tables, splits
from ..datasets.mixed_tables import MixedTable
from ..flags import described
from . import synthetic_tables_view as view
from .synthetic_tables_view import (
  COMPONENTS,
  GENUINE,
  MODES,
  Outcome,
)

DEFAULT_SEEDS = {"smoke": 1, "quick": 2, "paper": 10}
_FORMS = "random:SHARE or index:FILE"


class Size(NamedTuple):
  """How much of everything."""

  rows: int  # That generators learn from; as many others are the genuine rows.
  resamples: int  # Of the bands.
  vae_steps: int
  gan_steps: int
  checkpoints: int  # Points of the training curves.
  batch_size: int
  width: int  # Of hidden layers.


SIZES: Mapping[str, Size] = {
  "smoke": Size(80, 3, 8, 8, 2, 16, 8),
  "quick": Size(800, 12, 1200, 1800, 12, 100, 96),
  "paper": Size(10_000, 100, 12_000, 30_000, 20, 500, 256),
}


@dataclasses.dataclass(frozen=True)
class Options:
  """Score generators of synthetic tables with TabSynDex, in both modes."""

  data: Annotated[
    str,
    described(
      "Tables: all (adult and california), or names as in wine,diabetes."
    ),
  ] = "all"

  generators: Annotated[
    str,
    described("Generators: all, or names as in copula,vae."),
  ] = "all"

  request: Annotated[
    str,
    described(
      "What is to be forgotten, one request: random:0.1 (a tenth of the rows, "
      "other ones for every seed) or index:FILE (rows of one table's file, from 0 "
      "on, a number a line, or an .npy of numbers or of a mask)."
    ),
  ] = "random:0.1"

  seeds: flags.Seeds = None

  first_seed: flags.FirstSeed = 0

  preset: flags.Preset = "quick"

  data_dir: flags.DataDir = None

  out: flags.Out = "out/synthetic_tables"


class Problem(NamedTuple):
  """The rows of one seed, or with a leading axis of all.

  Attributes:
    real: float32 [N, D], what generators learn from.
    genuine: float32 [N, D], further rows.
    forget: bool [N], the request.
  """

  real: np.ndarray
  genuine: np.ndarray
  forget: np.ndarray


class Plan(NamedTuple):
  """Options that were checked, and what they name."""

  options: Options
  size: Size
  tables: tuple[MixedTable, ...]
  generators: tuple[str, ...]
  seeds: tuple[int, ...]
  problems: tuple[Problem, ...]  # Of each table, leaves [S, ...].


def _trained(make: Any, steps: str) -> Callable[..., ju_tables.Generator]:
  return lambda kinds, size: make(
    kinds,
    num_steps=getattr(size, steps),
    batch_size=size.batch_size,
    width=size.width,
    num_checkpoints=size.checkpoints,
  )


GENERATORS: Mapping[str, Callable[..., ju_tables.Generator]] = {
  "copy": lambda kinds, size: ju_tables.resampled_rows(kinds),
  "independent": lambda kinds, size: ju_tables.independent_columns(kinds),
  "copula": lambda kinds, size: ju_tables.gaussian_copula(kinds),
  "vae": _trained(ju_tables.tabular_vae, "vae_steps"),
  "gan": _trained(ju_tables.tabular_gan, "gan_steps"),
}
_CURVES = ("vae", "gan")


def prepare(options: Options) -> Plan:
  """Checks everything that can be checked before training.

  Raises:
    ValueError: one line that names the option, what was found and wanted.
  """
  flags.check_seeds(options.seeds, options.first_seed)
  asked = flags.chosen(
    options.data,
    mixed_tables.NAMES,
    "--data",
    groups={"all": mixed_tables.FILES},
  )
  found = [mixed_tables.load(name, options.data_dir) for name in asked]
  found = list({table.name: table for table in found}.values())
  if options.preset == "smoke" and options.data == "all":
    found = found[:1]  # Another table would want other programs.
  names = flags.chosen(options.generators, GENERATORS, "--generators")
  size = SIZES[options.preset]
  count = options.seeds or DEFAULT_SEEDS[options.preset]
  seeds = tuple(range(options.first_seed, options.first_seed + count))
  asks = requests.read(options.request, ("random", "index"), _FORMS)
  if len(asks) > 1:
    raise ValueError(
      f"Expected one --request, got {len(asks)} ({options.request!r})."
    )
  with requests.about(asks[0]):
    if asks[0].kind == "index" and len(found) > 1:
      raise ValueError(f"Expected --data with one table, got {len(found)}.")
    problems = [
      [_problem(table, size, seed, asks[0]) for seed in seeds]
      for table in found
    ]
  stacked = [jax.tree.map(lambda *v: np.stack(v), *each) for each in problems]
  return Plan(options, size, tuple(found), names, seeds, tuple(stacked))


def _problem(
  table: MixedTable, size: Size, seed: int, ask: requests.Ask
) -> Problem:
  """Rows to learn from, others to compare with, and a request."""
  total = len(table.values)
  named, pinned = None, np.zeros(total, bool)
  if ask.kind == "index":
    named = files.read_rows(ask.value, int(table.rows.max()) + 1)
    pinned = named[table.rows]
    most = min(size.rows, round(0.45 * total)) // 2
    if not 0 < pinned.sum() == named.sum() <= most:
      raise ValueError(
        f"Expected 1 to {most} rows, as a generator learns from twice as many, "
        f"got {named.sum()}, of which {pinned.sum()} are complete."
      )
  learnt, genuine = splits.split_rows(
    total, seed, splits.REPORT, test_share=0.45, pinned=pinned
  )
  count = min(size.rows, len(learnt), len(genuine))
  rng = np.random.default_rng((seed, 2))
  # What is to be forgotten has to be learnt from.
  learnt = rng.permutation(learnt)
  learnt = learnt[np.argsort(~pinned[learnt], kind="stable")][:count]
  genuine = rng.permutation(genuine)[:count]
  forget = pinned[learnt]
  if named is None:
    share = requests.rows_of_share(ask.value, count)
    forget = rng.permutation(count) < share
  return Problem(table.values[learnt], table.values[genuine], forget)


def run(plan: Plan, progress: Progress) -> Outcome:
  """Fits and measures; writes nothing."""
  names = (GENUINE, *plan.generators)
  task = progress.add_task("starting", total=len(plan.tables) * len(names))
  rows: list[dict[str, Any]] = []
  curves: dict[tuple[str, str], np.ndarray] = {}
  for table, problem in zip(plan.tables, plan.problems):
    seeds = [jax.random.key(seed) for seed in plan.seeds]
    keys = lambda use, table=table, seeds=seeds: jnp.stack(
      [derive(key, f"{use}: {table.name}") for key in seeds]
    )
    # One key a seed: all generators are scored by the same split of rows.
    judge, score_many = _programs(table, plan.size, problem, keys("measure"))
    for name in names:
      progress.update(task, description=f"{table.name}: {name}")
      made = common.Timed(None, np.nan, np.nan)
      drawn = jnp.stack([problem.genuine, problem.genuine], axis=1), None
      if name != GENUINE:
        fit = _fit(table, plan.size, name)
        made = common.timed(fit, problem, keys(name))
        drawn = made.value
      both, stops = drawn
      columns = {k: np.asarray(v) for k, v in judge(both).items()}
      if name == GENUINE:
        columns = {k: v for k, v in columns.items() if "without" not in k}
        del columns["tabsyndex_all_rows"]
      if stops is not None:
        curves[table.name, name] = np.asarray(score_many(stops))
      rows += [
        {
          "method": name,
          "request": table.name,
          "seed": seed,
          "seconds_compile": made.seconds_compile,
          "seconds_run": made.seconds_run / len(plan.seeds),
          **{k: plain(v[i]) for k, v in columns.items()},
        }
        for i, seed in enumerate(plan.seeds)
      ]
      progress.advance(task)
  return Outcome(rows, curves)


def _fit(table: MixedTable, size: Size, name: str) -> Callable[..., Any]:
  """Fits with and without the request, and draws rows; for all seeds."""
  generator = GENERATORS[name](table.categories, size)

  def one(problem: Problem, key: jax.Array):
    fit_key, draw_key = jax.random.split(key)
    draw = lambda state: generator.sample(state, draw_key, len(problem.real))

    def fitted(mask: jax.Array):
      state, info = generator.fit(problem.real, mask, fit_key)
      stops = jax.lax.map(draw, info.checkpoints) if name in _CURVES else None
      return draw(state), stops

    # Same key: the two differ by the request alone.
    masks = jnp.stack([jnp.ones_like(problem.forget), ~problem.forget])
    both, stops = map_many(fitted, masks, strategy="map")
    return both, jax.tree.map(lambda leaf: leaf[0], stops)

  return lambda problems, keys: map_many(one, problems, keys, strategy="map")


def _programs(
  table: MixedTable, size: Size, problems: Problem, keys: jax.Array
) -> tuple[Callable[..., Any], Callable[..., Any]]:
  """What scores tables of all seeds: a pair each, and any number, [S, T]."""
  shared: dict[str, Any] = {
    "categories": table.categories,
    "target": table.target,
    "task": table.task,
  }

  def totals(real, fakes, key):
    """Of several tables, all by the same split of rows."""
    score = lambda fake: tabsyndex(real, fake, key, **shared).total
    return map_many(score, fakes, strategy="map")

  def one(problem, both, key):
    found: dict[str, Any] = {}
    for mode, tail in MODES.items():
      bands = tabsyndex_bands(
        problem.real,
        both[0],
        key,
        mode=mode,
        num_resamples=size.resamples,
        strategy="map",
        **shared,
      )
      found[f"tabsyndex{tail}"] = bands.score.total
      found[f"tabsyndex{tail}_std"] = bands.std.total
      for name in COMPONENTS:
        found[f"{name}{tail}"] = getattr(bands.score, name)
    within, without = totals(problem.real, both, key)
    found |= {"tabsyndex_all_rows": within, "tabsyndex_without": without}
    nearest = lambda fake: nearest_record_distance(
      problem.real, fake, categories=table.categories
    )
    distances = map_many(nearest, both, strategy="map")
    for rows, mask in (
      ("forgotten", problem.forget),
      ("kept", ~problem.forget),
    ):
      means = jnp.where(mask, distances, 0).sum(axis=1) / mask.sum()
      for how, mean in zip(("with", "without"), means):
        found[f"{rows}_distance_{how}"] = mean
    return found

  many = jax.jit(lambda *args: map_many(one, *args, strategy="map"))
  some = jax.jit(lambda *args: map_many(totals, *args, strategy="map"))
  return (
    lambda both: many(problems, both, keys),
    lambda fakes: some(problems.real, fakes, keys),
  )


def main(argv: Sequence[str] | None, prog: str) -> None:
  """The program; bad input ends it with one line and exit status 2."""
  asked = flags.parse(Options, prog, argv)
  found = common.run_program(asked, prepare, run, view.write)
  view.show(common.wide_console(), *found)
