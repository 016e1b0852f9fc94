"""Running streams, all of a method in one program, and measuring afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxunlearn as ju
from experiments import common, continual_learners
from experiments.continual_data import Tasks
from experiments.continual_learners import Method
from jaxunlearn import attacks, metrics
from jaxunlearn import continual as co
from jaxunlearn.continual import metrics as stream_metrics


class Lanes(NamedTuple):
  """Streams times seeds, L of them; T events each, the last ones perhaps empty.

  Attributes:
    stream: int [L], the number of the stream.
    seed: int [L].
    events: L lists of T events.
    num_events: int [L], events in which something happens.
    learn: bool [L, T, N].
    forget: bool [L, T, N].
    status: int32 [L, T, K], see `task_status`.
  """

  stream: np.ndarray
  seed: np.ndarray
  events: list[list[co.Event]]
  num_events: np.ndarray
  learn: jax.Array
  forget: jax.Array
  status: np.ndarray

  @property
  def max_rows(self) -> int:
    """The most rows that an event learns, and that it forgets."""
    counts = [mask.sum(axis=-1).max() for mask in (self.learn, self.forget)]
    return max(1, *map(int, counts))


def make_lanes(
  tasks: Tasks,
  streams: Sequence[Sequence[list[co.Event]]],
  seeds: Sequence[int],
) -> Lanes:
  """Lanes of streams [R][S], events that were padded to one length."""
  task = jnp.asarray(tasks.task)
  events = [own for of_stream in streams for own in of_stream]
  made = [co.task_stream(task, own) for own in events]
  status = [stream_metrics.task_status(s, tasks.num_tasks) for s in made]
  return Lanes(
    np.repeat(np.arange(len(streams)), len(seeds)),
    np.tile(np.asarray(seeds), len(streams)),
    events,
    np.array([sum(bool(e.learn or e.forget) for e in own) for own in events]),
    jnp.stack([s.learn_masks for s in made]),
    jnp.stack([s.forget_masks for s in made]),
    np.stack([np.asarray(s) for s in status]),
  )


class Ran(NamedTuple):
  """What a method did.

  Attributes:
    records: by row of the results, leaves [L, T, ...].
    infos: leaves [L, T, ...].
    seconds_compile: of the program for all lanes.
    seconds_run: of one lane.
    state_bytes: kept between two events.
  """

  records: dict[str, Any]
  infos: Any
  seconds_compile: float
  seconds_run: float
  state_bytes: int


def run_method(
  tasks: Tasks, method: Method, lanes: Lanes, *, keep_all: bool = False
) -> Ran:
  """Runs a method on every lane.

  Args:
    tasks: rows and tasks.
    method: see `Method`.
    lanes: see `Lanes`.
    keep_all: no request is served, and it is the model that forgets nothing.
  """
  model, learner = continual_learners.network(tasks), method.learner

  def begin(data, key):
    model_key, state_key = jax.random.split(key)
    return learner.init(model.init(model_key, data["x"][:1]), data, state_key)

  def program(data, task, learn, forget, keys):
    def one(learn, forget, key):
      init_key, run_key = jax.random.split(key)
      stream = co.Stream(learn, forget, task)
      record = lambda s: {name: view(s) for name, view in method.views.items()}
      _, infos, records = co.run_stream(
        learner, begin(data, init_key), data, stream, run_key, record=record
      )
      return records, infos

    return ju.map_many(one, learn, forget, keys, strategy=strategy())

  data = jax.tree.map(jnp.asarray, tasks.train)
  keys = jax.vmap(jax.random.key)(jnp.asarray(lanes.seed))
  forget = jnp.zeros_like(lanes.forget) if keep_all else lanes.forget
  made = common.timed(
    program, data, jnp.asarray(tasks.task), lanes.learn, forget, keys
  )
  state = jax.jit(begin)(data, keys[0])
  records, infos = made.value
  return Ran(
    records,
    jax.tree.map(np.asarray, infos),
    made.seconds_compile,
    made.seconds_run / len(lanes.seed),
    co.state_bytes(state),
  )


def strategy() -> str:
  """How lanes share the device."""
  return "map" if jax.default_backend() == "cpu" else "vmap"


class Measured(NamedTuple):
  """What a row of the results knows; L lanes, T events, K tasks.

  Attributes:
    accuracy: [L, T, K], on test rows of each task, all classes competing.
    logits: [L, N_test, C], after the last event.
    train_accuracy: [L, K], after the last event.
    membership_auc: [L], of the rows of forgotten tasks, after the last event.
  """

  accuracy: np.ndarray
  logits: np.ndarray
  train_accuracy: np.ndarray
  membership_auc: np.ndarray


def measure(
  tasks: Tasks,
  predict: Callable[[Any, jax.Array], jax.Array],
  records: Any,
  status: np.ndarray,
) -> Measured:
  """Asks the models of all events about test rows, the last about all rows."""
  num_tasks = tasks.num_tasks

  def accuracy(logits, rows, task):
    # A model without anything learned gives all classes the same score; that
    # the first one is its answer then does not make it right.
    silent = logits.max(-1, keepdims=True) == logits.min(-1, keepdims=True)
    wrong = jax.nn.one_hot(
      (rows["label"] + 1) % tasks.num_classes, logits.shape[1]
    )
    return stream_metrics.task_accuracy(
      jnp.where(silent, wrong, logits), rows["label"], task, num_tasks
    )

  def program(records, forgotten, train, test, task, test_task):
    def one(records, forgotten):
      last = jax.tree.map(lambda leaf: leaf[-1], records)
      logits = predict(last, test["x"])
      known = predict(last, train["x"])
      loss = lambda z, rows: (
        attacks.membership_signals(z, rows["label"]).negative_loss
      )
      return Measured(
        jax.lax.map(
          lambda r: accuracy(predict(r, test["x"]), test, test_task), records
        ),
        logits,
        accuracy(known, train, task),
        metrics.separation_auc(
          loss(known, train),
          loss(logits, test),
          forgotten[task],
          forgotten[test_task],
        ),
      )

    return jax.lax.map(lambda a: one(*a), (records, forgotten))

  forgotten = jnp.asarray(status[:, -1] == stream_metrics.FORGOTTEN)
  data = jax.tree.map(jnp.asarray, (tasks.train, tasks.test))
  places = jnp.asarray(tasks.task), jnp.asarray(tasks.test_task)
  found = jax.jit(program)(records, forgotten, *data, *places)
  return jax.tree.map(np.asarray, found)


class Compared(NamedTuple):
  """Numbers beside those of the retrained model.

  Attributes:
    values: by metric, [L].
    curves: by metric, [L, T].
  """

  values: dict[str, np.ndarray]
  curves: dict[str, np.ndarray]


def compare(
  tasks: Tasks,
  lanes: Lanes,
  found: Measured,
  retrained: Measured,
) -> Compared:
  """Metrics of a row of the results, after the last event and over events."""
  status = jnp.asarray(lanes.status)
  accuracy = jnp.asarray(found.accuracy)
  each = lambda fn, *args: np.asarray(jax.vmap(fn)(*args), np.float64)
  retained = each(stream_metrics.retained_accuracy, accuracy, status)
  forgotten = each(stream_metrics.forgotten_accuracy, accuracy, status)
  lost = each(stream_metrics.catastrophic_forgetting, accuracy, status)
  transfer = each(stream_metrics.backward_transfer, accuracy, status)
  seen = lanes.status != stream_metrics.UNSEEN
  off = np.abs(found.accuracy - retrained.accuracy)
  gap = masked_mean(off, seen)
  final = lanes.status[:, -1]
  task = jnp.asarray(tasks.test_task)
  divergence = each(
    lambda a, b: stream_metrics.retrained_divergence(
      a, b, task, tasks.num_tasks
    ),
    jnp.asarray(found.logits),
    jnp.asarray(retrained.logits),
  )
  kept, gone = (
    final == kind
    for kind in (stream_metrics.RETAINED, stream_metrics.FORGOTTEN)
  )
  at_once = [
    _after_requests(found.accuracy[lane], events)
    for lane, events in enumerate(lanes.events)
  ]
  values = {
    "retain_test_accuracy": retained[:, -1],
    "forget_test_accuracy": forgotten[:, -1],
    "request_accuracy": np.array(at_once),
    "retain_accuracy": masked_mean(found.train_accuracy, kept),
    "forget_accuracy": masked_mean(found.train_accuracy, gone),
    "forgetting": lost[:, -1],
    "backward_transfer": transfer[:, -1],
    "retrained_gap": gap[:, -1],
    "membership_auc": np.asarray(found.membership_auc, np.float64),
    "js_to_retrained": masked_mean(divergence, seen[:, -1]),
  }
  curves = {"retained": retained, "forgotten": forgotten, "gap": gap}
  return Compared(values, curves)


def masked_mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Mean over the last axis where the mask is set; nan where nowhere."""
  count = mask.sum(axis=-1)
  total = np.where(mask, values, 0.0).sum(axis=-1)
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _after_requests(accuracy: np.ndarray, events: Sequence[co.Event]) -> float:
  """Accuracy [T, K] on what an event forgot right after it, a mean."""
  known: set[int] = set()
  found = []
  for number, event in enumerate(events):
    found += [accuracy[number, t] for t in event.forget if t in known]
    known = (known | set(event.learn)) - set(event.forget)
  return float(np.mean(found)) if found else float("nan")


def final_records(records: Mapping[str, Any], lane: int) -> dict[str, Any]:
  """What predicts after the last event of a lane, by row of the results."""
  return {
    name: jax.tree.map(lambda leaf: leaf[lane, -1], record)
    for name, record in records.items()
  }
