"""Blindspot: imitate, on the forget set, a model that has never seen it.

Source: Tarun, Chundawat, Mandal and Kankanhalli (2023), "Deep Regression
Unlearning", arXiv:2210.08196. Its other method is `gaussian_amnesiac`.
Class: heuristic. Data access: forget rows without their targets; retain rows.
Model state: `train_mode` moves it, from all drawn rows as published; the
blindspot model's own moves in its training, from retain rows, and is then
frozen.
Cost: the gradients of both fits, and in the second one forward of the blindspot
model and (with attention) one more of both for their activations. More blind
steps bring the blindspot model nearer to retraining,
which they are when there are as many as retraining has.
Differences from the released code: activations are the student's in evaluation
mode, without dropout; the energy of a map is averaged over the last axis, here
the channels (that code averages a recurrent layer over TIME; transpose in
`Model.features` for that); vectors keep a position for each unit (there they
average to the number 1 and count for nothing). Its batch fraction, which weighs
the two kinds of rows, is exactly the mean over rows that is taken here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn import losses
from jaxunlearn.core import checks, sampling
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.legacy import old_fits
from jaxunlearn.core.links import provide
from jaxunlearn.core.phase import phase, supervised
from jaxunlearn.core.tasks import Fit, Model, apply_rows, as_fit
from jaxunlearn.core.training import init_variables
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, Losses, Slot, Step, Variables
from jaxunlearn.losses import regression

TEACHER = Fit(optax.adam(0.01), 200)
STUDENT = Fit(optax.adam(1e-3), 100)


@old_fits(
  fit=("optimizer", "num_steps", "batch_size"),
  blind_fit=("blind_optimizer", "blind_steps", "batch_size"),
)
def blindspot(
  model: Model,
  fit: Fit = STUDENT,
  *,
  blind_fit: Fit = TEACHER,
  blind: Variables | None = None,
  output_loss: str = "l1",
  attention: float | jax.Array = 50.0,
  attention_features: Sequence[str] | None = None,
  train_mode: bool = True,
) -> Transform:
  """Trains a fresh model briefly on retain rows and imitates it on the others.

  The blindspot model knows the task and has never seen the forget set. With u
  the request, y the target, o and b the outputs of student and blindspot model,
  the student, which starts at the original model, then minimises the mean over
  rows of both kinds, in their natural proportion, of

      u (loss(o, b) + attention * sum_l mean_p (a_l - a'_l)^2) + (1 - u) task(o, y)

  where a_l, a'_l are the attention maps of layer l (`losses.attention_map`) and
  `task` is the model's own loss.

  Args:
    model: a regression model; its rows have float targets under "label". With
      features, unless attention is a plain 0.
    fit: of the student, on rows of both kinds.
    blind_fit: of the blindspot model, on retain rows; at least one step.
    blind: a blindspot model that was trained before, in its place. It must never
      have seen the rows of THIS request.
    output_loss: "l1" or "l2", between outputs on forget rows; take the model's.
    attention: beta >= 0. May be traced; a plain 0 reads no features. 50 belongs
      to targets of the order of 10 to 100 and `output_loss` "l1": divide it by
      as much as the targets are smaller.
    attention_features: the layers by name; all in `Model.features` by default.
    train_mode: static; in both parts, dropout active and BatchNorm's statistics
      moving, as released. The blindspot model teaches in evaluation mode.

  Returns:
    A `Transform` with infos "blind" (not with a given one) and "unlearn". Under
    jit, where requests cannot be looked at, an empty one is plain fine-tuning on
    all rows, a full one imitates an untrained network.

  Raises:
    ValueError: an option outside its range; attention without features, or with
      names that they lack; targets that are no floats, such as classes;
      (concrete values) targets of retain rows that are not finite; a soft
      request; a given blindspot model of another structure.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.regression()
    >>> recipe = ju.Fit(optax.adam(0.1), num_steps=40, batch_size=20)
    >>> unlearn = ju.methods.blindspot(
    ...   problem.model, recipe, blind_fit=recipe, attention=0.0)
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> sorted(info), info["unlearn"].loss.shape
    (['blind', 'unlearn'], (40,))
  """
  fit, blind_fit = as_fit(fit, {}), as_fit(blind_fit, {})
  checks.one_of(regression.KINDS, output_loss=output_loss)
  checks.non_negative(attention=attention)
  checks.count(1, blind_steps=blind_fit.num_steps)
  with_maps = not (isinstance(attention, int | float) and attention == 0)
  if with_maps and model.features is None:
    raise ValueError(
      "Expected a model with features for attention > 0, got "
      "model.features=None; pass attention=0 to match outputs only."
    )

  taught: Slot[Variables] = Slot("blindspot")

  def start(carry, data, request, key):
    if data is not None:  # A stream may do without.
      checks.hard_request(request.forget)
      regression.check_targets(data, request.retain)
    if blind is None:
      return init_variables(model, data, key, like=carry.variables)
    checks.same_structure(blind, carry.variables, "blind")
    return blind

  def objective(variables: Variables, step: Step, key: jax.Array) -> Losses:
    regression.check_targets(step.rows)
    teacher, x = step[taught], step.rows["x"]
    outputs, state = apply_rows(model, variables, step, key, train=train_mode)
    # What is to be forgotten has no target here, not even a bad one.
    label = sampling.blank_rows(
      step.rows["label"], (~step.forget).astype(jnp.float32)
    )
    task = model.loss(outputs, {**step.rows, "label": label})
    maps = [
      _maps(model, v, x, attention_features) if with_maps else {}
      for v in (variables, teacher)
    ]
    value = blindspot_loss(
      outputs,
      model.predict(teacher, x),
      task,
      step.forget,
      *maps,
      attention=attention,
      output_loss=output_loss,
    )
    return Losses(value, None, state)

  links = [
    provide(taught, start, reads="shapes" if blind is None else "nothing")
  ]
  if blind is None:
    # In a slot, so that no weight mask of the student's holds it.
    own = supervised(model, train=train_mode)
    draw = Draw(retain=blind_fit.batch_size)
    links += [phase(own, blind_fit, draw=draw, on=taught, name="blind")]
  draw = Draw(mixed=fit.batch_size)
  links += [phase(objective, fit, draw=draw, name="unlearn")]
  return chain(*links, name="blindspot")


def blindspot_loss(
  outputs: jax.Array,
  blind_outputs: jax.Array,
  task_losses: jax.Array,
  forget: jax.Array,
  maps: Mapping[str, jax.Array],
  blind_maps: Mapping[str, jax.Array],
  *,
  attention: float | jax.Array,
  output_loss: str = "l1",
) -> jax.Array:
  """The loss of each row; its mean is the released code's weighted sum.

  Args:
    outputs: float [B, ...], the student's.
    blind_outputs: the same of the blindspot model; constant.
    task_losses: [B], the model's own loss against the targets.
    forget: bool [B].
    maps: by layer, the student's attention maps [B, P].
    blind_maps: the same of the blindspot model; constant.
    attention: beta.
    output_loss: "l1" or "l2".

  Returns:
    [B], in at least float32. Forget rows do not read `task_losses`, others
    nothing of the blindspot model.

  Raises:
    ValueError: shapes differ, layers differ, unknown loss.
  """
  if maps.keys() != blind_maps.keys():
    raise ValueError(
      f"Expected blind_maps of the layers {sorted(maps)}, got "
      f"{sorted(blind_maps)}."
    )
  # Blank where it is not read: a nan there would reach the gradient.
  blind_outputs, blind_maps = sampling.blank_rows(
    jax.lax.stop_gradient((blind_outputs, dict(blind_maps))),
    forget.astype(jnp.float32),
  )
  imitation = regression.error_of(output_loss)(outputs, blind_outputs)
  for name in maps:
    gap = losses.attention_difference(maps[name], blind_maps[name])
    imitation = imitation + attention * gap
  return jnp.where(forget, imitation, task_losses)


def _maps(
  model: Model,
  variables: Variables,
  x: Any,
  names: Sequence[str] | None,
) -> dict[str, jax.Array]:
  if model.features is None:
    return {}
  found = model.features(variables, x)
  chosen = tuple(found) if names is None else tuple(names)
  for name in chosen:
    if name not in found:
      raise ValueError(
        f"Expected attention_features among {sorted(found)}, got {name!r}."
      )
  return {name: losses.attention_map(found[name]) for name in chosen}
