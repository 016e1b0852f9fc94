"""CLU: continual learning and unlearning by controlled distillation.

Source: arXiv:2408.11374 (its second version calls the method UniCLUN), released
on top of online contrastive distillation (OCD-Net, IJCAI 2022).
Class: heuristic. Data access: the rows of the event (of those to forget, inputs
only) and a replay buffer. Kept: the student, its moving average (the teacher),
an untrained network (the incompetent teacher), the buffer. Model state: frozen.
Cost of a step: one gradient, one forward of each teacher; the contrastive and
rotation terms, where switched on, one more gradient.

Where the paper mixes a learning and an unlearning loss by gamma, the code, whose
numbers are the published ones, adds them; `gamma=None` is the code. Differences
from it: rows enter the buffer once, at the end of their event, and a purge
leaves no empty rows to replay (see `buffer`); the contrastive and rotation terms
never read forget rows; the teacher is evaluated as it is, without statistics of
its own; with few steps its average is faster than the published 0.999, which
would leave it at its initial weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn import losses
from jaxunlearn.continual.baselines import needs_buffer
from jaxunlearn.continual.replay import (
  Rule,
  mean_over,
  replay_learner,
)
from jaxunlearn.continual.types import Learner
from jaxunlearn.continual.views import turned_crops
from jaxunlearn.core import checks
from jaxunlearn.core.legacy import old_fields
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.training import init_variables
from jaxunlearn.core.types import PyTree, Variables
from jaxunlearn.losses import contrastive

Augment = Callable[[jax.Array, jax.Array], jax.Array]


class CLUMemory(NamedTuple):
  """What CLU keeps beside the student and the buffer.

  Attributes:
    teacher: moving average of the student; `model.predict(memory.teacher, x)`.
    incompetent: the untrained network whose answers are the forget targets.
  """

  teacher: Variables
  incompetent: Variables


class Embedding(NamedTuple):
  """Names of a model's `features` for the self-supervised terms, and these.

  Attributes:
    projection: [B, D], for the contrastive terms.
    rotation: None, or [B, 4], logits of the quarter turn of square images
      [B, S, S, channels]. Without it the second view is an augmented copy.
    contrast_weight: >= 0, of contrast with the teacher's embeddings; may be
      traced, as may the rest.
    self_contrast_weight: >= 0, of supervised contrast between two views.
    rotation_weight: >= 0, of telling the quarter turn of a view.
    temperature: T > 0 of both contrasts.
  """

  projection: str
  rotation: str | None = None
  contrast_weight: float | jax.Array = 0.1
  self_contrast_weight: float | jax.Array = 0.3
  rotation_weight: float | jax.Array = 0.3
  temperature: float | jax.Array = 0.07


class Teacher(NamedTuple):
  """The moving average of the student; its numbers may be traced.

  Attributes:
    rate: in [0, 1], how likely it moves after a step; 0.2 for small buffers, 0.7
      or 0.8 for larger.
    decay: in [0, 1]; None: min(0.999, 1 - 3 / num_steps), at least 0. Nearer 1
      it keeps more, and forgets a request later than the student.
    temperature: T > 0 of its confidence in the label.
  """

  rate: float | jax.Array = 0.7
  decay: float | jax.Array | None = None
  temperature: float | jax.Array = 1.0


TEACHER = Teacher()


class Untrained(NamedTuple):
  """The incompetent teacher.

  Attributes:
    variables: None draws a fresh network from the key of `init`.
    exclude_label: static; whether its answer leaves out the row's own class. Not
      in the paper, and reads the labels of forget rows: an untrained network is
      right by chance, a model that never saw a class never, so this is for
      requests of whole classes alone.
  """

  variables: Variables | None = None
  exclude_label: bool = False


UNTRAINED = Untrained()


_OLD = {
  "teacher": {
    "teacher_rate": "rate",
    "teacher_decay": "decay",
    "confidence_temperature": "temperature",
  },
  "untrained": {
    "incompetent": "variables",
    "exclude_label": "exclude_label",
  },
  "embedding": {
    "contrast_weight": "contrast_weight",
    "self_contrast_weight": "self_contrast_weight",
    "rotation_weight": "rotation_weight",
    "contrast_temperature": "temperature",
  },
}


@old_fields(**_OLD)
def clu(
  model: Model,
  *,
  forget_weight: float | jax.Array = 1.0,
  replay_weight: float | jax.Array = 1.0,
  distil_weight: float | jax.Array = 2.0,
  temperature: float | jax.Array = 1.0,
  gamma: float | jax.Array | None = None,
  embedding: Embedding | None = None,
  teacher: Teacher = TEACHER,
  untrained: Untrained = UNTRAINED,
  augment: Augment | None = None,
  **recipe: Any,
) -> Learner:
  """Learns and forgets by distillation from three sources.

  A step minimises, with means over the rows of each kind,

      forget_weight * KL(incompetent || student)              forget rows
      + loss(student)                                         new rows
      + replay_weight * loss(student)                         buffer rows
      + distil_weight * confidence * |student - teacher|^2    buffer rows
      + contrastive and rotation terms, where the model has the heads

  and then, with probability `teacher.rate`, moves the teacher towards the student:
  T <- m T + (1 - m) S with m = min(1 - 1 / (step + 1), teacher.decay).

  Floats may be traced.

  Args:
    model: a classifier; the first variables are both student and teacher.
    forget_weight: >= 0; 1 in the released code.
    replay_weight: >= 0; 0.5 for buffers of 200 and 500, 1 for larger.
    distil_weight: >= 0, of online distillation; 0.1 in the released code. With
      2 the student keeps as much of split digits as experience replay does, or
      more; with 0.1 only the teacher.
    temperature: T > 0 of the forget term.
    gamma: None, or in [0, 1]: gamma times all other terms + (1 - gamma) times
      the forget term.
    embedding: None, or the heads that switch on the contrastive terms and that
      of rotation.
    teacher: how the moving average follows.
    untrained: the incompetent teacher; see `Untrained`.
    augment: None, or `(key, x [B, ...]) -> [B, ...]`, applied to all rows that
      the student sees; the buffer keeps rows as they came.
    **recipe: see `replay_learner`; `buffer_size` is needed.

  Returns:
    A learner; `predict` is the student, and `state.memory` a `CLUMemory`. In
    expectation a request that comes when the buffer is empty and no row is to
    be learned moves the student towards the incompetent teacher alone.

  Raises:
    ValueError: an option outside its range, no buffer, an embedding of a model
      without `features`; see `replay_learner`.

  Example:
    >>> import optax
    >>> from jaxunlearn import continual, toy
    >>> model, variables, data, stream, key = toy.stream()
    >>> learner = continual.clu(
    ...   model,
    ...   optimizer=optax.sgd(0.1),
    ...   num_steps=2,
    ...   batch_size=8,
    ...   buffer_size=16,
    ... )
    >>> state = learner.init(variables, data, key)
    >>> _, infos, _ = continual.run_stream(learner, state, data, stream, key)
    >>> infos.forget_count.tolist(), infos.buffer_count.tolist()
    ([0, 0, 8], [8, 16, 8])
  """
  checks.non_negative(
    forget_weight=forget_weight,
    replay_weight=replay_weight,
    distil_weight=distil_weight,
  )
  checks.positive(
    temperature=temperature, teacher_temperature=teacher.temperature
  )
  checks.fraction(teacher_rate=teacher.rate)
  needs_buffer(recipe)
  if embedding is not None:
    if model.features is None:
      raise ValueError(
        "Expected a model with features for embedding, got None."
      )
    contrast_weight, self_contrast_weight, rotation_weight, warmth = embedding[
      2:
    ]
    checks.non_negative(
      contrast_weight=contrast_weight,
      self_contrast_weight=self_contrast_weight,
      rotation_weight=rotation_weight,
    )
    checks.positive(contrast_temperature=warmth)
  teacher_decay = teacher.decay
  if teacher_decay is None:
    teacher_decay = default_decay(recipe.get("num_steps", 0))
  checks.fraction(teacher_decay=teacher_decay)
  if gamma is not None:
    checks.fraction(gamma=gamma)
  view = augment or (lambda key, x: x)

  def init(variables, data, key):
    other = untrained.variables
    if other is None:
      other = init_variables(model, data, key, like=variables)
    return CLUMemory(variables, other)

  def after(memory, variables, step, key):
    decay = jnp.minimum(1 - 1 / (step + 1), teacher_decay)
    is_due = jax.random.bernoulli(key, teacher.rate)

    def move(old, new):
      moved = old + (1 - decay).astype(old.dtype) * (new - old)
      moved = jnp.where(decay > 0, moved, new)
      return jnp.where(is_due, moved, old)

    params = jax.tree.map(move, memory.teacher.params, variables.params)
    return memory._replace(teacher=variables._replace(params=params))

  def loss(variables, step, memory):
    new_key, replay_key, self_key = jax.random.split(step.key, 3)
    new_x = view(new_key, step.new.rows["x"])
    replay_x = view(replay_key, step.replay.rows["x"])
    new, replay = _split(model, variables, new_x, replay_x)
    targets = model.predict(memory.incompetent, new_x)
    if untrained.exclude_label:
      own = jax.nn.one_hot(step.new.rows["label"], targets.shape[1], dtype=bool)
      targets = jnp.where(own, -jnp.inf, targets)
    gap = losses.kl_to_teacher(new, jax.lax.stop_gradient(targets), temperature)
    forget_term = forget_weight * mean_over(
      gap, jnp.where(step.new.forget, step.new.weight, 0)
    )
    kept = jnp.where(step.new.forget, 0, step.new.weight)
    weight = step.replay.weight
    online = contrastive.confidence_weighted_mse(
      replay,
      model.predict(memory.teacher, replay_x),
      step.replay.rows["label"],
      teacher.temperature,
    )
    learn_term = (
      mean_over(model.loss(new, step.new.rows), kept)
      + replay_weight * mean_over(model.loss(replay, step.replay.rows), weight)
      + distil_weight * mean_over(online, weight)
    )
    if embedding is not None:
      learn_term = learn_term + _embedded(
        variables, step, memory, (new_x, replay_x), kept, self_key
      )
    if gamma is None:
      return learn_term + forget_term
    return gamma * learn_term + (1 - gamma) * forget_term

  def _embedded(variables, step, memory, inputs, kept, key):
    """The terms of the projector and of the rotation head."""
    features = model.features
    name, rotation = embedding[:2]
    weight = step.replay.weight
    label = step.replay.rows["label"]
    x = jnp.concatenate(inputs)
    used = jnp.concatenate([kept, weight])
    if rotation is None:
      other, turns = view(key, x), None
    else:
      other, turns = turned_crops(key, x)
    both = features(variables, jnp.concatenate([x, other]))
    own = both[name]
    taught = features(memory.teacher, inputs[1])[name]
    replayed = own[inputs[0].shape[0] : x.shape[0]]
    contrast = contrastive.teacher_contrastive(
      taught, replayed, label, warmth, weight
    )
    labels = jnp.concatenate([step.new.rows["label"], label])
    twice = lambda v: jnp.concatenate([v, v])
    pull = contrastive.supervised_contrastive(
      own, twice(labels), warmth, twice(used)
    )
    total = contrast_weight * mean_over(contrast, weight)
    total = total + self_contrast_weight * mean_over(pull, twice(used))
    if turns is None:
      return total
    turned = losses.cross_entropy(both[rotation][x.shape[0] :], turns)
    return total + rotation_weight * mean_over(turned, used)

  rule = Rule(loss, init=init, after=after, uses_forget=True)
  return replay_learner(model, rule, **recipe)


def default_decay(num_steps: int) -> float:
  """The teacher's decay for events of `num_steps`: its memory is a third of one.

  The published 0.999 needs thousands of steps to leave the initial weights.

  Example:
    >>> from jaxunlearn.continual.clu import default_decay
    >>> default_decay(30), default_decay(100_000), default_decay(1)
    (0.9, 0.999, 0.0)
  """
  return min(0.999, max(0.0, 1 - 3 / max(num_steps, 1)))


def _split(
  model: Model, variables: Variables, new: PyTree, replay: PyTree
) -> tuple[jax.Array, jax.Array]:
  """The model's outputs on two batches, in one pass."""
  both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), new, replay)
  outputs = model.predict(variables, both)
  size = jax.tree.leaves(new)[0].shape[0]
  return outputs[:size], outputs[size:]
