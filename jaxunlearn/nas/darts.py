"""DARTS: an architecture by gradient descent, beside the weights.

Source: Liu et al. (2019), arXiv:1806.09055, and its released code.
Class: heuristic where it goes on, on retain rows, from what was searched on all
rows; `nas.emonas` starts anew. Model state: none.
Difference from the released code: the second-order gradient is by
differentiating through the inner step (there by finite differences), which has
neither momentum nor weight decay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.keys import derive
from jaxunlearn.core.phase import phase, supervised
from jaxunlearn.core.rounds import alternate
from jaxunlearn.core.tasks import Fit, Model
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, PyTree, Step, Variables
from jaxunlearn.losses import cross_entropy
from jaxunlearn.nas import supernet
from jaxunlearn.nas.architecture import expected_cost, mixture
from jaxunlearn.nas.supernet import Space, operation_costs

# The released code's, for the architecture; for weights there is `weights_sgd`.
ARCHITECTURE = optax.chain(
  optax.add_decayed_weights(1e-3), optax.adam(3e-4, b1=0.5)
)
# `(weights, architecture) -> []`.
Loss = Callable[[PyTree, PyTree], jax.Array]


def weights_sgd(num_steps: int, rate: float = 0.025) -> Any:
  """The released code's optimiser of weights.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import nas
    >>> optimizer = nas.weights_sgd(num_steps=100, rate=0.1)
    >>> weights = {"w": jnp.zeros(1)}
    >>> updates, _ = optimizer.update(
    ...   {"w": jnp.full(1, 50.0)}, optimizer.init(weights), weights)
    >>> updates["w"].round(3).item()  # The gradient is cut to 5.
    -0.5
  """
  return optax.chain(
    optax.clip_by_global_norm(5.0),
    optax.add_decayed_weights(3e-4),
    optax.sgd(optax.cosine_decay_schedule(rate, num_steps, 0.04), momentum=0.9),
  )


def unrolled(
  train_loss: Loss,
  validation_loss: Loss,
  weights: PyTree,
  architecture: PyTree,
  inner_rate: float | jax.Array,
) -> jax.Array:
  """L_val(w - rate grad_w L_train(w, a), a); its gradient in a is the search's.

  Rate 0 is the first-order approximation, which costs no inner step where the
  rate is not traced.

  Example:
    >>> import jax
    >>> from jaxunlearn import nas
    >>> train = lambda w, a: 0.5 * (w - a) ** 2
    >>> validate = lambda w, a: w**2
    >>> ahead = lambda a, rate: nas.unrolled(train, validate, 3.0, a, rate)
    >>> float(ahead(1.0, 0.5))  # w = 3 - 0.5 * (3 - 1) = 2.
    4.0
    >>> slope = jax.grad(ahead)
    >>> float(slope(1.0, 0.5)), float(slope(1.0, 0.0))
    (2.0, 0.0)
  """
  if checks.is_concrete(inner_rate) and inner_rate == 0:
    return validation_loss(weights, architecture)
  slope = jax.grad(train_loss)(weights, architecture)
  moved = jax.tree.map(lambda w, g: w - inner_rate * g, weights, slope)
  return validation_loss(moved, architecture)


def search_model(space: Space) -> Model:
  """The supernet, of params "architecture" and "weights".

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import nas
    >>> space = nas.Space(num_classes=2, channels=2, nodes=1, cells=("normal",))
    >>> model, x = nas.search_model(space), jnp.ones((3, 4, 4, 1))
    >>> variables = jax.eval_shape(model.init, jax.random.key(0), x)
    >>> logits = jax.eval_shape(model.predict, variables, x)
    >>> sorted(variables.params), logits.shape
    (['architecture', 'weights'], (3, 2))
  """

  def init(key: jax.Array, x: PyTree) -> Variables:
    table = supernet.init_architecture(space, derive(key, "table"))
    weights = supernet.init_weights(space, derive(key, "weights"))
    return Variables({"architecture": table, "weights": weights})

  def apply(variables, x, *, train=False, key=None):
    gates = mixture(variables.params["architecture"])
    logits = supernet.apply(space, variables.params["weights"], gates, x)
    return logits, variables.model_state

  return Model(init, apply, lambda out, rows: cross_entropy(out, rows["label"]))


def darts(
  space: Space,
  fit: Fit,
  *,
  architecture: optax.GradientTransformation = ARCHITECTURE,
  inner_rate: float | jax.Array = 0.0,
  cost_weight: float | jax.Array = 0.0,
  costs: jax.Array | None = None,
) -> Transform:
  """Steps of the architecture and of the weights in turn, on retain rows.

  Rows whose `data["fold"]` is True validate: the architecture steps on them, the
  weights on the others. Params are those of `search_model`, and may be more.

  Args:
    space: see `Space`.
    fit: of the weights. A step of the architecture draws twice as many rows, of
      both folds.
    architecture: its optimiser.
    inner_rate: see `unrolled`; may be traced.
    cost_weight: of `expected_cost`; may be traced.
    costs: [operations]; None: the number of weights that each has.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import nas
    >>> space = nas.Space(num_classes=2, channels=2, nodes=1, cells=("normal",))
    >>> label = jnp.arange(16) % 2  # Dark and bright images.
    >>> data = {"x": jnp.ones((16, 4, 4, 1)) * label[:, None, None, None],
    ...         "label": label, "fold": jnp.arange(16) < 8}
    >>> model, key = nas.search_model(space), jax.random.key(0)
    >>> start = model.init(key, data["x"])
    >>> search = nas.darts(space, ju.Fit(nas.weights_sgd(5), 5, 4))
    >>> found, info = jax.jit(search)(start, data, jnp.arange(16) == 0, key)
    >>> {name: phase.loss.shape for name, phase in info.items()}
    {'architecture': (5, 1), 'weights': (5, 1)}
  """
  checks.non_negative(inner_rate=inner_rate, cost_weight=cost_weight)
  task = search_model(space).task
  costs = operation_costs(space) if costs is None else costs

  def upper(variables: Variables, step: Step, key: jax.Array) -> jax.Array:
    fold = step.rows["fold"]

    def mean(rows: jax.Array) -> Loss:
      weight = jnp.where(rows, step.weight, 0.0)

      def loss(weights: PyTree, table: PyTree) -> jax.Array:
        params = {**variables.params, "weights": weights, "architecture": table}
        each = task.loss(variables._replace(params=params), step, key).value
        return (each * weight).sum() / jnp.maximum(weight.sum(), 1.0)

      return loss

    table = variables.params["architecture"]
    weights = variables.params["weights"]
    value = unrolled(mean(~fold), mean(fold), weights, table, inner_rate)
    value += cost_weight * expected_cost(table, costs)
    return jnp.broadcast_to(value, fold.shape)

  one, size = fit._replace(num_steps=1), fit.batch_size
  learns = Draw(retain=size, select=lambda data, request, key: ~_fold(data))
  return alternate(
    phase(
      upper,
      one._replace(optimizer=architecture),
      draw=Draw(retain=2 * size),
      on="architecture",
      name="architecture",
    ),
    phase(
      supervised(task, train=True),
      one,
      draw=learns,
      on="weights",
      name="weights",
    ),
    rounds=fit.num_steps,
    name="darts",
  )


def _fold(data: PyTree) -> jax.Array:
  checks.columns(data, "x", "label", "fold")
  fold = data["fold"]
  if fold.dtype != jnp.bool_:
    raise ValueError(f"Expected data['fold'] of dtype bool, got {fold.dtype}.")
  if checks.is_concrete(fold) and len(np.unique(np.asarray(fold))) < 2:
    raise ValueError(
      "Expected data['fold'] to have rows of both folds, got one."
    )
  return fold
