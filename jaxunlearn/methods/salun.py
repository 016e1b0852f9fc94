"""SalUn: random-label unlearning of the weights that the forget set's gradient marks.

Source: Fan et al. (2024), arXiv:2310.12508 (Algorithm of the classification
part); SalUn-soft from the released code.
Class: heuristic. Data access: forget and retain rows with labels. Model state:
moves, from rows of both kinds and whatever the mask, as released; with
`train_mode=False` it is frozen, and the steps of the published rate then run
away in a network with BatchNorm. Cost: one gradient over the forget set for the
mask, one gradient per step.
Differences from the released code: the mask is that of the mean loss over the
whole forget set (the code adds up batch means, so that rows of a short batch
count more); ties go to the first weight in the order of the pytree; weights
outside the mask get no update at all, where the code moves them and puts them
back (the same result); a retain weight, which the paper has and the code lacks.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks, order
from jaxunlearn.core.combinators import masked
from jaxunlearn.core.legacy import old_fits
from jaxunlearn.core.tasks import Fit, FitFields, Model, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import ALL, Draw, PyTree
from jaxunlearn.methods import _relabel
from jaxunlearn.methods._saliency import saliency_mask as saliency_mask


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


# A tenth of CIFAR-10's 45,000 training rows: passes over 40,500 and 4,500.
CIFAR10 = Fit(sgd(0.013), 159, 256)
CIFAR10_FORGET_STEPS = 18


@old_fits(fit=("", "retain_steps", ""))
def salun(
  model: Model,
  fit: Fit = CIFAR10,
  *,
  num_classes: int,
  num_epochs: int = 10,
  forget_steps: int = CIFAR10_FORGET_STEPS,
  keep: float | jax.Array = 0.5,
  retain_weight: float | jax.Array = 1.0,
  schedule: str = "sequential",
  exclude_true: bool = False,
  train_mode: bool = True,
  **fields: Unpack[FitFields],
) -> Transform:
  """Random-label unlearning that may change only the salient weights.

  Args:
    model: a classifier with integer labels under "label".
    fit: how; its steps are those on the retain set per epoch. Published for a
      tenth of CIFAR-10 by default.
    num_classes: K >= 2.
    num_epochs: epochs of `forget_steps + fit.num_steps` steps.
    forget_steps: steps on the forget set per epoch; the forget rows over the
      batch size make one pass.
    keep: share of the weights that may change, in [0, 1]; see `saliency_mask`.
      1 is `random_label`, bit for bit with the same key; 0 returns the original
      params. May be traced.
    retain_weight: coefficient of the retain rows' loss. May be traced.
    schedule: "sequential", as on CIFAR-10: each epoch the forget set, with new
      labels at every step, then the retain set; "mixed", as on CIFAR-100: new
      labels once a pass, both kinds of rows in their natural proportion.
    exclude_true: draw among the wrong classes only; published: False.
    train_mode: dropout active and BatchNorm's statistics moving, as released.
    **fields: the fields of `Fit` by keyword, to change `fit`.

  Returns:
    A `Transform`, needing forget and retain rows.

  Raises:
    ValueError: an unknown schedule, keep outside [0, 1], num_classes < 2, a
      count < 0; from the call, labels that are not int [N].

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> unlearn = ju.methods.salun(
    ...   problem.model, ju.Fit(optax.adam(0.03), num_steps=3, batch_size=16),
    ...   num_classes=4, num_epochs=8, forget_steps=3, exclude_true=True)
    >>> made, info = jax.jit(unlearn)(*problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.1, 1.0)
  """
  fit = as_fit(fit, fields)
  checks.one_of(("sequential", "mixed"), schedule=schedule)
  checks.count(0, num_epochs=num_epochs, forget_steps=forget_steps)
  is_mixed = schedule == "mixed"
  objective = _relabel.random_labels(
    model,
    num_classes,
    redraw="epoch" if is_mixed else "batch",
    exclude_true=exclude_true,
    train_mode=train_mode,
    retain_weight=retain_weight,
  )
  if is_mixed:
    steps = num_epochs * (forget_steps + fit.num_steps)
    whole = fit._replace(num_steps=steps)
    fitted = _relabel.mixed(objective, whole, num_classes)
  else:
    fitted = _relabel.sequential(
      objective,
      fit,
      num_classes,
      num_epochs=num_epochs,
      forget_steps=forget_steps,
      retain_steps=fit.num_steps,
    )
  mask = saliency_mask(model, keep)
  # Times one would be the same but for the last bit, which compilers may round
  # in another way.
  if not (checks.is_concrete(keep) and keep == 1):
    fitted = masked(fitted, mask, needs=Draw(forget=ALL))
  return dataclasses.replace(fitted, name="salun")


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
  checks.counts(num_steps=num_steps)

  def init(params):
    return SoftState(jnp.zeros((), jnp.int32), params)

  def update(updates: PyTree, state: SoftState, params: PyTree = None):
    change = jax.tree.map(
      lambda u, p, r: (p + u) - r, updates, params, state.reference
    )
    sizes = [order.magnitude(c) for c in jax.tree.leaves(change)]
    total = sum(s.size for s in sizes)
    left = jnp.maximum(1.0 - (state.step + 1) / num_steps, 0.0)
    count = jnp.floor(ratio * left * total).astype(jnp.int32)
    # The k-th smallest is the one that all but k - 1 reach.
    kth = order.reached(sizes, total + 1 - jnp.maximum(count, 1))
    tau = jnp.where(count > 0, order.from_magnitude(kth), 0.0)

    def pull(c, u, p, r):
      kept = jnp.sign(c) * jnp.maximum(jnp.abs(c) - tau.astype(c.dtype), 0)
      return jnp.where(count > 0, (r - p) + kept, u)

    pulled = jax.tree.map(pull, change, updates, params, state.reference)
    return pulled, SoftState(state.step + 1, state.reference)

  return optax.GradientTransformation(init, update)
