"""All lanes of a method in one program: a lane is a request and a seed."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxunlearn as ju
from experiments import common
from experiments.bench.study import (
  AGAIN,
  ORIGINAL,
  RETRAINED,
  Case,
  Plan,
  Setting,
)
from jaxunlearn.core.keys import derive
from jaxunlearn.core.reduction import all_finite
from jaxunlearn.core.types import PyTree


def at(tree: PyTree, *index: Any) -> PyTree:
  """One entry of every leaf along its leading axes."""
  return jax.tree.map(lambda leaf: leaf[index], tree)


def keys(plan: Plan, name: str) -> jax.Array:
  """A key per lane for one use, by its name and the request's: [R * S].

  Those of the original, which no request reaches, are [S].
  """
  seeds = [jax.random.key(seed) for seed in plan.seeds]
  if name == ORIGINAL:
    return jnp.stack([derive(key, name) for key in seeds])
  return jnp.stack([
    derive(seeds[seed], f"{name}: {plan.requests.names[request]}")
    for request, seed in zip(*plan.lanes)
  ])  # fmt: skip


def train(plan: Plan) -> common.Timed:
  """The original models, leaves [S, ...]."""

  def program(shared, of_seed, keys):
    def one(own, key):
      bed = plan.beds.make(shared, own)
      return plan.study.train(bed, jnp.ones(rows, bool), key)[0]

    return ju.map_many(one, of_seed, keys, strategy=plan.strategy)

  rows = plan.requests.forget.shape[-1]
  return common.timed(program, *_on_device(plan.beds), keys(plan, ORIGINAL))


def serve(
  plan: Plan,
  name: str,
  originals: PyTree,
  traced: Mapping[str, Any] | None = None,
) -> common.Timed:
  """A method's models of every lane.

  Args:
    plan: see `Plan`.
    name: one of its methods, "retrained" or "retrained_again".
    originals: leaves [S, ...].
    traced: by name values [K] of the method's setting, all in one program; None
      for the plan's own.

  Returns:
    Leaves [R * S, ...]; with `traced` [K, R * S, ...].
  """
  lanes = (*map(jnp.asarray, plan.lanes), keys(plan, name))

  def program(arguments, lanes, traced):
    def many(values):
      one = functools.partial(_lane(plan, name, values), arguments)
      return ju.map_many(one, *lanes, strategy=plan.strategy)

    if traced is None:
      return many({})
    return ju.map_many(many, traced, strategy=plan.strategy)

  traced = jax.tree.map(jnp.asarray, traced)
  return common.timed(program, _arguments(plan, originals), lanes, traced)


def references(plan: Plan) -> tuple[dict[str, common.Timed], PyTree]:
  """The models that all others are compared with, and the originals [S, ...]."""
  original = train(plan)
  of_seed = plan.lanes[1]
  made = {
    name: serve(plan, name, original.value) for name in (RETRAINED, AGAIN)
  }
  seconds = original.seconds_run * len(of_seed) / len(plan.seeds)
  first = original._replace(
    value=at(original.value, of_seed), seconds_run=seconds
  )
  return {ORIGINAL: first, **made}, original.value


def time_alone(
  plan: Plan, names: tuple[str, ...], originals: PyTree
) -> dict[str, np.ndarray]:
  """Seconds of the first request of each seed by itself, by name; float [S].

  For each seed all of them take turns, so that a busy machine slows all down
  alike.
  """
  arguments, sides = _arguments(plan, originals), {}
  first = jnp.array(0)
  for name in names:
    of_lane = keys(plan, name)
    fn = jax.jit(_lane(plan, name))
    compiled = fn.lower(arguments, first, first, of_lane[0]).compile()
    side = lambda seed, run=compiled, keys=of_lane: run(
      arguments, first, seed, keys[seed]
    )
    jax.block_until_ready(side(first))
    sides[name] = side
  rounds = [
    common.interleaved_medians(
      {name: functools.partial(side, seed) for name, side in sides.items()}, 1
    )
    for seed in jnp.arange(len(plan.seeds))
  ]
  return {name: np.array([r[name] for r in rounds]) for name in sides}


def make_measure(
  plan: Plan, originals: PyTree, retrained: PyTree
) -> Callable[[PyTree], Mapping[str, np.ndarray]]:
  """A function from the models of all lanes to numbers and arrays by name.

  Beside what the measures return there is "is_finite", bool [R * S].

  Args:
    plan: see `Plan`.
    originals: leaves [S, ...].
    retrained: leaves [R * S, ...].
  """
  arguments = _arguments(plan, originals), _fitted(plan)
  lanes = (*map(jnp.asarray, plan.lanes), keys(plan, "measure"))

  @jax.jit
  def program(variables, retrained, arguments, lanes):
    (shared, of_seed, requests, originals), fitted = arguments

    def one(variables, retrained, request, seed, key):
      case = Case(
        plan.beds.make(shared, at(of_seed, seed)),
        *at(requests, request, seed),
        variables,
        retrained,
        at(originals, seed),
        key,
      )
      found: dict[str, Any] = {"is_finite": all_finite(variables)}
      for measure, fit in zip(plan.measures, fitted):
        if measure.run is None:
          continue
        own = dict(measure.run(case._replace(fitted=at(fit, seed))))
        found["is_finite"] &= own.pop("is_finite", True)
        _check_names(measure, own)
        found |= own
      return found

    return ju.map_many(
      one, variables, retrained, *lanes, strategy=plan.strategy
    )

  def measure(variables: PyTree) -> Mapping[str, np.ndarray]:
    found = program(variables, retrained, arguments, lanes)
    return {name: np.asarray(values) for name, values in found.items()}

  return measure


def _fitted(plan: Plan) -> list[PyTree]:
  """What each measure learns once per seed, leaves [S, ...]; or None."""
  seeds = [jax.random.key(seed) for seed in plan.seeds]

  @functools.partial(jax.jit, static_argnums=0)
  def program(fit, shared, of_seed, keys):
    one = lambda own, key: fit(plan.beds.make(shared, own), key)
    return ju.map_many(one, of_seed, keys, strategy=plan.strategy)

  found: list[PyTree] = []
  for i, measure in enumerate(plan.measures):
    of_seed = jnp.stack([derive(key, f"measure {i}") for key in seeds])
    found.append(
      measure.fit and program(measure.fit, *_on_device(plan.beds), of_seed)
    )
  return found


def _lane(
  plan: Plan, name: str, values: Setting | None = None
) -> Callable[..., PyTree]:
  """`(arguments, request, seed, key) -> variables` of one lane."""
  study = plan.study

  def lane(arguments, request, seed, key):
    shared, of_seed, requests, originals = arguments
    bed = plan.beds.make(shared, at(of_seed, seed))
    forget = requests[0][request, seed]
    if name in (RETRAINED, AGAIN):
      return study.train(bed, ~forget, key)[0]
    setting = {**plan.settings[name], **(values or {})}
    method = study.methods[name].build(bed, setting)
    return method(at(originals, seed), bed.data, forget, key)[0]

  return lane


def _arguments(plan: Plan, originals: PyTree) -> PyTree:
  requests = plan.requests.forget, plan.requests.marks
  return (
    *_on_device(plan.beds),
    jax.tree.map(jnp.asarray, requests),
    originals,
  )


def _on_device(beds: Any) -> PyTree:
  return jax.tree.map(jnp.asarray, (beds.shared, beds.of_seed))


def _check_names(measure: Any, own: Mapping[str, Any]) -> None:
  declared = {m.name for m in measure.metrics} | set(measure.arrays)
  unknown = sorted(set(own) - declared)
  if unknown:
    raise ValueError(
      f"Expected measures to return columns that they declare, got {unknown[0]}."
    )
