"""The baselines of one phase: retrain, fine-tune, l1-sparse, ascent, NegGrad+.

Each takes a `Task`, or a model of any room.
Class: `retrain` is exact; the others are heuristic, without guarantee.
Model state: `retrain` starts it anew and the others move it, as in training.
Published code of the ascending methods lets the statistics drift to forget rows
too; `train_mode=False` freezes them, as the small-scale notebook of NegGrad+
does.
Sources: the recipes of Golatkar et al. (2020), arXiv:1911.04933; Graves et al.
(2021), AAAI; Kurmanji et al. (2023), arXiv:2302.09880 (NegGrad+); Jia et al. (2023),
arXiv:2304.04934 (l1-sparse; its schedule counts epochs, here steps).
"""

from __future__ import annotations

from typing import Any, Unpack

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import edit
from jaxunlearn.core.phase import phase, supervised
from jaxunlearn.core.tasks import Fit, FitFields, Task, as_fit, as_task
from jaxunlearn.core.training import fitting, init_variables, prepared
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import ALL, Draw, Losses, Step, Variables


def retrain(
  task: Task | Any,
  fit: Fit | None = None,
  *,
  train_mode: bool = True,
  **fields: Unpack[FitFields],
) -> Transform:
  """Trains from scratch on the retain set: the gold standard.

  The original params are not read. With an empty request and the key of the
  original training it gives back the original's bits; see `train`.

  Args:
    task: what to train.
    fit: the recipe of the original training.
    train_mode: dropout active and BatchNorm's statistics moving.
    **fields: the fields of `Fit` by keyword, instead of one or to change it.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.retrain(
    ...   problem.model, ju.Fit(optax.adam(0.05), num_steps=40, batch_size=16))
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 1.0)
  """
  fit, task = as_fit(fit, fields), as_task(task)
  fresh = edit(
    lambda variables, data, request, key: init_variables(
      task, data, key, like=variables
    ),
    reads="shapes",
    name="init",
  )
  return chain(fresh, fitting(task, fit, train_mode=train_mode), name="retrain")


def finetune(
  task: Task | Any,
  fit: Fit | None = None,
  *,
  train_mode: bool = True,
  **fields: Unpack[FitFields],
) -> Transform:
  """Goes on training on the retain set and hopes for catastrophic forgetting.

  Never reads a forget row. With `num_steps=0` it is the identity.

  Args:
    task: what was trained.
    fit: how; the optimiser starts fresh.
    train_mode: dropout active and BatchNorm's statistics moving.
    **fields: see `retrain`.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.finetune(
    ...   problem.model, ju.Fit(optax.adam(0.05), num_steps=30, batch_size=16))
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 1.0)
  """
  fit = as_fit(fit, fields)
  return fitting(task, fit, train_mode=train_mode, name="finetune")


def l1_sparse(
  task: Task | Any,
  fit: Fit | None = None,
  *,
  penalty: float | jax.Array = 5e-4,
  plain_steps: int = 0,
  train_mode: bool = True,
  **fields: Unpack[FitFields],
) -> Transform:
  """Fine-tuning that makes the params sparse on the way.

  Minimises the retain loss plus a_t ||params||_1 with the coefficient a_t =
  penalty * max(0, 1 - t / (num_steps - plain_steps)) at step t.

  Never reads a forget row.

  Args:
    task: what was trained.
    fit: how; the optimiser starts fresh.
    penalty: a_0 >= 0; 0 is `finetune`. May be traced.
    plain_steps: the last steps, without penalty.
    train_mode: dropout active and BatchNorm's statistics moving.
    **fields: see `retrain`.

  Raises:
    ValueError: penalty < 0, plain_steps outside 0 .. num_steps.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.l1_sparse(
    ...   problem.model, ju.Fit(optax.adam(0.05), num_steps=30, batch_size=16))
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 1.0)
  """
  fit, task = as_fit(fit, fields), as_task(task)
  checks.non_negative(penalty=penalty)
  if not 0 <= plain_steps <= fit.num_steps:
    raise ValueError(
      f"Expected plain_steps in 0 .. {fit.num_steps}, got {plain_steps}."
    )
  plain = supervised(task, train=train_mode)
  sparse_steps = max(fit.num_steps - plain_steps, 1)

  def objective(variables: Variables, step: Step, key: jax.Array) -> Losses:
    out = plain(variables, step, key)
    norm = sum(
      jnp.abs(leaf.astype(jnp.promote_types(jnp.float32, leaf.dtype))).sum()
      for leaf in jax.tree.leaves(variables.params)
    )
    left = jnp.maximum(1.0 - step.index / sparse_steps, 0.0)
    # On every row alike, so that the mean over rows leaves it as it is.
    each = 1.0 if out.weight is None else out.weight
    return out._replace(value=out.value + penalty * left * norm * each)

  draw = Draw(retain=fit.batch_size)
  return prepared(task, phase(objective, fit, draw=draw, name="l1_sparse"))


def gradient_ascent(
  task: Task | Any,
  fit: Fit | None = None,
  *,
  loss_ceiling: float | None = None,
  train_mode: bool = True,
  **fields: Unpack[FitFields],
) -> Transform:
  """Maximises the loss on the forget set (NegGrad).

  The objective has no bound: a few steps too many destroy the model, and
  `info.is_finite` says whether they did.

  Args:
    task: what was trained.
    fit: of the ascent, a few steps on forget rows; its optimiser is given the
      negated gradient.
    loss_ceiling: nats; a row whose loss is above stops ascending. None: none.
    train_mode: dropout active and BatchNorm's statistics moving, as released.
    **fields: see `retrain`.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.gradient_ascent(
    ...   problem.model, ju.Fit(optax.sgd(0.05), num_steps=5, batch_size=16))
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 0.9)
  """
  fit, task = as_fit(fit, fields), as_task(task)
  plain = supervised(task, train=train_mode)

  def objective(variables: Variables, step: Step, key: jax.Array) -> Losses:
    out = plain(variables, step, key)
    if loss_ceiling is None:
      return out
    each = 1.0 if out.weight is None else out.weight
    return out._replace(value=jnp.minimum(out.value, loss_ceiling * each))

  ascent = phase(
    objective,
    fit,
    draw=Draw(forget=fit.batch_size),
    forget_weight=-1.0,
    name="gradient_ascent",
  )
  return prepared(task, ascent)


def neggrad_plus(
  task: Task | Any,
  fit: Fit | None = None,
  *,
  forget_batch_size: int | None = None,
  retain_batch_size: int | None = None,
  retain_share: float | jax.Array = 0.95,
  train_mode: bool = True,
  **fields: Unpack[FitFields],
) -> Transform:
  """Descends on the retain set and ascends on the forget set at once.

  Minimises `share * mean loss(retain) - (1 - share) * mean loss(forget)`.

  Args:
    task: what was trained.
    fit: how; its batch size holds for either kind of rows.
    forget_batch_size: forget rows per step, if not as many.
    retain_batch_size: retain rows per step, likewise.
    retain_share: the weight of the retain rows in [0, 1]; 1 is fine-tuning, 0
      gradient ascent; near 1 for a stable run. May be traced.
    train_mode: dropout active and BatchNorm's statistics moving, over both
      kinds of rows as one batch.
    **fields: see `retrain`.

  Raises:
    ValueError: retain_share outside [0, 1].

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.neggrad_plus(
    ...   problem.model, ju.Fit(optax.adam(0.02), num_steps=20, batch_size=16),
    ...   retain_share=0.7)
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.0, 1.0)
  """
  fit, task = as_fit(fit, fields), as_task(task)
  checks.fraction(retain_share=retain_share)
  for size in (forget_batch_size, retain_batch_size):
    if size is not None and size != ALL:
      checks.count(1, batch_size=size)
  both = phase(
    supervised(task, train=train_mode),
    fit,
    draw=Draw(
      fit.batch_size if forget_batch_size is None else forget_batch_size,
      fit.batch_size if retain_batch_size is None else retain_batch_size,
    ),
    forget_weight=-(1.0 - retain_share),
    retain_weight=retain_share,
    name="neggrad_plus",
  )
  return prepared(task, both)
