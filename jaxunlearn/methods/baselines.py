"""The baselines of one phase: retrain, fine-tune, l1-sparse, ascent, NegGrad+.

Class: `retrain` is exact; the others are heuristic, without guarantee.
Model state: `retrain` starts it anew, `finetune` and `l1_sparse` update it, from
retain rows; the ascending methods leave it frozen unless `train_mode` is set.
Sources: the recipes of Golatkar et al. (2020), arXiv:1911.04933; Graves et al.
(2021), AAAI; Kurmanji et al. (2023), arXiv:2302.09880 (NegGrad+); Jia et al. (2023),
arXiv:2304.04934 (l1-sparse; its schedule counts epochs, here steps).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain, edit
from jaxunlearn.core.phase import phase, supervised
from jaxunlearn.core.training import fitting, init_variables
from jaxunlearn.core.types import Draw, Model, Transform


def retrain(
  model: Model,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  train_mode: bool = True,
) -> Transform:
  """Trains from scratch on the retain set: the gold standard.

  The original params are not read. With an empty request and the key of the
  original training it gives back the original's bits; see `core.training.train`.

  Args:
    model: the model.
    optimizer: that of the original training.
    num_steps: that of the original training.
    batch_size: that of the original training.
    train_mode: dropout active and BatchNorm's statistics moving.
  """
  fresh = edit(
    lambda variables, data, forget_mask, key: init_variables(
      model, data, key, like=variables
    ),
    reads="shapes",
    name="init",
  )
  fit = fitting(
    model,
    optimizer=optimizer,
    num_steps=num_steps,
    batch_size=batch_size,
    train_mode=train_mode,
  )
  return chain(fresh, fit, name="retrain")


def finetune(
  model: Model,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  train_mode: bool = True,
) -> Transform:
  """Goes on training on the retain set and hopes for catastrophic forgetting.

  Never reads a forget row. With `num_steps=0` it is the identity.

  Args:
    model: the model.
    optimizer: starts fresh.
    num_steps: steps.
    batch_size: retain rows a step.
    train_mode: dropout active and BatchNorm's statistics moving.
  """
  return fitting(
    model,
    optimizer=optimizer,
    num_steps=num_steps,
    batch_size=batch_size,
    train_mode=train_mode,
    name="finetune",
  )


def l1_sparse(
  model: Model,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  penalty: float | jax.Array = 5e-4,
  plain_steps: int = 0,
  train_mode: bool = True,
) -> Transform:
  """Fine-tuning that makes the params sparse on the way.

  Minimises the retain loss plus a_t ||params||_1 with the coefficient a_t =
  penalty * max(0, 1 - t / (num_steps - plain_steps)) at step t.

  Never reads a forget row.

  Args:
    model: the model.
    optimizer: starts fresh.
    num_steps: steps.
    batch_size: retain rows a step.
    penalty: a_0 >= 0; 0 is `finetune`. May be traced.
    plain_steps: the last steps, without penalty.
    train_mode: dropout active and BatchNorm's statistics moving.

  Raises:
    ValueError: penalty < 0, plain_steps outside 0 .. num_steps.
  """
  checks.non_negative(penalty=penalty)
  if not 0 <= plain_steps <= num_steps:
    raise ValueError(
      f"Expected plain_steps in 0 .. {num_steps}, got {plain_steps}."
    )
  plain = supervised(model, train=train_mode)
  sparse_steps = max(num_steps - plain_steps, 1)

  def objective(variables, batch, key):
    losses, state = plain(variables, batch, key)
    norm = sum(
      jnp.abs(leaf.astype(jnp.promote_types(jnp.float32, leaf.dtype))).sum()
      for leaf in jax.tree.leaves(variables.params)
    )
    left = jnp.maximum(1.0 - batch.context.step / sparse_steps, 0.0)
    # On every row alike, so that the mean over rows leaves it as it is.
    return losses + penalty * left * norm, state

  return phase(
    objective,
    optimizer,
    num_steps,
    draw=Draw(retain=batch_size),
    name="l1_sparse",
  )


def gradient_ascent(
  model: Model,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  loss_ceiling: float | None = None,
  train_mode: bool = False,
) -> Transform:
  """Maximises the loss on the forget set (NegGrad).

  The objective has no bound: a few steps too many destroy the model, and
  `info.is_finite` says whether they did.

  Args:
    model: the model.
    optimizer: of the ascent; it is given the negated gradient.
    num_steps: few.
    batch_size: forget rows a step.
    loss_ceiling: nats; a row whose loss is above stops ascending. None: none.
    train_mode: True lets BatchNorm's statistics drift to the forget set, as
      published code does.
  """
  plain = supervised(model, train=train_mode)

  def objective(variables, batch, key):
    losses, state = plain(variables, batch, key)
    if loss_ceiling is not None:
      losses = jnp.minimum(losses, loss_ceiling)
    return losses, state

  return phase(
    objective,
    optimizer,
    num_steps,
    draw=Draw(forget=batch_size),
    forget_weight=-1.0,
    name="gradient_ascent",
  )


def neggrad_plus(
  model: Model,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  forget_batch_size: int,
  retain_batch_size: int,
  retain_share: float = 0.95,
  train_mode: bool = False,
) -> Transform:
  """Descends on the retain set and ascends on the forget set at once.

  Minimises `share * mean loss(retain) - (1 - share) * mean loss(forget)`.

  Args:
    model: the model.
    optimizer: any.
    num_steps: steps.
    forget_batch_size: forget rows a step.
    retain_batch_size: retain rows a step.
    retain_share: the weight of the retain rows in [0, 1]; 1 is fine-tuning, 0
      gradient ascent; near 1 for a stable run. May be traced.
    train_mode: True normalises both kinds of rows as one batch and lets the
      statistics drift, as some published code does.

  Raises:
    ValueError: retain_share outside [0, 1].
  """
  checks.fraction(retain_share=retain_share)
  return phase(
    supervised(model, train=train_mode),
    optimizer,
    num_steps,
    draw=Draw(forget=forget_batch_size, retain=retain_batch_size),
    forget_weight=-(1.0 - retain_share),
    retain_weight=retain_share,
    name="neggrad_plus",
  )
