"""Task vectors: goes the way back that training on the forget rows would go on.

Class: heuristic, without guarantee. Model state: moves while reinforcing; the
original's is kept.
Source: negated task arithmetic, Ilharco et al. (2023), arXiv:2212.04089, as MUSE
(arXiv:2407.06460) and RESTOR (arXiv:2411.00204) run it.
Data access: forget rows. Cost: a gradient of them per step; other strengths of the
same vector cost an addition, see `reversal`.
"""

from __future__ import annotations

from typing import Any, Unpack

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import adopt
from jaxunlearn.core.phase import phase, supervised
from jaxunlearn.core.tasks import Fit, FitFields, Task, as_fit, as_task
from jaxunlearn.core.transform import Carry, Transform
from jaxunlearn.core.types import Draw, PyTree, Variables


def reversal(
  original: PyTree, reinforced: PyTree, strength: float | jax.Array
) -> PyTree:
  """original - strength (reinforced - original), leaf by leaf.

  Args:
    original: pytree of arrays.
    reinforced: like it.
    strength: >= 0; 0 gives the original's bits. May be traced: `vmap` over it
      tries many of one vector.

  Raises:
    ValueError: other leaves; strength < 0.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> original, reinforced = {"w": jnp.ones(2)}, {"w": jnp.array([1.0, 1.5])}
    >>> ju.methods.reversal(original, reinforced, strength=2.0)["w"].tolist()
    [1.0, 0.0]
  """
  checks.non_negative(strength=strength)
  checks.same_structure(reinforced, original, "reinforced")

  def back(before: jax.Array, after: jax.Array) -> jax.Array:
    wide = jnp.promote_types(jnp.float32, before.dtype)
    step = after.astype(wide) - before.astype(wide)
    return (before.astype(wide) - strength * step).astype(before.dtype)

  return jax.tree.map(back, original, reinforced)


def reinforce(
  task: Task | Any, fit: Fit, *, train_mode: bool = True
) -> Transform:
  """A phase that trains on the forget rows, further than the original did."""
  objective = supervised(as_task(task), train=train_mode)
  draw = Draw(forget=fit.batch_size)
  return phase(objective, fit, draw=draw, name="reinforce")


def task_vector(
  task: Task | Any,
  fit: Fit | None = None,
  *,
  strength: float | jax.Array = 1.0,
  train_mode: bool = True,
  **fields: Unpack[FitFields],
) -> Transform:
  """Trains on the forget rows, and goes as far to the other side.

  Args:
    task: what was trained.
    fit: of the reinforcing; published: as in training, 10 epochs of MUSE.
    strength: alpha >= 0; MUSE tries up to 16. May be traced.
    train_mode: dropout active and BatchNorm's statistics moving.
    **fields: the fields of `Fit` by keyword.

  Raises:
    ValueError: strength < 0.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.task_vector(
    ...   problem.model, ju.Fit(optax.adam(0.05), num_steps=10, batch_size=15))
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 0.9)
  """
  fit = as_fit(fit, fields)
  checks.non_negative(strength=strength)

  def back(carry: Carry, *_: Any) -> Variables:
    before, after = carry.original, carry.variables
    params = reversal(before.params, after.params, strength)
    return before._replace(params=params)

  reinforcing = reinforce(task, fit, train_mode=train_mode)
  return chain(reinforcing, adopt(back, name="reverse"), name="task_vector")
