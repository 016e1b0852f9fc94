"""The learners under study, all behind `jaxunlearn.continual.Learner`.

ACU and TAME have interfaces of their own; here they are put behind the one that
the others share, so that one function runs and measures them all.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxunlearn import Model, Variables
from jaxunlearn import continual as co
from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.continual.acu import Acu, acu, acu_logits
from jaxunlearn.continual.acu_features import random_relu
from jaxunlearn.continual.acu_stream import AcuStream, acu_stream
from jaxunlearn.continual.tame import tame
from jaxunlearn.continual.tame_forget import tame_forget_examples
from jaxunlearn.continual.tame_selector import tame_selector
from jaxunlearn.core import sampling
from jaxunlearn.core.keys import derive

from ..bench import Bed, Method, Setting
from ..bench.tune import Between

# Scores of classes that a learner rules out: finite, so that losses are too.
FLOOR = -30.0
REMAINING = "clu_remaining"
_TAME_BATCH = 32


# Steps of an event and of a retraining, rows of the event and of the buffer a
# step, rows kept, rate of SGD; features of ACU; TAME's batches of a task and
# steps of its selector after every event.
_NAMES = ("num_steps", "retrain_steps", "batch_size", "replay_batch_size")
_NAMES += (
  "buffer_size",
  "learning_rate",
  "features",
  "batches",
  "selector_steps",
)
SIZES: Mapping[str, dict[str, Any]] = {
  "smoke": dict(zip(_NAMES, (10, 30, 16, 16, 40, 0.1, 32, 25, 20))),
  "quick": dict(zip(_NAMES, (150, 600, 32, 32, 200, 0.05, 512, 200, 500))),
  "paper": dict(
    zip(_NAMES, (1000, 4000, 64, 64, 2000, 0.05, 2048, 1000, 1000))
  ),
}
# Of the released code, for buffers below 5,120 rows.
PUBLISHED = {
  "forget_weight": 1.0,
  "replay_weight": 0.5,
  "distil_weight": 0.1,
  "teacher_rate": 0.2,
  "teacher_decay": 0.999,
  "contrast_weight": 0.1,
  "self_contrast_weight": 0.3,
  "rotation_weight": 0.3,
}


class Extra(NamedTuple):
  """In `Bed.extra`, static: of every class the task, and its place in that."""

  of_class: np.ndarray
  within: np.ndarray

  @property
  def num_tasks(self) -> int:
    return int(self.of_class.max()) + 1


class Way(NamedTuple):
  """A learner and what is read off it.

  Attributes:
    learner: see `jaxunlearn.continual.Learner`; its infos are a named tuple, or
      a dict of what is kept of them.
    model: whose variables it starts from.
    views: by what the row's name has after the method's, `(state, data) ->
      record`, what predicts.
  """

  learner: co.Learner
  model: Model
  views: Mapping[str, Callable[[Any, Any], Any]]


def settings(preset: str, max_rows: int | None = None) -> dict[str, Setting]:
  """By method; `max_rows` is the most that an event learns, or forgets."""
  size = SIZES[preset]
  take = lambda *names: {name: size[name] for name in names}
  plain = take("learning_rate", "num_steps", "batch_size")
  kept = {**plain, **take("buffer_size", "replay_batch_size")}
  clu = {**kept, "distil_weight": 2.0}
  return {
    "retrained": {**plain, "num_steps": size["retrain_steps"]},
    "clu": clu,
    "clu_exclude_label": {**clu, "exclude_label": True},
    "clu_published": {**kept, **PUBLISHED},
    REMAINING: {**kept, **PUBLISHED},
    "acu": {**take("features"), "max_rows": max_rows},
    "tame": take("batches", "selector_steps", "buffer_size"),
    "naive": plain,
    "experience_replay": {**kept, "replay_weight": 1.0},
    "derpp": kept,
    "lwf": plain,
    # A penalty of 100 diverges on features of CIFAR-10.
    "ewc": {**plain, "penalty": 10.0},
  }


def predict(bed: Bed, record: Any, x: jax.Array) -> jax.Array:
  """Logits [B, C] of what a view returned."""
  if isinstance(record, co.AcuHead):
    return jnp.maximum(
      acu_logits(record, ridge(bed, len(record.kernel)).expand(x)), FLOOR
    )
  if isinstance(record, TameRecord):
    return _tame_predict(bed, record, x)
  return bed.model.predict(record, x)


def _by_steps(make: Callable[..., co.Learner], bed: Bed, s: Setting) -> Way:
  """A learner by steps of SGD, as the library has it."""
  rest = {name: value for name, value in s.items() if name != "learning_rate"}
  learner = make(bed.model, optimizer=optax.sgd(s["learning_rate"]), **rest)
  return Way(learner, bed.model, {"": lambda state, data: state.variables})


# What a setting calls the fields of CLU's groups.
_TEACHER = {"teacher_rate": "rate", "teacher_decay": "decay"}
_HEADS = ("contrast_weight", "self_contrast_weight", "rotation_weight")


def _make_clu(model: Model, **s: Any) -> co.Learner:
  """CLU of a flat setting."""
  taken = lambda names: {n: s.pop(n) for n in names if n in s}
  teacher = {_TEACHER[n]: v for n, v in taken(_TEACHER).items()}
  heads, untrained = taken(_HEADS), taken(("exclude_label",))
  embedding = s.pop("embedding", None)
  return co.clu(
    model,
    teacher=co.Teacher(**teacher),
    untrained=co.Untrained(**untrained),
    embedding=embedding and embedding._replace(**heads),
    **s,
  )


def _clu(bed: Bed, s: Setting) -> Way:
  way = _by_steps(_make_clu, bed, s)
  teacher = lambda state, data: state.memory.teacher
  return way._replace(views={**way.views, "_teacher": teacher})


class _Heads(nn.Module):
  """Projector and rotation head on the last hidden layer.

  The released ones have BatchNorm, whose state learners here keep frozen.
  """

  @nn.compact
  def __call__(self, hidden: jax.Array) -> dict[str, jax.Array]:
    def head(outputs: int) -> jax.Array:
      h = hidden
      for _ in range(2):
        h = nn.relu(nn.LayerNorm()(nn.Dense(hidden.shape[-1])(h)))
      return nn.Dense(outputs)(h)

    z, turns = head(64), head(4)
    length = jnp.sqrt((z**2).sum(axis=1, keepdims=True) + 1e-12)
    return {"projection": z / length, "rotation": turns}


def with_heads(model: Model) -> Model:
  """The same classifier, with the heads that CLU's other terms need."""
  heads = _Heads()
  own = lambda params: Variables(params["network"], {})
  hidden = lambda params, x: model.features(own(params), x)["features"]

  def init(key: jax.Array, x: jax.Array):
    network = model.init(derive(key, "network"), x).params
    made = heads.init(derive(key, "heads"), hidden({"network": network}, x))
    return {"network": network, "heads": made["params"]}

  def features(variables: Variables, x: jax.Array):
    params = variables.params
    return heads.apply({"params": params["heads"]}, hidden(params, x))

  apply = lambda params, x: model.predict(own(params), x)
  return from_functions(init, apply, features=features)


def _clu_published(bed: Bed, s: Setting) -> Way:
  shape = bed.data["x"].shape[1:]
  can_turn = len(shape) == 3 and shape[0] == shape[1]
  embedding = co.Embedding("projection", "rotation" if can_turn else None)
  model = with_heads(bed.model)
  make = functools.partial(_make_clu, embedding=embedding)
  way = _by_steps(make, bed._replace(model=model), s)
  view = lambda state, data: Variables(state.variables.params["network"], {})
  return way._replace(views={"": view})


class Ridge(NamedTuple):
  """What ACU is made of; `expand` is of x [B, ...], and frozen."""

  learner: Acu
  expand: Callable[[jax.Array], jax.Array]
  targets: Callable[[jax.Array], jax.Array]
  l2: float


def ridge(bed: Bed, features: int) -> Ridge:
  """The head of ACU; of the data only the number of rows decides anything."""
  rows, width = len(bed.data["x"]), math.prod(bed.data["x"].shape[1:])
  classes, l2 = len(bed.extra.of_class), 0.03 * rows
  random = random_relu(jax.random.key(1), width, features)

  def expand(x: jax.Array) -> jax.Array:
    # Rows of one length, so that the mean of z^2 is 1 and a scale will do.
    x = x.reshape(len(x), -1)
    length = jnp.linalg.norm(x, axis=1, keepdims=True)
    return random(x / jnp.maximum(length, 1e-6) * math.sqrt(width))

  # No answer is larger than the longest filter times the length of a row.
  scale = 2.0 ** math.ceil(math.log2(2 * math.sqrt(width) + 1))
  learner = acu(features, classes, l2=l2, scale=scale)
  return Ridge(learner, expand, lambda y: jax.nn.one_hot(y, classes), l2)


def _acu(bed: Bed, s: Setting) -> Way:
  """ACU: sums over the rows that are in, and a mask that says which are."""
  head = ridge(bed, s["features"])

  def init(variables, data, key):
    del variables, key
    return AcuStream(head.learner.init(), jnp.zeros(data["label"].shape, bool))

  def event(state, data, learn_mask, forget_mask, key):
    del key
    serve = lambda state: acu_stream(
      head.learner,
      head.expand(data["x"]),
      head.targets(data["label"]),
      learn_mask[None],
      forget_mask[None],
      max_rows=s["max_rows"],
      start=state,
    )[0]
    is_asked = (learn_mask | forget_mask).any()
    return jax.lax.cond(is_asked, serve, lambda s: s, state), {}

  view = lambda state, data: head.learner.solve(state.state)
  learner = co.Learner(init, event, lambda s, x: predict(bed, view(s, None), x))
  return Way(learner, bed.model, {"": view})


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


def _tame_models(bed: Bed) -> tuple[Model, Model]:
  """An expert, and the selector among as many as there are slots for."""
  inputs = math.prod(bed.data["x"].shape[1:])
  width = max(2, int(bed.extra.within.max()) + 1)
  slots = bed.extra.num_tasks + 3
  return _small_network(inputs, width), _small_network(inputs, slots)


def _tame(bed: Bed, s: Setting) -> Way:
  """TAME: batches without a word of the task; a request retrains or drops."""
  within, classes = jnp.asarray(bed.extra.within), len(bed.extra.of_class)
  width, slots = (
    max(2, int(bed.extra.within.max()) + 1),
    bed.extra.num_tasks + 3,
  )
  optimizer = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.1, 0.9))
  expert, selector = _tame_models(bed)
  learner = tame(
    expert,
    optimizer,
    num_experts=slots,
    num_classes=width,
    buffer_size=s["buffer_size"],
  )
  recipe = {"optimizer": optimizer, "batch_size": _TAME_BATCH}
  local = lambda data: {"x": data["x"], "label": within[data["label"]]}

  def init(variables, data, key):
    del variables
    return (
      learner.init(local(data), derive(key, "experts")),
      selector.init(derive(key, "selector"), data["x"][:1]),
    )

  def event(state, data, learn_mask, forget_mask, key):
    experts, variables = state
    rows = local(data)
    experts = jax.lax.cond(
      (forget_mask & (experts.owner >= 0)).any(),
      lambda e: tame_forget_examples(
        learner, e, rows, forget_mask, num_steps=s["batches"], **recipe
      )[0],
      lambda e: e,
      experts,
    )
    pool = sampling.make_pool(learn_mask, derive(key, "rows"))
    position = jnp.arange(s["batches"] * _TAME_BATCH, dtype=jnp.uint32)
    row_id, _ = sampling.draw_rows(pool, position)
    row_id = jnp.where(learn_mask.any(), row_id, -1).astype(jnp.int32)
    experts, info = learner.fit(experts, rows, row_id.reshape(-1, _TAME_BATCH))
    variables = jax.lax.cond(
      (learn_mask | forget_mask).any(),
      lambda: tame_selector(
        experts,
        selector,
        derive(key, "selector"),
        num_steps=s["selector_steps"],
        # Through the sigmoid of the authors' code it takes thousands of steps.
        squash=False,
        **recipe,
      )[0],
      lambda: variables,
    )
    # Whether another expert learned a batch than the one before, or a new one.
    switched = info.has_switched | info.is_new
    found = {"switched": switched, "overflow": experts.overflow}
    return (experts, variables), found

  def view(state, data):
    experts, variables = state
    # The evaluation needs the labels that an expert's answers stand for; rows
    # that no expert owns count for none.
    owner = jnp.where(experts.owner >= 0, experts.owner, slots)
    counts = jnp.zeros((slots, classes))
    counts = counts.at[owner, data["label"]].add(1.0, mode="drop")
    answers = within[None, :] == jnp.arange(width)[:, None]  # [W, C]
    votes = jnp.where(answers[None], counts[:, None], 0.0)  # [E, W, C]
    class_of = jnp.where(votes.max(-1) > 0, votes.argmax(-1), classes)
    return TameRecord(experts.variables, variables, experts.used, class_of)

  def answer(state, x):
    return predict(bed, view(state, bed.data), x)

  return Way(co.Learner(init, event, answer), bed.model, {"": view})


def _tame_predict(bed: Bed, record: TameRecord, x: jax.Array) -> jax.Array:
  expert_model, selector = _tame_models(bed)
  scores = selector.predict(record.selector, x)
  scores = jnp.where(record.used[None, :], scores, -jnp.inf)
  expert, row = scores.argmax(axis=1), jnp.arange(x.shape[0])
  outputs = jax.vmap(lambda v: expert_model.predict(v, x))(record.experts)
  own = jax.nn.log_softmax(outputs[expert, row])  # [B, W]
  own = jnp.where(record.used.any(), own, FLOOR)
  logits = jnp.full((x.shape[0], len(bed.extra.of_class)), FLOOR)
  place = record.class_of[expert]
  return logits.at[row[:, None], place].set(own, mode="drop")


def _small_network(inputs: int, outputs: int, hidden: int = 64) -> Model:
  """A hidden layer, initial weights of the spread of PyTorch's."""

  def init(key, x):
    del x
    spread = lambda n: 1 / math.sqrt(3 * n)
    draw = lambda name, *shape: jax.random.normal(derive(key, name), shape)
    return {
      "hidden": draw("hidden", inputs, hidden) * spread(inputs),
      "bias": jnp.zeros((1, hidden)),
      "output": draw("output", hidden, outputs) * spread(hidden),
    }

  def apply(params, x):
    h = x.reshape(len(x), -1) @ params["hidden"] + params["bias"]
    return jax.nn.relu(h) @ params["output"]

  return from_functions(init, apply)


def _steps(
  make: Callable[..., co.Learner], access: str, **space: Any
) -> Method:
  space = {"learning_rate": Between(0.01, 0.2), **space}
  return Method(functools.partial(_by_steps, make), space, access=access)


RETRAINING = functools.partial(_by_steps, co.retraining)
_BUFFER = "the event's rows and a buffer"
_CLU = f"{_BUFFER}; inputs of the rows to forget"
_CLU_SPACE = {
  "learning_rate": Between(0.01, 0.2),
  "distil_weight": Between(0.05, 5.0),
}
METHODS: Mapping[str, Method] = {
  "clu": Method(
    _clu,
    _CLU_SPACE,
    "without heads, and with a distillation weight of 2 where the released code "
    "has 0.1 and a faster teacher; its row clu_teacher is the moving average "
    "beside the student. It forgets by answering like an untrained network, "
    "which is right by chance: it comes out above 0 where the stream ends with "
    "a request, while a model that never saw a class never names it.",
    _CLU,
  ),
  "clu_exclude_label": Method(
    functools.partial(_by_steps, _make_clu),
    _CLU_SPACE,
    "clu that leaves the row's own class out of that answer; no part of the "
    "paper.",
    f"{_BUFFER}; inputs and labels of the rows to forget",
  ),
  "clu_published": Method(
    _clu_published,
    note="the published configuration: projector and rotation head, and the "
    "weights of the released code for small buffers. Its heads have LayerNorm "
    "for BatchNorm and stand on the MLP of the others in the place of a "
    "ResNet-18, rows are not augmented, and it makes as many steps as the "
    "others, at their rate.",
    access=_CLU,
  ),
  REMAINING: Method(
    _clu_published,
    note="the reference of the released code, clu_published on the tasks alone "
    "that are to be known in the end; no method of forgetting, and not judged: verdicts and findings leave it out.",
    access="rows to be known in the end",
  ),
  "acu": Method(_acu, access="sums over rows; the rows to forget"),
  "tame": Method(
    _tame,
    note="gets batches without their task, and labels within a task; which "
    "class an expert's answer stands for is read off the rows that it owns. "
    "Forgetting drops or retrains experts, and the selector is trained anew at "
    "every event, without the sigmoid of the authors' code, through which it "
    "takes thousands of steps.",
    access="batches without their task, a buffer; for a request, the rows that "
    "an expert keeps, if it learned others as well",
  ),
  "naive": _steps(co.naive, "the event's rows"),
  "experience_replay": _steps(
    co.experience_replay, _BUFFER, replay_weight=Between(0.2, 5.0)
  ),
  "derpp": _steps(co.derpp, f"{_BUFFER} with outputs"),
  "lwf": _steps(co.lwf, "the event's rows and the last model"),
  "ewc": _steps(
    co.ewc,
    "the event's rows and a Fisher diagonal",
    penalty=Between(0.1, 100.0),
  ),
}
