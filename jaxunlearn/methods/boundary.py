"""Boundary unlearning: moves the decision boundary over the forget set.

Source: Chen et al. (2023), arXiv:2303.11570, as carried by the code of SalUn.
Class: heuristic. Data access: forget rows with labels only. Model state: moves
to the forget set, as in that code; `train_mode=False` freezes it. Cost per step:
shrinking, one gradient, and of the original one gradient by the input and one
forward pass; expanding, one gradient.
Difference from the source: the neighbouring class is found anew at each step
(the original is frozen, so it is always the same), and inputs are not clipped
after the step towards it unless a range is given.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Unpack

import jax
import jax.numpy as jnp

from jaxunlearn import losses
from jaxunlearn.core import checks, trees
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import provide
from jaxunlearn.core.phase import phase, supervised
from jaxunlearn.core.tasks import Fit, FitFields, Model, apply_rows, as_fit
from jaxunlearn.core.transform import Carry, Env, Transform
from jaxunlearn.core.types import Draw, Losses, PyTree, Slot, Step, Variables
from jaxunlearn.methods._classes import class_labels


def boundary_shrink(
  model: Model,
  fit: Fit | None = None,
  *,
  radius: float | jax.Array = 0.1,
  exclude_true: bool = False,
  input_range: tuple[float, float] | None = None,
  train_mode: bool = True,
  **fields: Unpack[FitFields],
) -> Transform:
  """Fits each forget row to the class next to it.

  That class is what the original model says of x + radius * sign(d loss / d x),
  one step of FGSM uphill.

  Args:
    model: a classifier of one array of floats, labels under "label".
    fit: how, a few steps on forget rows.
    radius: of the step, in units of the input; 0 gives the class that the
      original predicts. May be traced.
    exclude_true: the most likely wrong class, also where the step does not
      cross a boundary; False fits such rows to their true class, as released.
    input_range: what the perturbed input is clipped to, as images are; None
      does not clip.
    train_mode: dropout active and BatchNorm's statistics moving.
    **fields: the fields of `Fit` by keyword, instead of one or to change it.

  Raises:
    ValueError: radius < 0; from the call, inputs that are no floats, labels
      that are not int [N].

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.boundary_shrink(
    ...   problem.model, ju.Fit(optax.adam(0.02), num_steps=10, batch_size=15),
    ...   exclude_true=True)
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 0.8)
  """
  fit = as_fit(fit, fields)
  checks.non_negative(radius=radius)
  plain = supervised(model, train=train_mode)

  def neighbour(original: Variables, rows: PyTree) -> jax.Array:
    def total(x: jax.Array) -> jax.Array:
      return model.loss(model.predict(original, x), {**rows, "x": x}).sum()

    if not jnp.issubdtype(rows["x"].dtype, jnp.floating):
      raise ValueError(
        "Expected data['x'] of a float dtype, since inputs are moved, got "
        f"{rows['x'].dtype}."
      )
    x = rows["x"] + radius * jnp.sign(jax.grad(total)(rows["x"]))
    x = x.astype(rows["x"].dtype)
    if input_range is not None:
      x = jnp.clip(x, *input_range)
    logits = model.predict(original, x)
    label = class_labels(rows, logits.shape[-1])
    if exclude_true:
      true = jax.nn.one_hot(label, logits.shape[-1], dtype=bool)
      logits = jnp.where(true, -jnp.inf, logits)
    return logits.argmax(axis=-1).astype(label.dtype)

  def objective(variables: Variables, step: Step, key: jax.Array) -> Losses:
    rows = {**step.rows, "label": neighbour(step.original, step.rows)}
    return plain(variables, step._replace(rows=rows), key)

  draw = Draw(forget=fit.batch_size)
  return phase(objective, fit, draw=draw, name="boundary_shrink")


def boundary_expand(
  model: Model,
  fit: Fit | None = None,
  *,
  train_mode: bool = True,
  **fields: Unpack[FitFields],
) -> Transform:
  """Fits the forget set to a class of its own, which is then taken away.

  For the time of the phase the model has one output more: a unit beside those of
  the last layer, drawn at random at the scale of its neighbours, that learns
  along with the params.

  Args:
    model: a classifier whose last layer holds its outputs in the last axis of
      its parameters (kernels [..., C], biases [C]).
    fit: how, a few steps on forget rows.
    train_mode: dropout active and BatchNorm's statistics moving.
    **fields: the fields of `Fit` by keyword, instead of one or to change it.

  Returns:
    A `Transform`; the unlearned model has C outputs again.

  Raises:
    ValueError: when called, if the last layer has no kernel [..., C].

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.boundary_expand(
    ...   problem.model, ju.Fit(optax.adam(0.02), num_steps=20, batch_size=15))
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 0.9)
  """

  fit = as_fit(fit, fields)
  unit: Slot[PyTree] = Slot("unit")

  def objective(expanded: Variables, step: Step, key: jax.Array) -> Losses:
    params, weights = expanded.params
    run = lambda p: apply_rows(
      model, expanded._replace(params=p), step, key, train=train_mode
    )
    logits, state = run(params)
    # The unit's output is that of the first one, had it the unit's weights. The
    # compiler merges all that the two passes have in common.
    extra = run(_with_unit(params, weights))[0][..., :1]
    wide = jnp.concatenate([logits, extra], axis=-1)
    last = jnp.full(step.row_id.shape, logits.shape[-1], jnp.int32)
    return Losses(losses.cross_entropy(wide, last), None, state)

  expand = phase(
    objective, fit, draw=Draw(forget=fit.batch_size), name="expand"
  )
  draw_unit = provide(
    unit,
    lambda carry, data, request, key: _new_unit(
      model, carry.variables, data["x"], key
    ),
    reads="shapes",
  )
  return chain(draw_unit, _beside(unit, expand), name="boundary_expand")


def _beside(slot: Slot[PyTree], link: Transform) -> Transform:
  """The phase with the params (params, carry[slot]) in place of the params.

  What a weight mask says of the params goes on holding; the rest moves freely.
  """

  def widen(carry: Carry) -> Carry:
    variables = carry.variables
    both = (variables.params, carry[slot])
    return carry._replace(variables=variables._replace(params=both))

  def narrow(carry: Carry) -> Carry:
    params, entry = carry.variables.params
    variables = carry.variables._replace(params=params)
    return carry._replace(variables=variables).put(slot, entry)

  def widen_env(env: Env) -> Env:
    masks = tuple((mask, True) for mask in env.weight_masks)
    return env._replace(weight_masks=masks)

  def run(carry, data, request, key, env):
    carry, info = link.run(widen(carry), data, request, key, widen_env(env))
    return narrow(carry), info

  wide = dataclasses.replace(
    link,
    run=run,
    init=lambda carry, key, env: link.init(widen(carry), key, env),
    step=lambda state, batch, key, env: link.step(
      state, batch, key, widen_env(env)
    ),
    finish=lambda state: narrow(link.finish(state)),
    expand=lambda key: [(wide, key)],
  )
  return wide


def _new_unit(
  model: Model, variables: Variables, inputs: PyTree, key: jax.Array
) -> dict[str, Any]:
  """Weights of one more output, by the paths of the leaves they belong to."""
  outputs = jax.eval_shape(model.predict, variables, inputs)
  num_classes = outputs.shape[-1]
  last = trees.layers(model, variables, inputs)[-1]
  flat = dict(jax.tree_util.tree_leaves_with_path(variables.params))
  leaves = {
    path: flat[path]
    for path in last
    if flat[path].ndim and flat[path].shape[-1] == num_classes
  }
  if not any(leaf.ndim > 1 for leaf in leaves.values()):
    shapes = [flat[path].shape for path in last]
    raise ValueError(
      f"Expected a last layer with a kernel [..., {num_classes}], one column "
      f"per output, got parameters of shapes {shapes}."
    )

  def column(leaf: jax.Array, leaf_key: jax.Array) -> jax.Array:
    shape = (*leaf.shape[:-1], 1)
    if leaf.ndim == 1:
      return jnp.zeros(shape, leaf.dtype)
    scale = jnp.sqrt(jnp.mean(jnp.square(leaf.astype(jnp.float32))))
    return (scale * jax.random.normal(leaf_key, shape)).astype(leaf.dtype)

  keys = jax.random.split(key, len(leaves))
  return {
    jax.tree_util.keystr(path): column(leaf, k)
    for (path, leaf), k in zip(leaves.items(), keys)
  }


def _with_unit(params: PyTree, unit: dict[str, Any]) -> PyTree:
  """The params with the unit in the place of the first output."""

  def place(path: Any, leaf: jax.Array) -> jax.Array:
    new = unit.get(jax.tree_util.keystr(path))
    return leaf if new is None else jnp.concatenate([new, leaf[..., 1:]], -1)

  return jax.tree_util.tree_map_with_path(place, params)
