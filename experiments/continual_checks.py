"""What each learner promises: ridge regression, boundaries, many requests."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import continual_learners
from experiments.continual_data import Tasks
from experiments.continual_learners import Size
from experiments.continual_study import Lanes
from jaxunlearn import continual as co
from jaxunlearn.continual import metrics as stream_metrics
from jaxunlearn.continual.acu import acu_ridge
from jaxunlearn.continual.acu_stream import AcuStream, acu_stream

# Batches within which a new task has to be noticed.
NOTICED = 10
REQUEST_STEPS = 10


class RidgeCheck(NamedTuple):
  """How far ACU's heads are from ridge regression on what should be in.

  Attributes:
    retrained: largest difference to the same head fitted anew, after any event.
    float64: largest difference to NumPy's in float64, after the last event.
    size: largest entry of these.
  """

  retrained: float
  float64: float
  size: float


def check_ridge(
  tasks: Tasks, size: Size, lanes: Lanes, records: Any
) -> RidgeCheck:
  """Holds the heads [L, T] against ridge regression on the remaining rows."""
  head = continual_learners.ridge(tasks, size)
  rows = jax.tree.map(jnp.asarray, tasks.train)
  z, y = head.expand(rows["x"]), head.targets(rows["label"])
  stay = lanes.status == stream_metrics.RETAINED  # [L, T, K]

  def one(kernel, stay, z, y, task):
    fresh = acu_ridge(head.learner, z, y, stay[task]).kernel
    return jnp.abs(kernel - fresh).max()

  run = jax.jit(
    lambda kernels, stay, *rows: jax.lax.map(
      lambda a: one(*a, *rows), (kernels, stay)
    )
  )
  flat = lambda a: a.reshape(-1, *a.shape[2:])
  task = jnp.asarray(tasks.task)
  found = run(flat(records.kernel), flat(jnp.asarray(stay)), z, y, task)
  wide, targets = np.asarray(z, np.float64), np.asarray(y, np.float64)
  worst = largest = 0.0
  # Streams of all seeds are alike, but for random ones; once each is enough.
  last = stay[:, -1]
  for lane in np.unique(last, axis=0, return_index=True)[1]:
    kept = last[lane][tasks.task]
    own = wide[kept]
    gram = own.T @ own + head.l2 * np.eye(wide.shape[1])
    expected = np.linalg.solve(gram, own.T @ targets[kept])
    kernel = np.asarray(records.kernel[lane, -1], np.float64)
    worst = max(worst, float(np.abs(kernel - expected).max()))
    largest = max(largest, float(np.abs(expected).max()))
  return RidgeCheck(float(np.asarray(found).max()), worst, largest)


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


class Served(NamedTuple):
  """A long stream of requests for a row each.

  Attributes:
    method: its name.
    requests: how many.
    seconds: a request.
    program_bytes: working memory of the program for a tenth of the requests, and
      for all of them; -1 where the backend does not say.
  """

  method: str
  requests: int
  seconds: float
  program_bytes: tuple[int, int]


def serve_many(tasks: Tasks, size: Size, requests: int) -> list[Served]:
  """Learns everything at once, then forgets row after row.

  Replay learners make `REQUEST_STEPS` steps a request.
  """
  requests = min(requests, len(tasks.train["label"]))
  data = jax.tree.map(jnp.asarray, tasks.train)
  count, key = len(tasks.train["label"]), jax.random.key(0)
  everything, nothing = jnp.ones(count, bool), jnp.zeros(count, bool)
  model = continual_learners.network(tasks)
  recipe: dict[str, Any] = {
    "optimizer": optax.sgd(size.learning_rate),
    "num_steps": REQUEST_STEPS,
    "batch_size": size.batch_size,
    "buffer_size": size.buffer_size,
    "replay_size": size.replay_size,
  }
  head = continual_learners.ridge(tasks, size)
  z, y = head.expand(data["x"]), head.targets(data["label"])

  def replay(learner):
    state = learner.init(model.init(key, data["x"][:1]), data, key)
    state, _ = jax.jit(learner.event)(state, data, everything, nothing, key)

    def serve(state, data, masks):
      stream = co.mask_stream(jnp.zeros_like(masks), masks)
      end, infos, _ = co.run_stream(learner, state, data, stream, key)
      return end, infos.forget_count.sum()

    return serve, state, data

  def closed_form():
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

  sides = {
    "clu": lambda: replay(co.clu(model, **recipe)),
    "experience_replay": lambda: replay(co.experience_replay(model, **recipe)),
    "acu": closed_form,
  }
  served = []
  for name, make in sides.items():
    serve, state, rows = make()
    order = np.random.default_rng(0).permutation(count)[:requests]
    masks = jax.nn.one_hot(jnp.asarray(order), count, dtype=bool)
    tenth = masks[: -(-requests // 10)]
    short = jax.jit(serve).lower(state, rows, tenth).compile()
    compiled = jax.jit(serve).lower(state, rows, masks).compile()
    jax.block_until_ready(compiled(state, rows, masks))
    began = time.perf_counter()
    # The same program, another order of the requests.
    _, done = jax.block_until_ready(compiled(state, rows, masks[::-1]))
    seconds = time.perf_counter() - began
    if int(done) != requests:
      raise RuntimeError(f"{name} served {int(done)} of {requests} requests.")
    served.append(
      Served(
        name,
        requests,
        seconds / requests,
        (_working_bytes(short), _working_bytes(compiled)),
      )
    )
  return served


def _working_bytes(compiled: Any) -> int:
  analysis = compiled.memory_analysis()
  return -1 if analysis is None else int(analysis.temp_size_in_bytes)
