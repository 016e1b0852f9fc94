"""An identity is taken out of a representation: three objectives for any of them.

Class: heuristic, without guarantee. Model state: moves with the task's loss.
Source: ours; what the objectives of DisenBooth, CION and DLIF become where the
rows of an identity are to be forgotten.

Each is the task's loss on retain rows beside another one on forget rows. Where
the task compares rows of a batch (contrast, orthogonality), forget rows reach its
loss with weight 0, so that it must leave out rows of weight 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.keys import derive
from jaxunlearn.core.phase import phase, supervised
from jaxunlearn.core.tasks import Fit, as_fit, as_task
from jaxunlearn.core.training import prepared
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, Losses, PyTree, Step, Variables
from jaxunlearn.losses import kl_to_target, squared_error

# `(variables, step, key) -> [B, ...]`.
Respond = Callable[[Variables, Step, jax.Array], jax.Array]


def uniform_teacher(
  task: Any,
  fit: Fit,
  *,
  logits: Callable[[Variables, PyTree], jax.Array],
  centre: jax.Array | None = None,
  forget_weight: float | jax.Array = 1.0,
) -> Transform:
  """Forget rows are taught that they may be anybody.

  Args:
    task: what was trained, see `retrain`.
    fit: how; its rows are of each kind.
    logits: `(variables, rows) -> [B, K]`, of identities or prototypes.
    centre: None, every one alike; or logits [K] of the distribution that is
      taught, such as the running centre of a teacher's outputs.
    forget_weight: of the forget rows' loss; may be traced.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()  # The classes are the persons.
    >>> logits = lambda variables, rows: problem.model.predict(
    ...   variables, rows["x"])
    >>> unlearn = ju.identity.uniform_teacher(
    ...   problem.model, ju.Fit(optax.adam(0.05), 40, 16), logits=logits)
    >>> made, _ = jax.jit(unlearn)(*problem.arguments)
    >>> p = jax.nn.softmax(logits(made, problem.data)[problem.request])
    >>> entropy = -(p * jnp.log(p)).sum(axis=1).mean()
    >>> round(float(jnp.exp(entropy)), 1)  # As between so many persons.
    3.7
  """

  def anybody(variables: Variables, step: Step, key: jax.Array) -> jax.Array:
    said = logits(variables, step.rows)
    level = jnp.zeros(said.shape[-1]) if centre is None else centre
    target = jnp.broadcast_to(jax.nn.softmax(level), said.shape)
    return kl_to_target(said, target)

  return beside_retain(
    task, anybody, fit, forget_weight=forget_weight, name="uniform_teacher"
  )


def anchor_to_class(
  task: Any,
  fit: Fit,
  *,
  respond: Respond,
  anchor: Respond,
  forget_weight: float | jax.Array = 1.0,
) -> Transform:
  """Forget rows get the response that the model as it was has to their class.

  Args:
    task: what was trained, see `retrain`.
    fit: how; its rows are of each kind.
    respond: an embedding, or the noise that is predicted for the identity.
    anchor: the response that is wanted, of the original variables; with the key
      that `respond` gets, so that both see one noise. `retain_mean` makes one.
    forget_weight: of the forget rows' loss; may be traced.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()  # The classes are the persons.
    >>> embed = lambda variables, step, key: problem.model.features(
    ...   variables, step.rows["x"])["hidden"]
    >>> unlearn = ju.identity.anchor_to_class(
    ...   problem.model, ju.Fit(optax.adam(0.05), 40, 16), respond=embed,
    ...   anchor=ju.identity.retain_mean(embed), forget_weight=0.1)
    >>> made, _ = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 1.0)
  """

  def generic(variables: Variables, step: Step, key: jax.Array) -> jax.Array:
    wanted = anchor(step.original, step, key)
    return squared_error(
      respond(variables, step, key), jax.lax.stop_gradient(wanted)
    )

  return beside_retain(
    task, generic, fit, forget_weight=forget_weight, name="anchor_to_class"
  )


def retain_mean(respond: Respond) -> Respond:
  """The mean response to the step's retain rows, for every row.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> from jaxunlearn.core import host_batch
    >>> step = host_batch(
    ...   {"x": jnp.array([9.0, 2.0, 4.0])}, jnp.array([True, False, False]))
    >>> double = lambda variables, step, key: 2 * step.rows["x"]
    >>> ju.identity.retain_mean(double)(None, step, None).tolist()
    [6.0, 6.0, 6.0]
  """

  def mean(variables: Variables, step: Step, key: jax.Array) -> jax.Array:
    found = respond(variables, step, key)
    weight = jnp.where(step.forget, 0.0, step.weight)
    total = jnp.tensordot(weight, found, axes=1) / jnp.maximum(weight.sum(), 1)
    return jnp.broadcast_to(total, found.shape)

  return mean


def clipped_reversal(
  task: Any,
  fit: Fit,
  *,
  ceiling: float | jax.Array,
  forget_weight: float | jax.Array = 1.0,
) -> Transform:
  """The loss of forget rows is raised, as far as a ceiling.

  Args:
    task: what was trained, see `retrain`.
    fit: how; its rows are of each kind.
    ceiling: of a row's loss; above it the row is left alone. May be traced.
    forget_weight: of the forget rows' loss; may be traced.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()  # The classes are the persons.
    >>> unlearn = ju.identity.clipped_reversal(
    ...   problem.model, ju.Fit(optax.adam(0.05), 40, 16), ceiling=3.0)
    >>> made, _ = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 1.0)
  """
  plain = supervised(as_task(task), train=True)

  def reversed_loss(variables: Variables, step: Step, key: jax.Array):
    out = plain(variables, step, key)
    each = 1.0 if out.weight is None else out.weight
    return -jnp.minimum(out.value / each, ceiling)

  return beside_retain(
    task,
    reversed_loss,
    fit,
    forget_weight=forget_weight,
    name="clipped_reversal",
  )


def beside_retain(
  task: Any,
  forgotten: Respond,
  fit: Fit,
  *,
  forget_weight: float | jax.Array = 1.0,
  name: str = "forget",
) -> Transform:
  """A phase of the task's loss on retain rows and another one on forget rows.

  Args:
    task: what was trained, see `retrain`.
    forgotten: `(variables, step, key) -> [B]`, read on forget rows.
    fit: how; its rows are of each kind.
    forget_weight: >= 0; may be traced.
    name: of the phase.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> size = lambda variables, step, key: (
    ...   problem.model.predict(variables, step.rows["x"]) ** 2).mean(axis=1)
    >>> unlearn = ju.identity.beside_retain(
    ...   problem.model, size, ju.Fit(optax.adam(0.05), 40, 16), name="quiet")
    >>> made, _ = jax.jit(unlearn)(*problem.arguments)
    >>> logits = problem.model.predict(made, problem.data["x"])
    >>> [round(float(abs(logits[rows]).mean()))
    ...  for rows in (problem.request, ~problem.request)]
    [0, 4]
  """
  fit, task = as_fit(fit, {}), as_task(task)
  checks.non_negative(forget_weight=forget_weight)
  plain = supervised(task, train=True)

  def objective(variables: Variables, step: Step, key: jax.Array) -> Losses:
    seen = jnp.where(step.forget, 0.0, step.weight)
    kept = plain(variables, step._replace(weight=seen), derive(key, "retain"))
    gone = forgotten(variables, step, derive(key, "forget"))
    each = 1.0 if kept.weight is None else kept.weight
    return kept._replace(value=jnp.where(step.forget, gone * each, kept.value))

  return prepared(
    task,
    phase(
      objective,
      fit,
      draw=Draw(forget=fit.batch_size, retain=fit.batch_size),
      forget_weight=forget_weight,
      name=name,
    ),
  )
