"""LiRA against models of one's own, in one call.

Source: Carlini et al. (2021), arXiv:2112.03570; see `lira` and `shadow`.
Data access: the training rows, held-out rows of the same kind, the recipe.
Cost: S trainings, one program.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.attacks.lira import lira_scores
from jaxunlearn.attacks.roc import AttackSummary, attack_summary
from jaxunlearn.attacks.shadow import (
  query_statistics,
  shadow_masks,
  train_shadows,
)
from jaxunlearn.core import checks
from jaxunlearn.core.keys import derive
from jaxunlearn.core.tasks import Fit, Model
from jaxunlearn.core.training import map_many
from jaxunlearn.core.types import PyTree, Variables


class LiraAttack(NamedTuple):
  """What LiRA tells of the rows that models were asked to forget.

  Attributes:
    scores: float [T, N + H], rows of the data and then those held out; HIGH
      speaks for "was trained on".
    summary: leaves [T], the forget rows against those held out. An AUC of 1/2:
      they cannot be told from rows that were never seen.
  """

  scores: jax.Array
  summary: AttackSummary


def lira_attack(
  model: Model,
  targets: Variables,
  data: PyTree,
  held_out: PyTree,
  forget_mask: jax.Array,
  key: jax.Array,
  fit: Fit,
  *,
  num_shadows: int = 32,
  variance: str = "fixed",
  strategy: str | int = "map",
) -> LiraAttack:
  """Trains shadows, and asks of each target whether it still knows the rows.

      targets = stack([original, unlearned, retrained])
      found = lira_attack(model, targets, data, test, mask, key, recipe)

  Args:
    model: what the targets are variables of.
    targets: leaves [T, ...], see `core.trees.stack`.
    data: {"x": [N, ...], "label": [N]}, what they were trained on.
    held_out: rows [H, ...] that none was trained on. Of a request for a class
      they must be of that class, or the attack tells classes apart.
    forget_mask: bool [N].
    key: PRNG key of masks and trainings.
    fit: the recipe of the original model.
    num_shadows: static, even; each is trained on a random half of all rows.
    variance: static, see `lira_scores`.
    strategy: see `map_many`, for shadows and targets.

  Raises:
    ValueError: rows that do not fit together, a mask that is not bool [N]; and
      what `shadow_masks`, `train` and `lira_scores` raise.

  Example:
    >>> import jax, optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import attacks, toy
    >>> problem = toy.classifier()
    >>> part = lambda rows: jax.tree.map(lambda leaf: leaf[rows], problem.data)
    >>> targets = jax.tree.map(lambda leaf: leaf[None], problem.variables)
    >>> found = attacks.lira_attack(
    ...   problem.model, targets, part(slice(40)), part(slice(40, 60)),
    ...   problem.request[:40], problem.key, ju.Fit(optax.adam(0.1), 10, 16),
    ...   num_shadows=4)
    >>> found.scores.shape, found.summary.auc.shape
    ((1, 60), (1,))
  """
  checks.hard_request(jnp.asarray(forget_mask), "forget_mask")
  checks.request(data, forget_mask, "forget_mask")
  checks.num_rows(targets, "targets")
  none = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf)[:0], tree)
  checks.same_structure(none(held_out), none(data), "held_out")
  rows = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), data, held_out)
  n, total = checks.num_rows(data), checks.num_rows(rows)
  masks = shadow_masks(derive(key, "masks"), num_shadows, total)
  keys = jax.random.split(derive(key, "shadows"), num_shadows)

  @jax.jit
  def scores_of(targets: Any, masks: Any, keys: Any) -> jax.Array:
    shadows = train_shadows(
      model, rows, masks, keys, strategy=strategy, fit=fit
    )
    asked = map_many(
      lambda variables: query_statistics(model, variables, rows),
      targets,
      strategy=strategy,
    )
    return lira_scores(asked, shadows, masks, variance=variance)

  scores = scores_of(targets, masks, keys)
  place = jnp.arange(total)
  forget = jnp.zeros(total, bool).at[:n].set(forget_mask)
  summary = jax.vmap(lambda s: attack_summary(s, s, forget, place >= n))(scores)
  return LiraAttack(scores, summary)
