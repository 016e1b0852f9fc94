"""SalUn: random-label unlearning of the weights that the forget set's gradient marks.

Source: Fan et al. (2024), arXiv:2310.12508 (Algorithm of the classification
part); SalUn-soft from the released code.
Class: heuristic. Data access: forget and retain rows with labels. Model state:
frozen unless `train_mode` is set. Cost: one gradient over the forget set for the
mask, one gradient a step.
Differences from the released code: the mask is that of the mean loss over the
whole forget set (the code adds up batch means, so that rows of a short batch
count more); ties go to the first weight in the order of the pytree; weights
outside the mask get no update at all, where the code moves them and puts them
back (the same result); a retain weight, which the paper has and the code lacks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks, per_example, relabel
from jaxunlearn.core.combinators import masked
from jaxunlearn.core.saliency import largest
from jaxunlearn.core.types import ALL, Draw, Model, PyTree, Transform


def salun(
  model: Model,
  *,
  num_classes: int,
  num_epochs: int,
  forget_steps: int,
  retain_steps: int,
  batch_size: int,
  keep: float | jax.Array = 0.5,
  optimizer: optax.GradientTransformation | None = None,
  retain_weight: float | jax.Array = 1.0,
  schedule: str = "sequential",
  exclude_true: bool = False,
  train_mode: bool = False,
  chunk_size: int = 256,
) -> Transform:
  """Random-label unlearning that may change only the salient weights.

  Args:
    model: a classifier with integer labels under "label".
    num_classes: K >= 2.
    num_epochs: epochs of `forget_steps + retain_steps` steps.
    forget_steps: steps on the forget set an epoch; the forget rows over
      `batch_size` make one pass.
    retain_steps: steps on the retain set an epoch.
    batch_size: rows a step.
    keep: share of the weights that may change, in [0, 1]; see `saliency_mask`.
      1 is `random_label`, bit for bit with the same key; 0 returns the original
      params. May be traced.
    optimizer: `sgd(0.013)` by default, the published setting.
    retain_weight: coefficient of the retain rows' loss. May be traced.
    schedule: "sequential", as on CIFAR-10: each epoch the forget set, with new
      labels at every step, then the retain set; "mixed", as on CIFAR-100: new
      labels once a pass, both kinds of rows in their natural proportion.
    exclude_true: draw among the wrong classes only; published: False.
    train_mode: dropout active and BatchNorm's statistics moving, as released.
    chunk_size: static; rows at a time for the mask.

  Returns:
    A `Transform`, needing forget and retain rows.

  Raises:
    ValueError: an unknown schedule, keep outside [0, 1], num_classes < 2, a
      count < 0.
  """
  checks.one_of(("sequential", "mixed"), schedule=schedule)
  checks.non_negative(
    num_epochs=num_epochs, forget_steps=forget_steps, retain_steps=retain_steps
  )
  options: dict[str, Any] = {
    "num_classes": num_classes,
    "optimizer": sgd(0.013) if optimizer is None else optimizer,
    "batch_size": batch_size,
    "exclude_true": exclude_true,
    "train_mode": train_mode,
    "retain_weight": retain_weight,
  }
  if schedule == "mixed":
    steps = num_epochs * (forget_steps + retain_steps)
    fit = relabel.mixed(model, num_steps=steps, redraw="epoch", **options)
  else:
    fit = relabel.sequential(
      model,
      num_epochs=num_epochs,
      forget_steps=forget_steps,
      retain_steps=retain_steps,
      redraw="batch",
      **options,
    )
  mask = saliency_mask(model, keep, chunk_size=chunk_size)
  # Times one would be the same but for the last bit, which compilers may round
  # in another way.
  if not (checks.is_concrete(keep) and keep == 1):
    fit = masked(fit, mask, needs=Draw(forget=ALL))
  return dataclasses.replace(fit, name="salun")


def sgd(
  learning_rate: float | jax.Array,
  *,
  momentum: float = 0.9,
  weight_decay: float = 5e-4,
) -> optax.GradientTransformation:
  """SGD as the published baselines use it: the decay goes through the momentum."""
  return optax.chain(
    optax.add_decayed_weights(weight_decay),
    optax.sgd(learning_rate, momentum=momentum),
  )


def saliency_mask(
  model: Model, keep: float | jax.Array = 0.5, *, chunk_size: int = 256
) -> Callable[..., PyTree]:
  """A weight mask for `masked`: where the forget set's loss is steepest.

  The gradient G of the mean loss over the forget set is taken in evaluation mode;
  of all weights together, the share `keep` of largest |G| is marked; none for an
  empty request.

      masked(any_transform, saliency_mask(model), needs=Draw(forget=ALL))

  Args:
    model: any; its `loss` is taken.
    keep: in [0, 1]; see `largest`. May be traced.
    chunk_size: static; rows at a time.

  Returns:
    `(variables, data, forget_mask, key) -> pytree of bool like the params`.

  Raises:
    ValueError: keep outside [0, 1], chunk_size < 1.
  """
  checks.fraction(keep=keep)
  checks.positive(chunk_size=chunk_size)

  def mask(variables, data, forget_mask, key):
    del key

    def chunk(rows, weight):
      def loss(params):
        outputs = model.predict(variables._replace(params=params), rows["x"])
        losses = model.loss(outputs, rows)
        return jnp.where(weight > 0, weight * losses, 0.0).sum()

      return jax.grad(loss)(variables.params)

    total = per_example.sum_chunks(
      chunk, data, forget_mask, chunk_size=chunk_size
    )
    # Of gradients that are all 0 the first would be taken.
    is_asked = (forget_mask > 0).any()
    return jax.tree.map(lambda marks: marks & is_asked, largest(total, keep))

  return mask


class SoftState(NamedTuple):
  """State of `soft_threshold`.

  Attributes:
    step: int32 [], updates done.
    reference: pytree like the params, where they started.
  """

  step: jax.Array
  reference: PyTree


def soft_threshold(
  ratio: float | jax.Array, num_steps: int
) -> optax.GradientTransformation:
  """SalUn-soft: pulls the params back to where they started, ever less.

  The last link of an optimiser. After each update the change d of every weight
  since the start becomes sign(d) * max(|d| - tau, 0), tau the k-th smallest |d|
  over all weights and k = floor(ratio * (1 - (t + 1) / T) * P) at step t: about
  the share `ratio` of the weights stays where it was at first, none at the end.

      optax.chain(sgd(0.013), soft_threshold(0.5, num_steps))

  Args:
    ratio: share of frozen weights at the start, in [0, 1]; 0 changes nothing.
      May be traced.
    num_steps: T > 0, the steps of all phases that share the optimiser.

  Raises:
    ValueError: ratio outside [0, 1], num_steps < 1.

  Difference from the released code: the reference is the original model
  throughout, where the code moves it at each epoch.
  """
  checks.fraction(ratio=ratio)
  checks.positive(num_steps=num_steps)

  def init(params):
    return SoftState(jnp.zeros((), jnp.int32), params)

  def update(updates, state, params=None):
    change = jax.tree.map(
      lambda u, p, r: (p + u) - r, updates, params, state.reference
    )
    flat = jnp.concatenate(
      [
        jnp.abs(c).astype(jnp.float32).reshape(-1)
        for c in jax.tree.leaves(change)
      ]
    )
    left = jnp.maximum(1.0 - (state.step + 1) / num_steps, 0.0)
    count = jnp.floor(ratio * left * flat.size).astype(jnp.int32)
    tau = jnp.where(count > 0, jnp.sort(flat)[jnp.maximum(count, 1) - 1], 0.0)

    def pull(c, u, p, r):
      kept = jnp.sign(c) * jnp.maximum(jnp.abs(c) - tau.astype(c.dtype), 0)
      return jnp.where(count > 0, (r - p) + kept, u)

    pulled = jax.tree.map(pull, change, updates, params, state.reference)
    return pulled, SoftState(state.step + 1, state.reference)

  return optax.GradientTransformation(init, update)
