"""Model inversion: inputs that a model takes for a class, and what they look like.

Class: heuristic. Data access: none for the attack; rows of the class to judge it.
Cost: a gradient of the model's input a step, start and class.
Source: Fredrikson, Jha and Ristenpart (2015), CCS; as a probe of forgotten classes
Chundawat et al. (2022), arXiv:2201.05629, which shows the images of an original, a
retrained and an unlearned model side by side. It publishes no number; the
likeness is ours. What the retrained model gives too is in no model's memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays
from jaxunlearn.core.tasks import Fit, Model, as_fit
from jaxunlearn.core.types import Variables
from jaxunlearn.losses import error_minimising

INVERSION = Fit(optax.adam(0.1), 200, batch_size=16)


class Inverted(NamedTuple):
  """What was found for each of K classes from each of B starts.

  Attributes:
    x: [K, B, ...], the inputs.
    probability: float32 [K, B], what the model gives the class on them.
  """

  x: jax.Array
  probability: jax.Array


def invert(
  model: Model,
  variables: Variables,
  classes: jax.Array,
  key: jax.Array,
  fit: Fit = INVERSION,
  *,
  input_shape: Sequence[int],
  penalty: float | jax.Array = 1e-3,
  spread: float | jax.Array = 0.1,
  bounds: tuple[float, float] | None = None,
) -> Inverted:
  """Minimises each class's cross-entropy over the input, from several starts.

  Args:
    model: a classifier with float inputs; dropout is off and no state moves.
    variables: its variables; `jax.vmap` over stacked ones attacks many models.
    classes: int [K]; may be traced.
    key: of the starts; the same for every class and model.
    fit: of the input; its batch size is the number of starts.
    input_shape: static; of one input.
    penalty: of the squared norm of an input, see `losses.error_minimising`; may
      be traced.
    spread: standard deviation of the normal starts, 0 is zeros; may be traced.
    bounds: None, or (low, high), to which inputs are clipped after each step.

  Returns:
    See `Inverted`.

  Raises:
    ValueError: classes that are no integers [K], a penalty or spread below 0,
      bounds that do not rise.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import attacks, toy
    >>> problem = toy.classifier()
    >>> found = attacks.invert(
    ...   problem.model, problem.variables, jnp.array([0, 1]), problem.key,
    ...   ju.Fit(optax.adam(0.1), num_steps=50, batch_size=3), input_shape=(6,))
    >>> found.x.shape, found.probability.min(axis=1).round(1).tolist()
    ((2, 3, 6), [1.0, 1.0])
  """
  fit = as_fit(fit, {})
  checks.typed_key(key)
  checks.non_negative(penalty=penalty, spread=spread)
  checks.labels(classes, None, "classes", length=len(jnp.asarray(classes)))
  if bounds is not None and not bounds[0] < bounds[1]:
    raise ValueError(f"Expected bounds (low, high) that rise, got {bounds}.")
  shape = (fit.batch_size, *input_shape)
  starts = spread * jax.random.normal(key, shape)

  def one(start: jax.Array, label: jax.Array) -> jax.Array:
    def loss(x):
      logits = model.predict(variables, x[None])
      rows = x[None], label[None]
      return error_minimising(logits, rows[1], rows[0], penalty)[0]

    def step(moving, _):
      x, state = moving
      updates, state = fit.optimizer.update(jax.grad(loss)(x), state, x)
      x = optax.apply_updates(x, updates)
      return (x if bounds is None else jnp.clip(x, *bounds), state), None

    moving = start, fit.optimizer.init(start)
    return jax.lax.scan(step, moving, length=fit.num_steps)[0][0]

  labels = jnp.asarray(classes)
  of_class = jax.vmap(one, in_axes=(0, None))
  x = jax.vmap(of_class, in_axes=(None, 0))(starts, labels)
  flat = x.reshape(-1, *input_shape)
  given = jax.nn.softmax(model.predict(variables, flat)).reshape(
    *x.shape[:2], -1
  )
  asked = jnp.broadcast_to(labels[:, None, None], (*x.shape[:2], 1))
  return Inverted(x, jnp.take_along_axis(given, asked, axis=-1)[..., 0])


def likeness(
  inverted: jax.Array,
  rows: jax.Array,
  labels: jax.Array,
  classes: jax.Array,
) -> jax.Array:
  """How much the inverted inputs look like their class.

  The correlation over entries of two differences: the mean over starts, less its
  mean over classes, and the mean of the class's rows, less that over classes.

  Args:
    inverted: [K, B, ...], of `invert` with at least two classes.
    rows: [N, ...], real inputs.
    labels: int [N].
    classes: int [K].

  Returns:
    float32 [K] in [-1, 1]; near 1 the class can be read out of the model, 0 is
    chance. nan for a class without rows, or where either side is constant.

  Raises:
    ValueError: shapes that do not match.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> rows, labels = jnp.array([[2.0, 0.0], [0.0, 2.0]]), jnp.array([0, 1])
    >>> inverted = jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    >>> attacks.likeness(inverted, rows, labels, labels).round(3).tolist()
    [1.0, 1.0]
  """
  inverted = arrays("inverted [...]", inverted)
  rows = arrays("rows [...]", rows)
  if inverted.shape[2:] != rows.shape[1:] or len(inverted) != len(classes):
    raise ValueError(
      f"Expected inverted [{len(classes)}, B, "
      f"{', '.join(map(str, rows.shape[1:]))}], got {inverted.shape}."
    )
  member = (jnp.asarray(labels)[None] == jnp.asarray(classes)[:, None]) * 1.0
  count = member.sum(axis=1, keepdims=True)
  flat = rows.reshape(len(rows), -1).astype(jnp.float32)
  real = jnp.matmul(member, flat, precision="highest")
  real = real / jnp.where(count > 0, count, jnp.nan)
  made = inverted.mean(axis=1).reshape(len(classes), -1)

  def centred(means):
    means = means - jnp.nanmean(means, axis=0, keepdims=True)
    return means - means.mean(axis=1, keepdims=True)

  made, real = centred(made), centred(real)
  norms = jnp.linalg.norm(made, axis=1) * jnp.linalg.norm(real, axis=1)
  return (made * real).sum(axis=1) / jnp.where(norms > 0, norms, jnp.nan)
