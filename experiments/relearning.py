"""How fast a model learns again what it was made to forget.

The anamnesis index of arXiv:2201.05629: every model is trained on all training
rows, the forgotten ones with them, with Adam and the same draws, until it is
nearly as good on the forgotten as the original model was. A model that needs
fewer steps than the retrained one has something left to start from.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxunlearn as ju
from experiments.methods import Recipe
from jaxunlearn import metrics
from jaxunlearn.attacks.anamnesis import Relearned, relearn, relearn_target

MARGIN = 0.05
MAX_ROWS = 1000  # That accuracy is measured on, after every step.
_KEY = 4  # Seed 0's key is folded with it.


class Examined(NamedTuple):
  """The rows on which relearning is measured, for each of R requests.

  Test rows of the forgotten classes where the request is a union of classes,
  else the forgotten rows themselves; K of them at most, evenly spaced.

  Attributes:
    row_id: int32 [R, K], row numbers, 0 where there are fewer.
    weight: float32 [R, K], 1 or, where there are fewer, 0.
    from_test: bool [R], whether the numbers are those of test rows.
  """

  row_id: jax.Array
  weight: jax.Array
  from_test: jax.Array


def examined(masks: np.ndarray, test_masks: np.ndarray) -> Examined:
  """Chooses the rows.

  Args:
    masks: bool [R, N], the rows to be forgotten.
    test_masks: bool [R, N_test], test rows of the forgotten classes; nowhere
      True for a request that is no union of classes.
  """
  from_test = np.asarray(test_masks.any(axis=1))
  chosen = []
  for mask, test_mask, is_test in zip(masks, test_masks, from_test):
    rows = np.flatnonzero(test_mask if is_test else mask)
    count = min(len(rows), MAX_ROWS)
    chosen.append(rows[np.linspace(0, len(rows) - 1, count).astype(int)])
  index = np.zeros((len(chosen), max(map(len, chosen))), np.int32)
  weight = np.zeros(index.shape, np.float32)
  for i, rows in enumerate(chosen):
    index[i, : len(rows)], weight[i, : len(rows)] = rows, 1
  return Examined(*map(jnp.asarray, (index, weight, from_test)))


def num_steps(recipe: Recipe) -> int:
  """The most steps: a sixth of the training, some ten epochs of a "paper" one."""
  return max(1, recipe.num_steps // 6)


def relearned(
  model: ju.Model,
  recipe: Recipe,
  train: Any,
  test: Any,
  rows: Examined,
  variables: Any,
  original: Any,
) -> Relearned:
  """Lets one model learn again; pure, for one request.

  Args:
    model: the model.
    recipe: gives the batch size and, see `num_steps`, the limit.
    train: rows {"x", "label"}, all of which are learned.
    test: rows {"x", "label"}.
    rows: see `Examined`, without the leading axis.
    variables: of the model under audit.
    original: of the original model, which sets the target.
  """
  seen, unseen = (
    jax.tree.map(lambda leaf: leaf.at[rows.row_id].get(mode="clip"), part)
    for part in (train, test)
  )
  chosen = jax.tree.map(
    lambda a, b: jnp.where(rows.from_test, b, a), seen, unseen
  )

  def accuracy(variables):
    logits = ju.predict(model, variables, chosen["x"])
    return metrics.accuracy(logits, chosen["label"], rows.weight)

  return relearn(
    model,
    variables,
    train,
    jnp.ones(train["label"].shape, bool),
    jax.random.fold_in(jax.random.key(0), _KEY),
    evaluate=accuracy,
    target=relearn_target(accuracy(original), MARGIN),
    num_steps=num_steps(recipe),
    batch_size=recipe.batch_size,
    # As released: a model that is at the target already takes one step, so that
    # the index has a finite value wherever the retrained model relearns.
    count_from_zero=False,
  )
