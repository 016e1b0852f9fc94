"""Streams at work: one program per learner, and what each learner promises."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxunlearn as ju
from jaxunlearn import continual as co
from jaxunlearn.continual.acu import acu_ridge
from jaxunlearn.continual.acu_stream import AcuStream, acu_stream
from jaxunlearn.continual.metrics import RETAINED
from jaxunlearn.core.keys import derive

from .. import common
from ..bench import AGAIN, ORIGINAL, RETRAINED, Bed, Evidence, Plan
from ..bench import lanes as frame
from . import continual_learners as learners
from .continual_learners import METHODS, REMAINING, ridge

# Batches within which a new task has to be noticed.
NOTICED = 10
REQUEST_STEPS = 10


class Marks(NamedTuple):
  """A stream as the programs see it.

  Attributes:
    learn: bool [T, N].
    forget: bool [T, N].
    status: int [T, K], see `task_status`.
  """

  learn: Any
  forget: Any
  status: Any


def serve(
  plan: Plan, name: str, traced: Mapping[str, Any] | None = None
) -> dict[str, frame.Made]:
  """Runs a learner through every stream; see `Study.serve`.

  The models are those after every event, leaves [R * S, T, ...].
  """
  trains = name in (ORIGINAL, RETRAINED, AGAIN)
  build = learners.RETRAINING if trains else METHODS[name].build
  mine = {**learners.settings(plan.options.preset), **plan.settings}
  setting = mine[RETRAINED if trains else name]
  num_bytes: list[int] = []

  def lane(values, arrays, request, seed, key):
    shared, of_seed, marks = arrays
    bed = plan.beds.make(shared, frame.at(of_seed, seed))
    learn, forget, status = frame.at(marks, request, seed)
    task = jnp.asarray(bed.extra.of_class)[bed.data["label"]]
    if name == ORIGINAL:  # It forgets nothing.
      forget = jnp.zeros_like(forget)
    if name == REMAINING:
      learn = learn & (status[-1] == RETAINED)[task][None]
      forget = jnp.zeros_like(forget)
    way = build(bed, {**setting, **values})
    first = way.model.init(derive(key, "model"), bed.data["x"][:1])
    state = way.learner.init(first, bed.data, derive(key, "state"))
    num_bytes[:] = [co.state_bytes(state)]
    _, infos, records = co.run_stream(
      way.learner,
      state,
      bed.data,
      co.Stream(learn, forget, task),
      derive(key, "run"),
      record=lambda state: {
        name + row: view(state, bed.data) for row, view in way.views.items()
      },
    )
    return records, infos if isinstance(infos, dict) else infos._asdict()

  def program(arrays, of_lane, traced):
    many = lambda values: ju.map_many(
      lambda *own: lane(values, arrays, *own), *of_lane, strategy=plan.strategy
    )
    if traced is None:
      return many({})
    return ju.map_many(many, traced, strategy=plan.strategy)

  keys = frame.keys(plan, name)
  keys = keys[plan.lanes[1]] if name == ORIGINAL else keys
  arrays = plan.beds.shared, plan.beds.of_seed, plan.requests.marks
  done = common.timed(
    program,
    *jax.tree.map(jnp.asarray, (arrays, (*plan.lanes, keys))),
    jax.tree.map(jnp.asarray, traced),
  )
  records, infos = done.value
  infos = {**infos, "state_bytes": np.full(len(keys), num_bytes[0])}
  infos = {name: np.asarray(values) for name, values in infos.items()}
  return {
    row: frame.Made(models, infos, *done.seconds)
    for row, models in records.items()
  }


def ridge_gap(bed: Bed, heads: co.AcuHead, status: jax.Array) -> jax.Array:
  """Largest difference of heads [T] to those fitted anew on what should be in."""
  head = ridge(bed, heads.kernel.shape[1])
  z, y = head.expand(bed.data["x"]), head.targets(bed.data["label"])
  task = jnp.asarray(bed.extra.of_class)[bed.data["label"]]

  def one(event):
    kernel, stay = event
    fresh = acu_ridge(head.learner, z, y, stay[task]).kernel
    return jnp.abs(kernel - fresh).max()

  return jax.lax.map(one, (heads.kernel, status == RETAINED)).max()


def check_ridge(evidence: Evidence) -> dict[str, float] | None:
  """How far ACU's heads are from ridge regression on what should be in.

  Returns:
    "retrained", the largest difference to the same head fitted anew, after any
    event; "float64", to NumPy's in float64, after the last event of a stream;
    "size", the largest entry of these. None where ACU did not run.
  """
  plan = evidence.plan
  if "acu" not in evidence.found:
    return None
  found = evidence.found["acu"].values
  worst = largest = 0.0
  for lane, (request, seed) in enumerate(zip(*plan.lanes)):
    bed = concrete(plan, seed)
    head = ridge(bed, found["ridge_kernel"].shape[1])
    label = np.asarray(bed.data["label"])
    stay = plan.requests.marks.status[request, seed][-1] == RETAINED
    kept = stay[bed.extra.of_class[label]]
    z = np.asarray(head.expand(bed.data["x"]), np.float64)[kept]
    targets = np.asarray(head.targets(label))[kept]
    gram = z.T @ z + head.l2 * np.eye(z.shape[1])
    expected = np.linalg.solve(gram, z.T @ targets)
    off = np.abs(found["ridge_kernel"][lane] - expected).max()
    worst, largest = max(worst, off), max(largest, np.abs(expected).max())
  gap = float(found["ridge_gap"].max())
  return {"retrained": gap, "float64": float(worst), "size": float(largest)}


def concrete(plan: Plan, seed: int) -> Bed:
  """The bed of a seed outside of any program."""
  of_seed = frame.at(plan.beds.of_seed, seed)
  return plan.beds.make(*jax.tree.map(jnp.asarray, (plan.beds.shared, of_seed)))


class Boundaries(NamedTuple):
  """What TAME noticed of a lane's tasks.

  Attributes:
    total: changes of task that came unannounced.
    found: those with another expert within `NOTICED` batches.
    false_alarms: other changes of expert.
  """

  total: int
  found: int
  false_alarms: int


def boundaries(events: Sequence[co.Event], switched: np.ndarray) -> Boundaries:
  """Counts what TAME noticed in a lane.

  Where the expert that was at work has been dropped by a request, another takes
  over without anything to notice: the first batch counts for nothing then.

  Args:
    events: T of them.
    switched: bool [T, batches].
  """
  total = found = false_alarms = 0
  before: tuple[int, ...] | None = None
  known: set[int] = set()
  for event, changes in zip(events, switched):
    known = (known | set(event.learn)) - set(event.forget)
    if before is not None and not set(before) <= known:
      before = ()
    if not event.learn:
      continue
    where = np.flatnonzero(changes)
    if before == ():
      where = where[where > 0]
    elif before is not None and before != event.learn:
      total += 1
      near = where[where < NOTICED]
      if near.size:
        found += 1
        where = where[where != near[0]]
    false_alarms += len(where)
    before = event.learn
  return Boundaries(total, found, false_alarms)


def serve_many(plan: Plan, requests: int) -> list[dict[str, Any]]:
  """Learns everything at once, then forgets row after row.

  Replay learners make `REQUEST_STEPS` steps a request.

  Returns:
    By method the "seconds" of a request, and as "program_bytes" the working
    memory of the program for a tenth of the requests, and for all of them; -1
    where the backend does not say.
  """
  bed = concrete(plan, 0)
  data, count = bed.data, len(bed.data["label"])
  requests = min(requests, count)
  key = jax.random.key(0)
  everything, nothing = jnp.ones(count, bool), jnp.zeros(count, bool)
  settings = learners.settings(plan.options.preset)
  head = ridge(bed, settings["acu"]["features"])
  z, y = head.expand(data["x"]), head.targets(data["label"])

  def replay(name):
    setting = {**settings[name], "num_steps": REQUEST_STEPS}
    learner = METHODS[name].build(bed, setting).learner
    first = bed.model.init(derive(key, "model"), data["x"][:1])
    state = learner.init(first, data, derive(key, "state"))
    learn = jax.jit(learner.event)
    state, _ = learn(state, data, everything, nothing, derive(key, "learn"))

    def serve(state, data, masks):
      stream = co.mask_stream(jnp.zeros_like(masks), masks)
      last = derive(key, "forget")
      end, infos, _ = co.run_stream(learner, state, data, stream, last)
      return end, infos.forget_count.sum()

    return serve, state, data

  def closed_form(name):
    sums = head.learner.learn(head.learner.init(), z, y)

    def serve(state, rows, masks):
      end, info = acu_stream(
        head.learner,
        *rows,
        jnp.zeros_like(masks),
        masks,
        max_rows=1,
        start=state,
      )
      return (end, head.learner.solve(end.state)), info.num_forgotten.sum()

    return serve, AcuStream(sums, everything), (z, y)

  order = np.random.default_rng(0).permutation(count)[:requests]
  masks = jax.nn.one_hot(jnp.asarray(order), count, dtype=bool)
  sides = {"clu": replay, "experience_replay": replay, "acu": closed_form}
  served = []
  for name, make in sides.items():
    serve, state, rows = make(name)
    short, compiled = (
      jax.jit(serve).lower(state, rows, some).compile()
      for some in (masks[: -(-requests // 10)], masks)
    )
    jax.block_until_ready(compiled(state, rows, masks))
    began = time.perf_counter()
    # The same program, another order of the requests.
    _, done = jax.block_until_ready(compiled(state, rows, masks[::-1]))
    seconds = time.perf_counter() - began
    if int(done) != requests:
      raise RuntimeError(f"{name} served {int(done)} of {requests} requests.")
    sizes = [
      getattr(program.memory_analysis(), "temp_size_in_bytes", -1)
      for program in (short, compiled)
    ]
    found = {"method": name, "requests": requests}
    found |= {"seconds": seconds / requests, "program_bytes": sizes}
    served.append(found)
  return served
