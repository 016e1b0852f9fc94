"""Training, unlearning and measuring recommenders, timed side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress

from experiments import forget_recommendations_methods as methods
from experiments.forget_recommendations_methods import (
  INSTANT,
  MMRECUN,
  POPULARITY,
  SHARDS,
  Recipe,
)
from experiments.forget_recommendations_requests import Drawn, Request
from experiments.recommendation_data import Source
from jaxunlearn import metrics, recsys
from jaxunlearn.recsys.types import Embeddings, Recommender

MEASURES = ("recall", "ndcg", "precision", "map")


class Study(NamedTuple):
  """All that is run.

  Attributes:
    source: the data.
    model: the recommender.
    recipe: see `Recipe`.
    requests: what is forgotten.
    seeds: of the repeats; each trains anew and draws the requests anew.
    drawn: by request and seed.
    methods: of `METHODS`.
    alphas: of each request.
    sweep: further weights that MMRecUN is run with.
    k: cut-off of the ranking metrics.
    lanes_at_once: requests and seeds that a program serves in one call.
  """

  source: Source
  model: Recommender
  recipe: Recipe
  requests: tuple[Request, ...]
  seeds: tuple[int, ...]
  drawn: tuple[tuple[Drawn, ...], ...]
  methods: tuple[str, ...]
  alphas: tuple[float, ...]
  sweep: tuple[float, ...]
  k: int
  lanes_at_once: int


class Outcome(NamedTuple):
  """What was found.

  Attributes:
    rows: as `report.Results` has them.
    sweep: by measure float64 [R, S, A], MMRecUN with the weights of the sweep.
    params: by method, what is to be saved: of the first request and seed.
  """

  rows: list[dict[str, Any]]
  sweep: dict[str, np.ndarray]
  params: dict[str, Any]


def run(study: Study, progress: Progress) -> Outcome:
  """Trains, unlearns and measures; writes nothing.

  Methods take turns on each request and seed, so that a machine that is busier
  at one time than at another slows all of them.
  """
  names = ("retrained", *study.methods)
  groups = _chunks(study)
  has_shards = SHARDS in study.methods
  seed_groups = [list(c) for c in _split(range(len(study.seeds)), study)]
  total = len(seed_groups) * (1 + has_shards)
  total += len(groups) * (len(names) + len(study.sweep))
  task = progress.add_task("training the original model", total=total)
  programs = {
    name: _Program(
      methods.method(study.model, study.recipe, name), study.lanes_at_once
    )
    for name in ("original", *names, *(["first_shards"] * has_shards))
  }
  measure = _measurer(study)
  data = study.source.data.train
  keys = [jax.random.split(jax.random.key(seed), 3) for seed in study.seeds]
  originals: dict[int, Any] = {}
  shards: dict[int, Any] = {}
  seconds: dict[int, float] = {}
  for part in seed_groups:
    stacked = _stack([keys[s][0] for s in part])
    made, spent = programs["original"](data, stacked)
    for i, s in enumerate(part):
      originals[s], seconds[s] = _at(made, i), spent
    progress.advance(task)
  for part in seed_groups if has_shards else ():
    progress.update(task, description="training the models of the shards")
    stacked = _stack([(originals[s], keys[s][2]) for s in part])
    made, _ = programs["first_shards"](data, *stacked)
    for i, s in enumerate(part):
      shards[s] = _at(made, i)
    progress.advance(task)
  rows: list[dict[str, Any]] = []
  params: dict[str, Any] = {"original": originals[0]}
  shape = len(study.requests), len(study.seeds), len(study.sweep)
  swept = {
    f"{part}_recall": np.full(shape, np.nan) for part in ("test", "forget")
  }

  def unlearn(name: str, part: Sequence[tuple[int, int]], alphas):
    start = shards if name == SHARDS else originals
    train = name == "retrained"
    arguments = [
      (
        start[s],
        jnp.asarray(study.drawn[r][s].forget),
        keys[s][0] if train else jax.random.fold_in(keys[s][1], r),
        jnp.float32(alpha),
      )
      for (r, s), alpha in zip(part, alphas)
    ]
    return programs[name](data, *_stack(arguments))

  for part in groups:
    usual = [study.alphas[r] for r, _ in part]
    found: dict[str, list[dict[str, float]]] = {
      "original": [measure("original", originals[s], r, s) for r, s in part]
    }
    times = {"original": [seconds[s] for _, s in part]}
    for name in names:
      progress.update(task, description=f"{_doing(name)}, request by request")
      made, spent = unlearn(name, part, usual)
      each = [_at(made, i) for i in range(len(part))]
      found[name] = [measure(name, m, r, s) for m, (r, s) in zip(each, part)]
      times[name] = [spent] * len(part)
      if (0, 0) in part and name != POPULARITY:
        params[name] = each[part.index((0, 0))]
      progress.advance(task)
    for a, alpha in enumerate(study.sweep):
      progress.update(task, description=f"mmrecun with alpha {alpha:g}")
      made, _ = unlearn(MMRECUN, part, [alpha] * len(part))
      for i, (r, s) in enumerate(part):
        values = measure(MMRECUN, _at(made, i), r, s)
        for name, table in swept.items():
          table[r, s, a] = values[name]
      progress.advance(task)
    compiled = {name: programs[name].seconds_compile for name in times}
    rows += _rows(study, part, found, times, compiled)
  order = {name: i for i, name in enumerate(("original", *names))}
  rows.sort(key=lambda row: order[row["method"]])
  return Outcome(rows, swept, params)


def _doing(name: str) -> str:
  return "retraining" if name == "retrained" else f"unlearning by {name}"


def _split(items: Any, study: Study) -> list[Any]:
  items, size = list(items), study.lanes_at_once
  return [items[i : i + size] for i in range(0, len(items), size)]


def _chunks(study: Study) -> list[list[tuple[int, int]]]:
  """Pairs of a request and a seed, in the parts that are run together."""
  places = [
    (r, s) for s in range(len(study.seeds)) for r in range(len(study.requests))
  ]
  return _split(places, study)


class _Program:
  """A function of (data, lane...), compiled once for each number of lanes."""

  def __init__(self, fn: Callable[..., Any], lanes_at_once: int):
    self._fn, self._is_single = fn, lanes_at_once == 1
    self._compiled: dict[int, Any] = {}
    self.seconds_compile = 0.0

  def __call__(self, data: Any, *stacked: Any) -> tuple[Any, float]:
    """Results [C, ...], and the seconds of one lane."""
    count = len(jax.tree.leaves(stacked)[0])
    if count not in self._compiled:
      began = time.perf_counter()
      program = jax.jit(self._mapped).lower(data, *stacked)
      self._compiled[count] = program.compile()
      self.seconds_compile += time.perf_counter() - began
    began = time.perf_counter()
    made = jax.block_until_ready(self._compiled[count](data, *stacked))
    return made, (time.perf_counter() - began) / count

  def _mapped(self, data: Any, *stacked: Any) -> Any:
    if self._is_single:  # Not under vmap a `cond` skips what it can.
      made = self._fn(data, *_at(stacked, 0))
      return jax.tree.map(lambda leaf: leaf[None], made)
    lanes = (0,) * len(stacked)
    return jax.vmap(self._fn, in_axes=(None, *lanes))(data, *stacked)


def _measurer(study: Study) -> Callable[..., dict[str, float]]:
  """`(method, what it made, request, seed) -> values by name`."""
  model, recipe, source = study.model, study.recipe, study.source
  data = source.data
  evaluate = recsys.evaluator(data, ks=(study.k,))
  held = jnp.concatenate([part["x"] for part in data[1:3]])

  def of_shards(made, train, forget):
    variables, shard = made
    whole = recsys.sharded(model, shard, recipe.num_shards)
    return whole.embed_under(variables, train, forget)

  serve = {
    POPULARITY: lambda made, train, forget: made,
    SHARDS: jax.jit(of_shards),
  }
  plain = jax.jit(model.embed_under)

  @jax.jit
  def numbers(made, train, forget, alike):
    found = {}
    for part in ("test", "forget"):
      ranked = evaluate(made, forget, part)
      for name in MEASURES:
        found[f"{part}_{name}"] = getattr(ranked, name)[0]
    found["membership_auc"] = metrics.separation_auc(
      standardised_scores(made, train["x"]),
      standardised_scores(made, held),
      forget,
      alike,
    )
    return found

  def measure(name: str, made: Any, request: int, seed: int):
    forget, alike = map(jnp.asarray, study.drawn[request][seed])
    served = jnp.zeros_like(forget) if name == "original" else forget
    embedded = serve.get(name, plain)(made, data.train, served)
    embedded = Embeddings(embedded.users, embedded.items)
    found = numbers(embedded, data.train, forget, alike)
    return {key: float(value) for key, value in found.items()}

  return measure


def standardised_scores(made: Embeddings, pairs: jax.Array) -> jax.Array:
  """Scores of pairs, in standard deviations over the items of the user.

  What an attacker compares: users' scores have scales of their own.

  Args:
    made: the embeddings.
    pairs: int [P, 2].

  Returns:
    float32 [P]; 0 for a user to whom all items score the same, nan where the
    model diverged.
  """
  users, items = (
    part.astype(jnp.promote_types(jnp.float32, part.dtype)) for part in made[:2]
  )
  centred = items - items.mean(axis=0, keepdims=True)
  # No [U, I] matrix: the variance is a quadratic form in the user.
  spread = centred.T @ centred / items.shape[0]
  deviation = jnp.sqrt(jnp.maximum(((users @ spread) * users).sum(axis=1), 0.0))
  own = deviation[pairs[:, 0]]
  scores = (users[pairs[:, 0]] * centred[pairs[:, 1]]).sum(axis=1)
  return jnp.where(own == 0, 0.0, scores / jnp.where(own == 0, 1.0, own))


def _rows(
  study: Study,
  part: Sequence[tuple[int, int]],
  found: Mapping[str, Sequence[Mapping[str, float]]],
  times: Mapping[str, Sequence[float]],
  compiled: Mapping[str, float],
) -> list[dict[str, Any]]:
  rows = []
  for i, (r, s) in enumerate(part):
    wanted, seconds = found["retrained"][i], times["retrained"][i]
    for name, values in found.items():
      gaps = {
        f"{kind}_gap": abs(
          values[i][f"{kind}_recall"] - wanted[f"{kind}_recall"]
        )
        for kind in ("forget", "test")
      }
      is_method = name in study.methods and name not in INSTANT
      row = {
        "method": name,
        "request": study.requests[r].name,
        "seed": study.seeds[s],
        "seconds_compile": compiled[name],
        "seconds_run": times[name][i],
        **values[i],
        **gaps,
        "retrained_gap": sum(gaps.values()) / len(gaps),
      }
      if is_method:
        row["speed_up"] = seconds / times[name][i]
      rows.append(row)
  return rows


def _stack(lanes: Sequence[Any]) -> Any:
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *lanes)


def _at(stacked: Any, index: int) -> Any:
  return jax.tree.map(lambda leaf: leaf[index], stacked)
