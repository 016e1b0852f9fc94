"""All lanes of a method in one program: a lane is a request and a seed."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxunlearn as ju
from jaxunlearn.core.drivers import unlearn_sequence
from jaxunlearn.core.keys import derive
from jaxunlearn.core.reduction import all_finite
from jaxunlearn.core.types import PyTree
from jaxunlearn.report.taxonomy import check_card

from .. import common
from .study import (
  AGAIN,
  ORIGINAL,
  REFERENCES,
  RETRAINED,
  Case,
  Plan,
  Setting,
)


class Made(NamedTuple):
  """Models, and what making them took.

  Attributes:
    value: variables, leaves [R * S, ...]; of the original models [S, ...].
    losses: by phase [R * S, T].
    seconds_compile: of the program.
    seconds_run: of running it, all lanes together.
    kept: of the original models leaves [S, R, ...]; see `Study.keep`.
    program: that of a single lane, where it was all that ran.
  """

  value: PyTree
  losses: Mapping[str, np.ndarray]
  seconds_compile: float
  seconds_run: float
  kept: PyTree = None
  program: Callable[..., Any] | None = None


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
  # Without its place a request in a sequence begins as it does alone.
  placed = r"^\d+\. " if plan.requests.in_sequence else "^"
  asked = [re.sub(placed, "", request) for request in plan.requests.names]
  return jnp.stack([
    derive(seeds[seed], f"{name}: {asked[request]}")
    for request, seed in zip(*plan.lanes)
  ])  # fmt: skip


def train(plan: Plan) -> Made:
  """The original models, leaves [S, ...]."""
  study, count = plan.study, len(plan.seeds)
  if plan.beds.given is not None:
    many = lambda leaf: jnp.broadcast_to(leaf, (count, *jnp.shape(leaf)))
    return Made(jax.tree.map(many, plan.beds.given), {}, np.nan, np.nan)
  phases: list[str] = []

  def program(shared, of_seed, forget, keys):
    def one(own, forget, key):
      bed = plan.beds.make(shared, own)
      if plan.keeps and study.keep is not None:
        variables, kept = study.keep(bed, forget, key)
        return variables, {}, kept
      variables, info = study.train(bed, jnp.ones(forget.shape[-1], bool), key)
      return variables, losses_of(info, phases), None

    return ju.map_many(one, of_seed, forget, keys, strategy=plan.strategy)

  forget = jnp.asarray(plan.requests.forget.swapaxes(0, 1))
  done = common.timed(program, *_on_device(plan), forget, keys(plan, ORIGINAL))
  variables, losses, kept = done.value
  return Made(variables, _in_order(losses, phases), *done.seconds, kept)


def serve(
  plan: Plan,
  name: str,
  original: Made,
  traced: Mapping[str, Any] | None = None,
) -> Made:
  """A method's models of every lane.

  Args:
    plan: see `Plan`.
    name: one of its methods.
    original: of `train`.
    traced: by name values [K] of the method's setting, all in one program; None
      for the plan's own.

  Returns:
    Leaves [R * S, ...]; with `traced` [K, R * S, ...].
  """
  of_lane, phases = keys(plan, name), []  # type: ignore[var-annotated]
  if plan.requests.in_sequence:
    # [R, S]: the whole sequence of a seed is one scan.
    lanes = jnp.arange(len(plan.seeds)), of_lane.reshape(-1, len(plan.seeds)).T
    lane = functools.partial(_sequence, plan, name)
  else:
    lanes = (*map(jnp.asarray, plan.lanes), of_lane)
    lane = functools.partial(_lane, plan, name)

  def one(values, arguments, *lane_arguments):
    variables, info = lane(values)(arguments, *lane_arguments)
    if plan.study.traces is not None:
      found = dict(plan.study.traces(info))
      phases[:] = found
      return variables, found
    return variables, losses_of(info, phases)

  def program(arguments, lanes, traced):
    def many(values):
      own = functools.partial(one, values, arguments)
      return _flat(plan, ju.map_many(own, *lanes, strategy=plan.strategy))

    if traced is None:
      return many({})
    return ju.map_many(many, traced, strategy=plan.strategy)

  traced = jax.tree.map(jnp.asarray, traced)
  keeps = plan.study.methods[name].keeps
  arguments = _arguments(plan, original, original.kept if keeps else None)
  if traced is None and _is_one_by_one(plan):
    single = functools.partial(one, {})
    return _one_by_one(single, phases, arguments, {name: lanes})[name]
  done = common.timed(program, arguments, lanes, traced)
  variables, losses = done.value
  return Made(variables, _in_order(losses, phases), *done.seconds)


def _retrained(plan: Plan, original: Made) -> dict[str, Made]:
  """The models without the rows, and others: one program, other keys."""
  lane, phases = _lane(plan, RETRAINED, {}), []  # type: ignore[var-annotated]

  def one(arguments, *lane_arguments):
    variables, info = lane(arguments, *lane_arguments)
    return variables, losses_of(info, phases)

  def program(arguments, lanes):
    own = functools.partial(one, arguments)
    return ju.map_many(own, *lanes, strategy=plan.strategy)

  arguments = _arguments(plan, original)
  of_lane = [*map(jnp.asarray, plan.lanes)]
  runs = {n: (*of_lane, keys(plan, n)) for n in (RETRAINED, AGAIN)}
  if _is_one_by_one(plan):
    return _one_by_one(one, phases, arguments, runs)
  all_lanes = {name: (arguments, lanes) for name, lanes in runs.items()}
  return {
    name: Made(done.value[0], _in_order(done.value[1], phases), *done.seconds)
    for name, done in common.timed_all(program, all_lanes).items()
  }


def _is_one_by_one(plan: Plan) -> bool:
  """Whether one program of a lane serves all of them, and is timed by itself."""
  alone = plan.study.time_alone and plan.strategy == "map"
  return alone and not plan.requests.in_sequence


def _one_by_one(
  one: Callable[..., Any],
  phases: list[str],
  arguments: PyTree,
  runs: Mapping[str, Any],
) -> dict[str, Made]:
  """Lane after lane by the program of one of them, for several kinds of lanes."""
  began = time.perf_counter()
  first = jax.tree.map(lambda leaf: leaf[0], next(iter(runs.values())))
  compiled = jax.jit(one).lower(arguments, *first).compile()
  seconds, made = time.perf_counter() - began, {}
  for name, lanes in runs.items():
    began, found = time.perf_counter(), []
    for i in range(len(lanes[0])):
      lane = jax.tree.map(lambda leaf, i=i: leaf[i], lanes)
      found.append(jax.block_until_ready(compiled(arguments, *lane)))
    took = time.perf_counter() - began
    variables, losses = jax.tree.map(lambda *leaves: np.stack(leaves), *found)
    losses = _in_order(losses, phases)
    made[name] = Made(variables, losses, seconds, took, program=compiled)
  return made


def served(
  plan: Plan, name: str, original: Made, traced: Any = None
) -> Mapping[str, Made]:
  """`serve`, or the study's own; by row of the results."""
  if plan.study.serve:
    return plan.study.serve(plan, name, traced)
  return {name: serve(plan, name, original, traced)}


def references(plan: Plan) -> tuple[dict[str, Made], Made]:
  """The models that all others are compared with, and the originals [S, ...]."""
  if plan.study.serve:
    none = Made(None, {}, np.nan, np.nan)
    return {n: served(plan, n, none)[n] for n in REFERENCES}, none
  original = train(plan)
  of_seed = plan.lanes[1]
  made = _retrained(plan, original)
  seconds = original.seconds_run * len(of_seed) / len(plan.seeds)
  first = original._replace(
    value=at(original.value, of_seed), seconds_run=seconds, kept=None
  )
  return {ORIGINAL: first, **made}, original


def time_alone(
  plan: Plan, programs: Mapping[str, Any], original: Made
) -> dict[str, np.ndarray]:
  """Seconds of the first request of each seed by itself, by name; float [S].

  For each seed all of them take turns, so that a busy machine slows all down
  alike.
  """
  bare, sides = _arguments(plan, original), {}
  # Of one type, or the first that is timed would compile a lookup of its key.
  seeds = list(jnp.arange(len(plan.seeds)))
  first = seeds[0]
  for name, compiled in programs.items():
    keeps = name != RETRAINED and plan.study.methods[name].keeps
    given = (*bare[:-1], original.kept) if keeps else bare
    of_lane = keys(plan, name)
    if compiled is None:
      fn = jax.jit(_lane(plan, name, {}))
      compiled = fn.lower(given, first, first, of_lane[0]).compile()
    side = lambda seed, run=compiled, given=given, keys=of_lane: run(
      given, first, seed, keys[seed]
    )
    jax.block_until_ready(side(first))
    sides[name] = side
  rounds = [
    common.interleaved_medians(
      {name: functools.partial(side, seed) for name, side in sides.items()}, 1
    )
    for seed in seeds
  ]
  return {name: np.array([r[name] for r in rounds]) for name in sides}


def make_measure(
  plan: Plan, original: Made, retrained: PyTree
) -> Callable[[str, PyTree], Mapping[str, np.ndarray]]:
  """A function from a method's name and its models of all lanes to what is found.

  Numbers and arrays by name; beside what the measures return there is
  "is_finite", bool [R * S].

  Args:
    plan: see `Plan`.
    original: of `train`.
    retrained: leaves [R * S, ...].
  """
  arguments = _arguments(plan, original), _fitted(plan)
  lanes = (*map(jnp.asarray, plan.lanes), keys(plan, "measure"))

  @jax.jit
  def program(variables, retrained, arguments, lanes):
    (shared, of_seed, requests, originals, _), fitted = arguments

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
        fit = fit if measure.fit_all else at(fit, seed)
        own = dict(measure.run(case._replace(fitted=fit)))
        found["is_finite"] &= own.pop("is_finite", True)
        _check_names(measure, own)
        found |= own
      return found

    return ju.map_many(
      one, variables, retrained, *lanes, strategy=plan.strategy
    )

  def measure(name: str, variables: PyTree) -> Mapping[str, np.ndarray]:
    given = variables, retrained, arguments, lanes
    if plan.beds.kept is None:
      found = program(*given)
    else:
      lane = dict(zip(("models", "standard", "data", "lanes"), given))
      (made,) = plan.beds.kept.timed_all(f"measured_{name}", program, [lane])
      found = made.value
    return {name: np.asarray(values) for name, values in found.items()}

  return measure


def losses_of(info: Any, phases: list[str]) -> dict[str, jax.Array]:
  """Losses [..., T] by phase; by its path where two have one name.

  Args:
    info: what a method left.
    phases: is given the names in the order in which the phases run, since dicts
      come out of a loop sorted by name.
  """

  def walk(info: Any, path: str) -> dict[str, jax.Array]:
    if isinstance(info, ju.core.PhaseInfo):
      return {path: info.loss}
    found: dict[str, jax.Array] = {}
    for name, inner in info.items() if isinstance(info, Mapping) else ():
      found |= walk(inner, f"{path}/{name}")
    return found

  found = walk(info, "loss")
  short = [path.rpartition("/")[2] for path in found]
  losses = {
    name if short.count(name) == 1 else path: loss
    for (path, loss), name in zip(found.items(), short)
  }
  phases[:] = losses
  return losses


def _lane(plan: Plan, name: str, values: Setting) -> Callable[..., PyTree]:
  """`(arguments, request, seed, key) -> (variables, info)` of one lane."""

  def lane(arguments, request, seed, key):
    shared, of_seed, requests, originals, kept = arguments
    bed = plan.beds.make(shared, at(of_seed, seed))
    forget = requests[0][request, seed]
    if name in (RETRAINED, AGAIN):
      return plan.study.train(bed, ~forget, key)
    bed = bed._replace(marks=at(requests[2], request, seed))
    method = _build(plan, name, values, bed, at(kept, seed, request))
    return method(at(originals, seed), bed.data, forget, key)

  return lane


def _sequence(plan: Plan, name: str, values: Setting) -> Callable[..., PyTree]:
  """`(arguments, seed, keys [R]) -> (variables, info)`, leaves [R, ...]."""

  def lane(arguments, seed, keys):
    shared, of_seed, requests, originals, kept = arguments
    bed = plan.beds.make(shared, at(of_seed, seed))
    forget, added, _ = (at(part, slice(None), seed) for part in requests)

    def serve(variables, data, request, key, kept):
      method = _build(plan, name, values, bed, kept)
      return method(variables, data, request, key)

    start = at(originals, seed)
    if plan.study.methods[name].blind:
      # Asked of the newest alone it would bring the others back.
      def again(variables, inputs):
        served = serve(variables, bed.data, *inputs, None)
        return served[0], served

      return jax.lax.scan(again, start, (forget, keys))[1]
    # What was taken back for an earlier request is gone already.
    own = jax.tree.map(
      lambda leaf: leaf.at[1:].add(-leaf[:-1], mode="promise_in_bounds"),
      at(kept, seed),
    )
    return unlearn_sequence(serve, start, bed.data, added, keys, own)

  return lane


def _flat(plan: Plan, made: PyTree) -> PyTree:
  """Of a sequence leaves [S, R, ...] as lanes [R * S, ...]."""
  if not plan.requests.in_sequence:
    return made
  return jax.tree.map(
    lambda leaf: jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:]), made
  )


def _build(plan: Plan, name: str, values: Setting, bed: Any, kept: PyTree):
  setting = {**plan.settings[name], **values}
  method = plan.study.methods[name]
  made = method.build(bed._replace(kept=kept), setting)
  card = method.card_of(name)
  if card is not None:
    check_card(card, getattr(made, "needs", None), name)
  return made


def _in_order(
  losses: Mapping[str, Any], phases: list[str]
) -> dict[str, np.ndarray]:
  """By phase [L, T]; rounds of a repeated phase end to end."""
  return {
    name: np.asarray(losses[name]).reshape(len(losses[name]), -1)
    for name in phases
  }


def _fitted(plan: Plan) -> list[PyTree]:
  """What each measure learns once per seed, leaves [S, ...]; or None."""
  found: list[PyTree] = []
  for i, measure in enumerate(plan.measures):
    name = f"measure {i}"
    if measure.fit_all is not None:
      key = derive(jax.random.key(plan.seeds[0]), name)
      found.append(measure.fit_all(plan, key))
      continue
    found.append(measure.fit and per_seed(plan, measure.fit, name))
  return found


def per_seed(
  plan: Plan, fit: Callable[[Any, jax.Array], PyTree], name: str
) -> PyTree:
  """What `fit(bed, key)` returns for every seed, leaves [S, ...].

  Args:
    plan: see `Plan`.
    fit: traced.
    name: of the use of the keys.
  """
  seeds = [derive(jax.random.key(seed), name) for seed in plan.seeds]

  @jax.jit
  def program(shared, of_seed, keys):
    one = lambda own, key: fit(plan.beds.make(shared, own), key)
    return ju.map_many(one, of_seed, keys, strategy=plan.strategy)

  return program(*_on_device(plan), jnp.stack(seeds))


def _arguments(plan: Plan, original: Made, kept: PyTree = None) -> PyTree:
  requests = plan.requests
  parts = requests.forget, requests.added, requests.marks
  return (
    *_on_device(plan),
    jax.tree.map(jnp.asarray, parts),
    original.value,
    kept,
  )


def on_first(fit: Callable[[Any, Any], PyTree]) -> Callable[..., PyTree]:
  """A `Measure.fit` on the first seed's bed as one that serves all of them."""

  def fit_all(plan: Plan, key: jax.Array) -> PyTree:
    shared, own = _on_device(plan)
    once = jax.jit(lambda s, o, k: fit(plan.beds.make(s, o), k))
    return once(shared, at(own, 0), key)

  return fit_all


def _on_device(plan: Plan) -> PyTree:
  return jax.tree.map(jnp.asarray, (plan.beds.shared, plan.beds.of_seed))


def _check_names(measure: Any, own: Mapping[str, Any]) -> None:
  declared = {m.name for m in measure.metrics} | set(measure.arrays)
  unknown = sorted(set(own) - declared)
  if unknown:
    raise ValueError(
      f"Expected measures to return columns that they declare, got {unknown[0]}."
    )
