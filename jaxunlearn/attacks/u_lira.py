"""U-LiRA: was a row trained on and then unlearned, or never seen?

The likelihood-ratio attack against unlearning: shadow models are trained, each
unlearns random rows, and for each row two normal distributions of its statistic
are fitted, over models that forgot it and over models that never saw it. HIGH
speaks for "was trained on". An ideal method leaves an AUC of 1/2.

Source: Hayes et al. (2024), arXiv:2403.01218.
Data access: the training data and the recipes of training and of unlearning.
Cost: S trainings and S runs of the method (and S retrainings if asked for), one
program; one run serves all rows under audit, see `shadow.u_lira_masks`.
Differences: the paper's game compares unlearned with retrained models
(`retrained=True`); the cheaper comparison with unlearned models that never saw
the row needs no retraining and is always made. What the method itself is given
is described under `u_lira_shadows`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.attacks import _normals
from jaxunlearn.attacks.shadow import (
  OLD_QUERIES,
  QUERIES,
  RowQueries,
  query_statistics,
)
from jaxunlearn.core import checks
from jaxunlearn.core.keys import derive
from jaxunlearn.core.legacy import old_fields
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.training import map_many, train
from jaxunlearn.core.types import PyTree, Request, Variables
from jaxunlearn.metrics.membership import separation_auc

Unlearn = Callable[[Variables, PyTree, Any, jax.Array], Any]


class ULiraStatistics(NamedTuple):
  """What shadows say of every row before and after they unlearn.

  Attributes:
    trained: float [S, N, A], of the trained shadows.
    unlearned: float [S, N, A], after the method.
    retrained: float [S, N, A], of models trained without the forget rows from
      keys of their own; None if not asked for.
    train_masks: bool [S, N].
    forget_masks: bool [S, N], a part of `train_masks`.
  """

  trained: jax.Array
  unlearned: jax.Array
  retrained: jax.Array | None
  train_masks: jax.Array
  forget_masks: jax.Array


class Game(NamedTuple):
  """Scores of a game between two kinds of rows, over models and rows.

  Attributes:
    scores: float [M, N], each model against all others; nan where a row is in
      no game. HIGH speaks for `positive`.
    positive: bool [M, N].
    negative: bool [M, N].
    auc: float [], over all models and rows at once.
  """

  scores: jax.Array
  positive: jax.Array
  negative: jax.Array
  auc: jax.Array


class ULiraReport(NamedTuple):
  """The games of U-LiRA.

  Attributes:
    unlearned_vs_out: forgotten rows (positive) against rows never seen, under
      unlearned models: the privacy leak. 1/2 is best.
    in_vs_unlearned: rows kept (positive) against forgotten ones, under unlearned
      models: efficacy. 1/2 if nothing was forgotten; best is what
      `retained_after` has.
    retained_before: rows kept (positive) against rows never seen, under the
      trained models.
    retained_after: the same under the unlearned models: what the method did to
      the privacy of rows that nobody asked to forget.
    unlearned_vs_retrained: the paper's game, forgotten rows under unlearned
      models (positive; the first S of M = 2 S) against the same rows under
      retrained models (the last S). 1/2 is best. None without those.
  """

  unlearned_vs_out: Game
  in_vs_unlearned: Game
  retained_before: Game
  retained_after: Game
  unlearned_vs_retrained: Game | None


def u_lira_scores(
  target_statistics: jax.Array,
  unlearned_statistics: jax.Array,
  unlearned_masks: jax.Array,
  out_statistics: jax.Array,
  out_masks: jax.Array,
  *,
  variance: str = "per_example",
  center: str = "mean",
  floor: float | jax.Array = 1e-6,
  log_ratio: bool = False,
  chunk_size: int | None = 1024,
) -> jax.Array:
  """The chance that a row was trained on and unlearned, at even odds.

  q = N(phi; unlearned) / (N(phi; unlearned) + N(phi; out)), one normal
  distribution of each kind a row; over several queries the geometric mean of
  the densities. Predict "unlearned" if q > 1/2.

  Args:
    target_statistics: float [N, A] or [T, N, A], of unlearned models.
    unlearned_statistics: float [S, N, A], of unlearned shadows.
    unlearned_masks: bool [S, N], True = that shadow forgot the row.
    out_statistics: float [S', N, A], of shadows or retrained models.
    out_masks: bool [S', N], True = that model never saw the row.
    variance: static; see `lira.lira_scores`.
    center: static; see `lira.lira_scores`.
    floor: smallest spread. May be traced.
    log_ratio: static; True returns log N(unlearned) - log N(out) instead, which
      ranks alike but does not saturate: use it for curves.
    chunk_size: see `lira.lira_scores`.

  Returns:
    [N] or [T, N], in [0, 1] unless `log_ratio`; nan in rows with too few models
    under jit.

  Raises:
    ValueError: as `lira.lira_scores`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> unlearned = jnp.array([2.0, 4.0])[:, None, None]
    >>> never_saw = jnp.array([-1.0, 1.0])[:, None, None]
    >>> every = jnp.ones((2, 1), bool)
    >>> targets = jnp.array([[[3.0]], [[1.5]]])
    >>> chance = attacks.u_lira_scores(
    ...   targets, unlearned, every, never_saw, every)
    >>> [round(float(c), 2) for c in chance.ravel()]
    [0.99, 0.5]
  """
  target = _normals.floats(target_statistics, "target_statistics")
  _normals.check_options(variance, center, floor)
  needed = 2 if variance == "per_example" else 1
  normals = []
  for kind, statistics, masks in (
    ("unlearned", unlearned_statistics, unlearned_masks),
    ("out", out_statistics, out_masks),
  ):
    x = _normals.floats(statistics, f"{kind}_statistics", 3)
    use = _normals.mask_of(masks, x, f"{kind}_masks")
    wanted = (
      f"{kind}_statistics [S, N, A] and target_statistics [N, A] or [T, N, A]"
    )
    shaped(wanted, x, target)
    _normals.enough_models(use, needed, kind)
    fit = _normals.fit_rows(x, use, center, chunk_size)
    normals.append(_normals.normal_of(fit, variance, floor))
  many = target if target.ndim == 3 else target[None]
  scores = _normals.score(many, normals, two_sided=False)
  scores = scores if log_ratio else jax.nn.sigmoid(scores)
  return scores if target.ndim == 3 else scores[0]


@old_fields(queries=OLD_QUERIES)
def u_lira_shadows(
  model: Model,
  data: PyTree,
  train_masks: jax.Array,
  forget_masks: jax.Array,
  keys: jax.Array,
  unlearn: Unlearn,
  *,
  retrained: bool = False,
  queries: RowQueries = QUERIES,
  strategy: str | int = "vmap",
  mesh: jax.sharding.Mesh | None = None,
  **recipe: Any,
) -> ULiraStatistics:
  """Trains shadows, lets each unlearn, and asks them about every row.

  Rows that a shadow never saw are in neither mask of its request, so that all
  shadows share one copy of the data.

  Args:
    model: what to train.
    data: {"x": [N, ...], "label": [N]}.
    train_masks: bool [S, N], see `shadow.u_lira_masks`.
    forget_masks: bool [S, N], a part of them.
    keys: PRNG keys [S]. Training uses them as `shadow.train_shadows` does.
    unlearn: a `Transform`, or any `(variables, data, request, key) ->
      (variables, info)`.
    retrained: static; also train every shadow without its forget rows.
    queries: how to ask; see `shadow.RowQueries`.
    strategy: see `core.training.map_many`.
    mesh: see `core.training.map_many`.
    **recipe: the keyword arguments of `core.training.train`.

  Returns:
    The statistics; a model that diverged has nan in its rows.

  Raises:
    ValueError: masks that are not bool [S, N], or with values at hand a forget
      row that was not trained on; and what `train` raises.

  Example:
    >>> import jax, optax
    >>> from jaxunlearn import attacks, methods, toy
    >>> problem = toy.classifier()
    >>> fit = dict(optimizer=optax.adam(0.1), num_steps=10, batch_size=16)
    >>> train, forget = attacks.u_lira_masks(
    ...   problem.key, 3, problem.request, share=1)
    >>> found = attacks.u_lira_shadows(
    ...   problem.model, problem.data, train, forget,
    ...   jax.random.split(problem.key, 3),
    ...   methods.finetune(problem.model, **fit), **fit)
    >>> found.trained.shape, found.unlearned.shape
    ((3, 60, 1), (3, 60, 1))
  """
  num_rows = checks.num_rows(data)
  train_masks, forget_masks = (
    jnp.asarray(train_masks),
    jnp.asarray(forget_masks),
  )
  for name, masks in (
    ("train_masks", train_masks),
    ("forget_masks", forget_masks),
  ):
    wanted = (train_masks.shape[0], num_rows) if train_masks.ndim else ()
    shaped(f"{name} bool {list(wanted)}", masks)
  stray = forget_masks & ~train_masks
  if checks.is_concrete(stray) and bool(stray.any()):
    raise ValueError(
      "Expected forget_masks to be a part of train_masks, got "
      f"{int(stray.sum())} forget rows that were not trained on."
    )
  data = jax.tree.map(jnp.asarray, data)

  def ask(variables: Variables) -> jax.Array:
    return query_statistics(model, variables, data, **queries._asdict())

  def one(members: jax.Array, forget: jax.Array, key: jax.Array) -> Any:
    trained, _ = train(model, data, members, key, **recipe)
    request = Request(forget, members & ~forget)
    unlearned, _ = unlearn(trained, data, request, derive(key, "unlearn"))
    again = None
    if retrained:
      again_key = derive(key, "retrain")
      again = ask(train(model, data, members & ~forget, again_key, **recipe)[0])
    return ask(trained), ask(unlearned), again

  before, after, again = map_many(
    one, train_masks, forget_masks, keys, strategy=strategy, mesh=mesh
  )
  return ULiraStatistics(before, after, again, train_masks, forget_masks)


def u_lira_report(
  statistics: ULiraStatistics,
  *,
  variance: str = "per_example",
  center: str = "mean",
  floor: float | jax.Array = 1e-6,
  chunk_size: int | None = 1024,
) -> ULiraReport:
  """Plays the games of U-LiRA, every shadow in turn against the others.

  Only rows that some shadow forgot take part. Scores are log ratios.

  Args:
    statistics: see `u_lira_shadows`.
    variance: static; see `lira.lira_scores`; "fixed" with few shadows.
    center: static; see `lira.lira_scores`.
    floor: smallest spread. May be traced.
    chunk_size: see `lira.lira_scores`.

  Returns:
    The games. Where the forget rows of one shadow are rows drawn one by one, so
    is the request that they speak for; requests for whole classes need masks
    that forget whole classes, see `groups` of `shadow.u_lira_masks`.

  Raises:
    ValueError: no forget row; nan or infinite statistics; shapes that do not
      match; a row under audit
      with too few models that keep, forget or never saw it: 3 of each for a
      variance per example, else 2.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> forget = jnp.arange(9)[:, None] < 3
    >>> train = jnp.arange(9)[:, None] < 6
    >>> noise = jnp.tile(jnp.array([-1.0, 0.0, 1.0]), 3)[:, None]
    >>> trained = jnp.where(train, 5.0, 0.0) + noise
    >>> report = attacks.u_lira_report(attacks.ULiraStatistics(
    ...   trained[..., None], trained[..., None], None, train, forget))
    >>> float(report.unlearned_vs_out.auc)  # Nothing was unlearned.
    1.0
  """
  _normals.check_options(variance, center, floor)
  trained = _normals.floats(statistics.trained, "trained", 3)
  unlearned = _normals.floats(statistics.unlearned, "unlearned", 3)
  members = _normals.mask_of(statistics.train_masks, trained, "train_masks")
  forget = _normals.mask_of(statistics.forget_masks, unlearned, "forget_masks")
  targets = forget.any(axis=0)
  if checks.is_concrete(targets) and not bool(targets.any()):
    raise ValueError("Expected forget_masks to select rows, got no row at all.")
  kept = members & ~forget & targets[None]
  unseen = ~members & targets[None]
  if checks.is_concrete(forget):
    needed = 3 if variance == "per_example" else 2
    audited = np.asarray(targets)
    for side, use in (
      ("IN", kept),
      ("OUT", unseen),
      ("UNLEARN", forget),
    ):
      _normals.enough_models(np.asarray(use)[:, audited], needed, side)

  def game(scores: jax.Array, positive: jax.Array, negative: jax.Array) -> Game:
    scores = jnp.where(positive | negative, scores, jnp.nan)
    flat = scores.ravel()
    auc = separation_auc(flat, flat, positive.ravel(), negative.ravel())
    return Game(scores, positive, negative, auc)

  def play(x: jax.Array, positive: jax.Array, negative: jax.Array) -> Game:
    scores = _normals.leave_one_out_scores(
      x,
      [positive, negative],
      variance=variance,
      center=center,
      floor=floor,
      chunk_size=chunk_size,
    )
    return game(scores, positive, negative)

  against_retrained = None
  if statistics.retrained is not None:
    retrained = _normals.floats(statistics.retrained, "retrained", 3)
    # An unlearned and a retrained model of the same rows are alike: a target is
    # held against fits without either of its pair.
    normals = [
      _normals.normal_of(
        _normals.fit_rows(x, forget, center, chunk_size),
        variance,
        floor,
        (x, forget, center),
      )
      for x in (unlearned, retrained)
    ]
    scores = jnp.concatenate(
      [_normals.score(x, normals, False) for x in (unlearned, retrained)]
    )
    nobody = jnp.zeros_like(forget)
    against_retrained = game(
      scores,
      jnp.concatenate([forget, nobody]),
      jnp.concatenate([nobody, forget]),
    )
  return ULiraReport(
    play(unlearned, forget, unseen),
    play(unlearned, kept, forget),
    play(trained, kept, unseen),
    play(unlearned, kept, unseen),
    against_retrained,
  )
