"""The learners under study, all behind `jaxunlearn.continual.Learner`.

ACU and TAME have interfaces of their own; here they are put behind the one that
the others share, so that one function runs and measures them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from experiments.continual_data import Tasks
from jaxunlearn import Model, models
from jaxunlearn import continual as co
from jaxunlearn.adapters.flax import from_module
from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.continual.acu import Acu, acu, acu_logits
from jaxunlearn.continual.acu_features import random_relu
from jaxunlearn.continual.acu_stream import AcuStream, acu_stream
from jaxunlearn.continual.tame import tame
from jaxunlearn.continual.tame_forget import tame_forget_examples
from jaxunlearn.continual.tame_selector import tame_selector
from jaxunlearn.core import sampling

Record = Any
# Scores of classes that a learner rules out: finite, so that losses are too.
FLOOR = -30.0


class Size(NamedTuple):
  """How much of everything.

  Attributes:
    num_steps: of an event.
    retrain_steps: of every retraining.
    batch_size: rows of the event a step.
    replay_size: rows of the buffer a step.
    buffer_size: rows kept.
    learning_rate: of SGD.
    features: of ACU's random expansion.
    batches: that TAME gets of a task.
    selector_steps: of TAME's selector, after every event.
  """

  num_steps: int
  retrain_steps: int
  batch_size: int
  replay_size: int
  buffer_size: int
  learning_rate: float
  features: int
  batches: int
  selector_steps: int


SIZES: Mapping[str, Size] = {
  "smoke": Size(10, 30, 16, 16, 40, 0.1, 32, 25, 20),
  "quick": Size(150, 600, 32, 32, 200, 0.05, 512, 200, 500),
  "paper": Size(1000, 4000, 64, 64, 2000, 0.05, 2048, 1000, 1000),
}


class Method(NamedTuple):
  """A learner and what is read off it.

  Attributes:
    learner: see `jaxunlearn.continual.Learner`.
    views: by row of the results, `state -> record`, what predicts.
    predict: `(record, x) -> logits [B, C]`.
    access: in words, what it keeps and reads.
  """

  learner: co.Learner
  views: Mapping[str, Callable[[Any], Record]]
  predict: Callable[[Record, jax.Array], jax.Array]
  access: str


def network(tasks: Tasks) -> Model:
  """The classifier of all learners but ACU and TAME."""
  return from_module(models.MLP(tasks.num_classes))


def make(tasks: Tasks, size: Size, max_rows: int) -> dict[str, Method]:
  """All methods by name; "retrained" first.

  Args:
    tasks: the rows.
    size: how much of everything.
    max_rows: the most rows that an event learns, and that it forgets.
  """
  model = network(tasks)
  plain: dict[str, Any] = {
    "optimizer": optax.sgd(size.learning_rate),
    "num_steps": size.num_steps,
    "batch_size": size.batch_size,
  }
  kept = {
    **plain,
    "buffer_size": size.buffer_size,
    "replay_size": size.replay_size,
  }
  student = lambda state: state.variables
  buffer = f"the event's rows and a buffer of {size.buffer_size}"

  def of(name: str, learner: co.Learner, access: str, **views: Any) -> Method:
    return Method(learner, {name: student, **views}, model.predict, access)

  return {
    "retrained": of(
      "retrained",
      co.retraining(model, **{**plain, "num_steps": size.retrain_steps}),
      "all rows to be known, at every event",
    ),
    "clu": of(
      "clu",
      co.clu(model, **kept),
      f"{buffer}; inputs of the rows to forget",
      clu_teacher=lambda state: state.memory.teacher,
    ),
    "clu_exclude_label": of(
      "clu_exclude_label",
      co.clu(model, exclude_label=True, **kept),
      f"{buffer}; inputs and labels of the rows to forget",
    ),
    "acu": acu_method(tasks, size, max_rows),
    "tame": tame_method(tasks, size),
    "naive": of("naive", co.naive(model, **plain), "the event's rows"),
    "experience_replay": of(
      "experience_replay", co.experience_replay(model, **kept), buffer
    ),
    "derpp": of("derpp", co.derpp(model, **kept), f"{buffer} with outputs"),
    "lwf": of(
      "lwf", co.lwf(model, **plain), "the event's rows and the last model"
    ),
    # A penalty of 100 diverges on features of CIFAR-10.
    "ewc": of(
      "ewc",
      co.ewc(model, penalty=10.0, **plain),
      "the event's rows and a Fisher diagonal",
    ),
  }


class Ridge(NamedTuple):
  """What ACU is made of.

  Attributes:
    learner: see `acu`.
    expand: `x [B, D] -> [B, features]`, frozen.
    targets: `label [B] -> [B, C]`.
    l2: the ridge.
  """

  learner: Acu
  expand: Callable[[jax.Array], jax.Array]
  targets: Callable[[jax.Array], jax.Array]
  l2: float


def ridge(tasks: Tasks, size: Size) -> Ridge:
  """The head of ACU; of the data only the number of rows decides anything."""
  rows, width = tasks.train["x"].shape
  l2 = 0.03 * rows
  random = random_relu(jax.random.key(1), width, size.features)

  def expand(x: jax.Array) -> jax.Array:
    # Rows of one length, so that the mean of z^2 is 1 and a scale will do.
    length = jnp.linalg.norm(x, axis=1, keepdims=True)
    return random(x / jnp.maximum(length, 1e-6) * math.sqrt(width))

  # No answer is larger than the longest filter times the length of a row.
  scale = 2.0 ** math.ceil(math.log2(2 * math.sqrt(width) + 1))
  learner = acu(size.features, tasks.num_classes, l2=l2, scale=scale)
  targets = lambda label: jax.nn.one_hot(label, tasks.num_classes)
  return Ridge(learner, expand, targets, l2)


def acu_method(tasks: Tasks, size: Size, max_rows: int) -> Method:
  """ACU: sums over the rows that are in, and a mask that says which are."""
  head = ridge(tasks, size)

  def init(variables, data, key):
    del variables, key
    return AcuStream(head.learner.init(), jnp.zeros(data["label"].shape, bool))

  def event(state, data, learn_mask, forget_mask, key):
    del key

    def serve(state):
      return acu_stream(
        head.learner,
        head.expand(data["x"]),
        head.targets(data["label"]),
        learn_mask[None],
        forget_mask[None],
        max_rows=max_rows,
        start=state,
      )[0]

    is_asked = (learn_mask | forget_mask).any()
    return jax.lax.cond(is_asked, serve, lambda s: s, state), ()

  def predict(record, x):
    return jnp.maximum(acu_logits(record, head.expand(x)), FLOOR)

  view = lambda state: head.learner.solve(state.state)
  learner = co.Learner(init, event, lambda s, x: predict(view(s), x))
  return Method(
    learner,
    {"acu": view},
    predict,
    "sums over rows; the rows to forget",
  )


class TameRecord(NamedTuple):
  """What TAME predicts by.

  Attributes:
    experts: variables, leaves [E, ...].
    selector: variables.
    used: bool [E].
    class_of: int32 [E, W], the class that an expert's answer stands for; C of
      an answer that stands for none.
  """

  experts: Any
  selector: Any
  used: jax.Array
  class_of: jax.Array


class TameInfos(NamedTuple):
  """What an event of TAME's was: of every batch.

  Attributes:
    switched: bool [batches], whether another expert learned it than the batch
      before, or a new one.
    overflow: bool [], whether slots have run out.
  """

  switched: jax.Array
  overflow: jax.Array


def tame_method(tasks: Tasks, size: Size) -> Method:
  """TAME: batches without a word of the task; a request retrains or drops."""
  within = jnp.asarray(tasks.within)
  width = max(2, int(tasks.within.max()) + 1)
  slots, classes = tasks.num_tasks + 3, tasks.num_classes
  inputs = tasks.train["x"].shape[1]
  optimizer = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.1, 0.9))
  buffer_size = size.buffer_size
  learner = tame(
    _small_network(inputs, width),
    optimizer,
    num_experts=slots,
    num_classes=width,
    buffer_size=buffer_size,
  )
  selector = _small_network(inputs, slots)
  recipe = {"optimizer": optimizer, "batch_size": 32}

  def local(data):
    return {"x": data["x"], "label": within[data["label"]]}

  def init(variables, data, key):
    del variables
    first, second = jax.random.split(key)
    return (
      learner.init(local(data), first),
      selector.init(second, data["x"][:1]),
    )

  def event(state, data, learn_mask, forget_mask, key):
    experts, variables = state
    rows = local(data)
    draw_key, selector_key = jax.random.split(key)

    def forget(experts):
      return tame_forget_examples(
        learner, experts, rows, forget_mask, num_steps=size.batches, **recipe
      )[0]

    experts = jax.lax.cond(
      (forget_mask & (experts.owner >= 0)).any(), forget, lambda s: s, experts
    )
    pool = sampling.make_pool(learn_mask, draw_key)
    position = jnp.arange(size.batches * 32, dtype=jnp.uint32)
    row_id, _ = sampling.draw_rows(pool, position)
    row_id = jnp.where(learn_mask.any(), row_id, -1).astype(jnp.int32)
    experts, info = learner.fit(experts, rows, row_id.reshape(-1, 32))
    variables = jax.lax.cond(
      (learn_mask | forget_mask).any(),
      lambda: tame_selector(
        experts,
        selector,
        selector_key,
        num_steps=size.selector_steps,
        # Through the sigmoid of the authors' code it takes thousands of steps.
        squash=False,
        **recipe,
      )[0],
      lambda: variables,
    )
    infos = TameInfos(info.has_switched | info.is_new, experts.overflow)
    # The evaluation needs the labels that an expert's answers stand for.
    return (experts, variables), infos

  label = jnp.asarray(tasks.train["label"])

  def view(state):
    experts, variables = state
    # Rows that no expert owns count for none.
    owner = jnp.where(experts.owner >= 0, experts.owner, slots)
    counts = jnp.zeros((slots, classes)).at[owner, label].add(1.0, mode="drop")
    answers = within[None, :] == jnp.arange(width)[:, None]  # [W, C]
    votes = jnp.where(answers[None], counts[:, None], 0.0)  # [E, W, C]
    class_of = jnp.where(votes.max(-1) > 0, votes.argmax(-1), classes)
    return TameRecord(experts.variables, variables, experts.used, class_of)

  def predict(record, x):
    scores = selector.predict(record.selector, x)
    scores = jnp.where(record.used[None, :], scores, -jnp.inf)
    expert, row = scores.argmax(axis=1), jnp.arange(x.shape[0])
    outputs = jax.vmap(lambda v: learner.model.predict(v, x))(record.experts)
    own = jax.nn.log_softmax(outputs[expert, row])  # [B, W]
    own = jnp.where(record.used.any(), own, FLOOR)
    logits = jnp.full((x.shape[0], classes), FLOOR)
    place = record.class_of[expert]
    return logits.at[row[:, None], place].set(own, mode="drop")

  return Method(
    co.Learner(init, event, lambda s, x: predict(view(s), x)),
    {"tame": view},
    predict,
    f"batches without their task, a buffer of {buffer_size} rows; for a "
    "request, the rows that an expert keeps, if it learned others as well",
  )


def _small_network(inputs: int, outputs: int, hidden: int = 64) -> Model:
  """A hidden layer, initial weights of the spread of PyTorch's."""

  def init(key, x):
    del x
    first, second = jax.random.split(key)
    spread = lambda n: 1 / math.sqrt(3 * n)
    return {
      "hidden": jax.random.normal(first, (inputs, hidden)) * spread(inputs),
      "bias": jnp.zeros((1, hidden)),
      "output": jax.random.normal(second, (hidden, outputs)) * spread(hidden),
    }

  def apply(params, x):
    return jax.nn.relu(x @ params["hidden"] + params["bias"]) @ params["output"]

  return from_functions(init, apply)
