"""How good are synthetic tables, and do they repeat what was to be forgotten?

Question: what does TabSynDex (arXiv:2207.05295) say of the generators that the
paper compares, as published and with its defects mended; does it rise and then
flatten while a VAE or a GAN is trained, as the paper claims; and do synthetic
rows move away from a tenth of the rows when a generator is trained without them?

    python -m experiments.synthetic_tables --data-dir DIR --out out/tables

on rows of UCI Adult and of California housing (wine and diabetes of scikit-learn
where the files are missing) writes results.json, table.md, plots/ and
report.html. `quick` takes about three minutes on two CPU cores.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress

from experiments import common, files, flags, requests
from experiments import synthetic_tables_data as tables
from experiments import synthetic_tables_output as output
from experiments.flags import described
from jaxunlearn.core.training import map_many
from jaxunlearn.metrics.tabsyndex import TabSynDex, tabsyndex
from jaxunlearn.metrics.tabsyndex_bands import Bands, tabsyndex_bands
from jaxunlearn.metrics.tabsyndex_nearest import nearest_record_distance
from jaxunlearn.tables import (
  Generator,
  Learnt,
  gaussian_copula,
  independent_columns,
  resampled_rows,
  tabular_gan,
  tabular_vae,
)

DEFAULT_SEEDS = {"smoke": 1, "quick": 2, "paper": 10}
GENUINE, COPY = "genuine rows", "copy"
MODES = ("fixed", "published")
_FORMS = "random:SHARE or index:FILE"


class Size(NamedTuple):
  """How much of everything.

  Attributes:
    rows: that generators learn from; as many others are the genuine rows.
    resamples: of the bands.
    vae_steps: training steps of the VAE.
    gan_steps: of the GAN.
    checkpoints: points of the training curves.
    batch_size: rows a step.
    width: of hidden layers.
  """

  rows: int
  resamples: int
  vae_steps: int
  gan_steps: int
  checkpoints: int
  batch_size: int
  width: int


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

  preset: flags.Preset = "quick"

  data_dir: flags.DataDir = None

  out: flags.Out = "out/synthetic_tables"


class Plan(NamedTuple):
  """Options that were checked, and what they name.

  Attributes:
    options: as given.
    size: how much of everything.
    tables: each once.
    generators: names.
    num_seeds: S.
    forgotten: the share of the rows that is to be forgotten, or bool [N], which
      rows of the one table.
  """

  options: Options
  size: Size
  tables: tuple[tables.MixedTable, ...]
  generators: tuple[str, ...]
  num_seeds: int
  forgotten: float | np.ndarray


Maker = Callable[[Sequence[int], Size], Generator]
GENERATORS: Mapping[str, Maker] = {
  "copy": lambda kinds, size: resampled_rows(kinds),
  "independent": lambda kinds, size: independent_columns(kinds),
  "copula": lambda kinds, size: gaussian_copula(kinds),
  "vae": lambda kinds, size: tabular_vae(
    kinds,
    num_steps=size.vae_steps,
    batch_size=size.batch_size,
    width=size.width,
    num_checkpoints=size.checkpoints,
  ),
  "gan": lambda kinds, size: tabular_gan(
    kinds,
    num_steps=size.gan_steps,
    batch_size=size.batch_size,
    width=size.width,
    num_checkpoints=size.checkpoints,
  ),
}
CURVES = ("vae", "gan")


class Scored(NamedTuple):
  """A generator on one table and seed.

  Attributes:
    bands: by mode; fitted to all rows.
    within: the fixed score of the generator fitted to all rows, and
    without: fitted without the request, by the same split of rows.
    distances: mean distance of the forgotten rows to the nearest synthetic one,
      fitted with and without the request: [2]; then the same of the rows that
      are kept: [2].
    curve: fixed scores at the checkpoints, or None.
    seconds: for compiling and running the fit, both masks.
  """

  bands: dict[str, Bands]
  within: TabSynDex
  without: TabSynDex
  distances: np.ndarray
  curve: TabSynDex | None
  seconds: tuple[float, float]


class Outcome(NamedTuple):
  """Results by (table, generator or `GENUINE`, seed)."""

  scored: dict[tuple[str, str, int], Scored]


def prepare(options: Options) -> Plan:
  """Checks everything that can be checked before training.

  Raises:
    ValueError: one line that names the option, what was found and wanted.
  """
  flags.check_seeds(options.seeds)
  asked = flags.chosen(
    options.data, tables.NAMES, "--data", groups={"all": tables.FILES}
  )
  found = tuple(tables.load(name, options.data_dir) for name in asked)
  names = flags.chosen(options.generators, GENERATORS, "--generators")
  seeds = options.seeds or DEFAULT_SEEDS[options.preset]
  unique = tuple({table.name: table for table in found}.values())
  size = SIZES[options.preset]
  forgotten = _forgotten(options.request, unique, size)
  return Plan(options, size, unique, names, seeds, forgotten)


def _forgotten(
  text: str, found: tuple[tables.MixedTable, ...], size: Size
) -> float | np.ndarray:
  """The share, or the rows, that a request asks for; see `Plan`."""
  asks = requests.read(text, ("random", "index"), _FORMS)
  if len(asks) > 1:
    raise ValueError(f"Expected one --request, got {len(asks)} ({text!r}).")
  try:
    if asks[0].kind == "random":
      return requests.share(asks[0].value)
    if len(found) > 1:
      raise ValueError(f"Expected --data with one table, got {len(found)}.")
    table = found[0]
    named = files.read_rows(asks[0].value, int(table.rows.max()) + 1)
    mask = named[table.rows]
    most = _num_learnt(table, size) // 2
    if not 0 < mask.sum() == named.sum() <= most:
      raise ValueError(
        f"Expected 1 to {most} rows, as a generator learns from twice as many, "
        f"got {named.sum()}, of which {mask.sum()} are complete."
      )
  except ValueError as error:
    raise ValueError(f"--request {files.short(text, 120)}: {error}") from error
  return mask


class Problem(NamedTuple):
  """One seed's rows; arrays only.

  Attributes:
    real: float32 [N, D], what generators learn from.
    genuine: float32 [N, D], further rows.
    forget_mask: bool [N], the request.
  """

  real: jax.Array
  genuine: jax.Array
  forget_mask: jax.Array


def _num_learnt(table: tables.MixedTable, size: Size) -> int:
  return min(size.rows, len(table.values) // 2)


def make_problem(
  table: tables.MixedTable,
  size: Size,
  seed: int,
  forgotten: float | np.ndarray,
) -> Problem:
  """Rows to learn from, others to compare with, and a request; see `Plan`."""
  rng = np.random.default_rng(seed)
  count = _num_learnt(table, size)
  order = rng.permutation(len(table.values))
  if isinstance(forgotten, float):
    mask = np.zeros(count, bool)
    mask[rng.permutation(count)[: max(1, round(forgotten * count))]] = True
  else:
    # What is to be forgotten has to be learnt from.
    order = np.concatenate([order[forgotten[order]], order[~forgotten[order]]])
    mask = forgotten[order[:count]]
  rows = table.values[order[: 2 * count]]
  parts = rows[:count], rows[count:], mask
  return Problem(*map(jnp.asarray, parts))


class Programs(NamedTuple):
  """Compiled once a table: what scores a fake one."""

  bands: Mapping[str, Callable[..., Bands]]
  many: Callable[..., TabSynDex]
  distances: Callable[..., jax.Array]


def make_programs(table: tables.MixedTable, size: Size) -> Programs:
  shared: dict[str, Any] = {
    "categories": table.categories,
    "target": table.target,
    "task": table.task,
  }

  def banded(mode: str) -> Callable[..., Bands]:
    return jax.jit(
      lambda real, fake, key: tabsyndex_bands(
        real,
        fake,
        key,
        mode=mode,
        num_resamples=size.resamples,
        strategy="map",
        **shared,
      )
    )

  def many(real, fakes, key):
    """Of several tables, all by the same split of rows."""
    score = lambda fake: tabsyndex(real, fake, key, **shared)
    return map_many(score, fakes, strategy="map")

  def distances(real, fakes, mask):
    """Of the forgotten and of the kept rows to each of several tables."""

    def one(fake):
      found = nearest_record_distance(real, fake, categories=table.categories)
      means = [
        jnp.where(m, found, 0).sum() / jnp.maximum(m.sum(), 1)
        for m in (mask, ~mask)
      ]
      return jnp.stack(means)

    return map_many(one, fakes, strategy="map").T

  return Programs(
    {mode: banded(mode) for mode in MODES},
    jax.jit(many),
    jax.jit(distances),
  )


def run(plan: Plan, progress: Progress) -> Outcome:
  """Fits and measures; writes nothing."""
  total = len(plan.tables) * plan.num_seeds * (len(plan.generators) + 1)
  task = progress.add_task("starting", total=total)
  found: dict[tuple[str, str, int], Scored] = {}
  for table in plan.tables:
    programs = make_programs(table, plan.size)
    for name in (GENUINE, *plan.generators):
      progress.update(task, description=f"{table.name}: {name}")
      fitting = None
      for seed in range(plan.num_seeds):
        problem = make_problem(table, plan.size, seed, plan.forgotten)
        # One key a seed: all generators are scored by the same split of rows.
        key = jax.random.fold_in(jax.random.key(seed), 1)
        if name == GENUINE:
          both = jnp.stack([problem.genuine, problem.genuine])
          stops, seconds = None, (float("nan"), float("nan"))
        else:
          if fitting is None:
            fitting = _compiled(table, plan.size, name, problem)
          compiled, seconds_compile = fitting
          began = time.perf_counter()
          both, stops = jax.block_until_ready(
            compiled(problem.real, problem.forget_mask, jax.random.key(seed))
          )
          seconds = seconds_compile, time.perf_counter() - began
        found[table.name, name, seed] = _scored(
          programs, problem, both, stops, key, seconds
        )
        progress.advance(task)
  return Outcome(found)


def _compiled(table, size: Size, name: str, problem: Problem):
  """The program that fits with and without the request and draws rows."""
  generator = GENERATORS[name](table.categories, size)

  def program(real, forget_mask, key):
    fit_key, draw_key = jax.random.split(key)
    count = len(real)
    masks = jnp.stack([jnp.ones_like(forget_mask), ~forget_mask])

    def one(mask):
      state, info = generator.fit(real, mask, fit_key)
      stops = None
      if name in CURVES:
        draw: Callable[[Learnt], jax.Array] = lambda stop: generator.sample(
          stop, draw_key, count
        )
        stops = jax.lax.map(draw, info.checkpoints)
      return generator.sample(state, draw_key, count), stops

    # Same key: the two differ by the request alone.
    both, stops = map_many(one, masks, strategy="map")
    return both, jax.tree.map(lambda leaf: leaf[0], stops)

  began = time.perf_counter()
  key = jax.random.key(0)
  compiled = (
    jax.jit(program).lower(problem.real, problem.forget_mask, key).compile()
  )
  return compiled, time.perf_counter() - began


def _scored(
  programs: Programs,
  problem: Problem,
  both: jax.Array,
  stops: jax.Array | None,
  key: jax.Array,
  seconds: tuple[float, float],
) -> Scored:
  host = lambda tree: jax.tree.map(np.asarray, tree)
  real = problem.real
  bands = {
    mode: host(score(real, both[0], key))
    for mode, score in programs.bands.items()
  }
  fakes = both if stops is None else jnp.concatenate([both, stops])
  scores = host(programs.many(real, fakes, key))
  distances = programs.distances(real, both, problem.forget_mask)
  curve = None
  if stops is not None:
    curve = jax.tree.map(lambda leaf: leaf[2:], scores)
  return Scored(
    bands,
    jax.tree.map(lambda leaf: leaf[0], scores),
    jax.tree.map(lambda leaf: leaf[1], scores),
    np.asarray(distances),
    curve,
    seconds,
  )


def main(argv: Sequence[str] | None = None) -> None:
  """The program; bad input ends it with one line and exit status 2."""
  asked = flags.parse(Options, "python -m experiments.synthetic_tables", argv)
  plan, summary = common.run_program(asked, prepare, run, output.write)
  output.show(common.wide_console(), plan, summary)


if __name__ == "__main__":
  main()
