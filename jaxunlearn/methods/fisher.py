"""Fisher forgetting: noise on each weight by how little the retain set needs it.

Source: Golatkar, Achille and Soatto (2020), arXiv:1911.04933, as released.
Class: heuristic; a one-shot edit. Model state: not touched.
Cost: K backward passes per retain row (K classes), the exact expectation of the
squared gradient over the model's own labels.
Difference from the source: the theory gives noise in proportion to F^-1/4; the
released code, followed here, uses a standard deviation of F^-1/2.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks, per_example, trees
from jaxunlearn.core.links import edit
from jaxunlearn.core.tasks import Task, as_task
from jaxunlearn.core.training import prepared
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import ALL, Draw, PyTree, Request, Variables
from jaxunlearn.methods._classes import class_labels

_CAP = 1e3  # Variance bounds of the released code, before `noise_scale`.
_OUTPUT_CAP = 1e2
_FORGOTTEN_CLASS_VARIANCE = 1e-4
_BUDGET = 2**28  # Bytes of gradients at a time, about.
_BOOST = 10.0  # The extra factor on the output layer and on vectors.


def diagonal_fisher(
  task: Task | Any,
  variables: Variables,
  data: PyTree,
  weights: jax.Array,
  *,
  chunk_size: int | None = None,
) -> PyTree:
  """The diagonal Fisher information of a classifier, in evaluation mode.

  F = mean over rows of sum_y p(y|x) (d/dparams log p(y|x))^2.

  Args:
    task: a classifier: a `Task` that predicts, or a model that has one.
    variables: its variables.
    data: pytree of arrays [N, ...].
    weights: bool or float [N], the rows that count.
    chunk_size: static; rows at a time; memory holds K * chunk_size gradients.
      None: 1 to 32, as many as fit into 256 MB.

  Returns:
    Pytree like the params, float32, non-negative; zeros for no rows.
  """

  predict = as_task(task).predict
  if predict is None:
    raise ValueError(
      "Expected a Task that predicts, got one without `predict`."
    )

  if chunk_size is None:
    outputs = jax.eval_shape(predict, variables, data["x"]).shape[-1]
    size = sum(leaf.size for leaf in jax.tree.leaves(variables.params))
    chunk_size = min(32, max(1, _BUDGET // (4 * outputs * max(size, 1))))

  def one_row(row: PyTree) -> PyTree:
    def log_probs(params: PyTree) -> jax.Array:
      inputs = jax.tree.map(lambda x: x[None], row["x"])
      logits = predict(variables._replace(params=params), inputs)[0]
      return jax.nn.log_softmax(logits.astype(jnp.float32))

    value = log_probs(variables.params)
    jacobian = jax.jacrev(log_probs)(variables.params)
    return jax.tree.map(
      lambda j: jnp.tensordot(
        jnp.exp(value), jnp.square(j.astype(jnp.float32)), axes=1
      ),
      jacobian,
    )

  total = per_example.sum_rows(one_row, data, weights, chunk_size=chunk_size)
  count = jnp.maximum(weights.astype(jnp.float32).sum(), 1.0)
  return jax.tree.map(lambda t: t / count, total)


def fisher_forgetting(
  task: Task | Any,
  *,
  num_classes: int,
  noise_scale: float | jax.Array = 1e-6,
  chunk_size: int | None = None,
) -> Transform:
  """Adds Gaussian noise of variance `noise_scale / F`, F over the retain set.

  Bounds and exceptions are those of the released code: the variance is capped,
  averaged over a kernel's input axis, and ten times larger on vectors and on the
  output layer; where a whole class goes, its column of the output layer is
  replaced by noise around zero.

  Args:
    task: as of `diagonal_fisher`, with integer labels under "label".
    num_classes: K.
    noise_scale: the published search is 1e-8 .. 1e-5; 0 adds no noise (and
      leaves all but the output columns of whole forgotten classes alone). May
      be traced.
    chunk_size: see `diagonal_fisher`.

  Raises:
    ValueError: an option outside its range; from the call, labels that are not
      int [N] or (concrete values) out of range.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.fisher_forgetting(
    ...   problem.model, num_classes=4, noise_scale=1e-6)
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.1, 1.0)
  """
  checks.non_negative(noise_scale=noise_scale)
  checks.count(1, num_classes=num_classes)
  if chunk_size is not None:
    checks.count(1, chunk_size=chunk_size)
  task = as_task(task)

  def apply_noise(variables, data, request, key):
    gone = whole_classes(class_labels(data, num_classes), request, num_classes)
    fisher = diagonal_fisher(
      task, variables, data, request.retain, chunk_size=chunk_size
    )
    output = trees.last_layers(task, variables, data["x"], 1)
    leaves, treedef = jax.tree.flatten(variables.params)
    keys = jax.random.split(key, len(leaves))
    noisy = [
      _perturb(*leaf, gone, noise_scale)
      for leaf in zip(
        leaves, jax.tree.leaves(fisher), jax.tree.leaves(output), keys
      )
    ]
    return variables._replace(params=jax.tree.unflatten(treedef, noisy))

  noise = edit(apply_noise, needs=Draw(retain=ALL), name="fisher_forgetting")
  return prepared(task, noise, after=True)


def whole_classes(
  label: jax.Array, request: Request, num_classes: int
) -> jax.Array:
  """Classes with rows to forget and none to retain; bool [num_classes]."""
  rows = lambda mask: (
    jnp.zeros(num_classes, bool)
    .at[jnp.where(mask > 0, label, num_classes)]
    .set(True, mode="drop")
  )
  return rows(request.forget) & ~rows(request.retain)


def _perturb(
  mean: jax.Array,
  fisher: jax.Array,
  output_mask: jax.Array,
  key: jax.Array,
  gone: jax.Array,
  noise_scale: float | jax.Array,
) -> jax.Array:
  """One leaf's draw; kernels are [..., in, out], the last axis the outputs."""
  classes = gone.shape[0]
  has_classes = mean.ndim > 0 and mean.shape[-1] == classes
  is_output = output_mask.all() & has_classes
  cap = jnp.where(is_output, _OUTPUT_CAP, _CAP)
  variance = noise_scale * jnp.minimum(1.0 / (fisher + 1e-8), cap)
  if mean.ndim > 1:
    variance = variance.mean(axis=-2, keepdims=True)
  variance = jnp.broadcast_to(variance, mean.shape)
  if has_classes:
    column = (is_output & gone).reshape((1,) * (mean.ndim - 1) + (classes,))
    mean = jnp.where(column, jnp.zeros((), mean.dtype), mean)
    variance = jnp.where(column, _FORGOTTEN_CLASS_VARIANCE, variance)
  boost = jnp.where(is_output | (mean.ndim <= 1), _BOOST, 1.0)
  noise = jax.random.normal(key, mean.shape) * jnp.sqrt(boost * variance)
  return mean + noise.astype(mean.dtype)
