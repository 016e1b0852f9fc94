"""Shadow models: many models on random parts of the data, and what they say.

A shadow model is `core.training.train` under a random mask, so all of them are
one mapped program, and what comes back is a statistic of each row under each
model, never the params: memory holds one chunk of models.

Source: the balanced masks of Carlini et al. (2021), arXiv:2112.03570; the thirds
of `u_lira_masks` after the shared shadows of Hayes et al. (2024),
arXiv:2403.01218, as later audits use them.
Data access: a training set like the target's, and its recipe. Cost: `S`
trainings and `S * A` forward passes over the queried rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.drivers import predict
from jaxunlearn.core.legacy import old_fields, renamed
from jaxunlearn.core.shaped import arrays
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.training import map_many, train
from jaxunlearn.core.types import PyTree, Variables
from jaxunlearn.metrics.membership import logit_confidence

Statistic = Callable[[jax.Array, jax.Array], jax.Array]
Augment = Callable[[jax.Array, PyTree], PyTree]


def shadow_masks(
  key: jax.Array,
  num_models: int,
  num_rows: int,
  share: float = 0.5,
  fixed: jax.Array | None = None,
) -> jax.Array:
  """Random training masks in which every row is a member equally often.

  Args:
    key: PRNG key.
    num_models: static, S >= 2.
    num_rows: static, N.
    share: static, in (0, 1); `S * share` must be a whole number.
    fixed: None, or int [N]: 1 puts a row into every mask, -1 into none (a
      forget set, canaries), 0 leaves it to chance. May be traced.

  Returns:
    bool [S, N], True = trained on. A row left to chance is a member of exactly
    `S * share` models; how many rows a model has varies a little.

  Raises:
    ValueError: counts too small, a share that splits S unevenly or leaves no
      model on one side, `fixed` of another shape, dtype or value.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> masks = attacks.shadow_masks(
    ...   jax.random.key(0), num_models=4, num_rows=3)
    >>> masks.shape, masks.sum(axis=0).tolist()
    ((4, 3), [2, 2, 2])
  """
  checks.counts(num_rows=num_rows)
  members = _whole_share(num_models, share)
  masks = _ranks(key, num_models, num_rows) < members
  if fixed is None:
    return masks
  fixed = arrays("fixed [...]", fixed)
  if fixed.shape != (num_rows,) or not jnp.issubdtype(
    fixed.dtype, jnp.signedinteger
  ):
    raise ValueError(
      f"Expected fixed int [{num_rows}], got {fixed.dtype} {fixed.shape}."
    )
  if checks.is_concrete(fixed) and (np.abs(fixed) > 1).any():
    raise ValueError(
      "Expected fixed to hold -1 (out), 0 and 1 (in), got values in "
      f"{int(fixed.min())} .. {int(fixed.max())}."
    )
  return jnp.where(fixed[None] == 0, masks, fixed[None] > 0)


def u_lira_masks(
  key: jax.Array,
  num_models: int,
  targets: jax.Array,
  *,
  share: float = 0.5,
  groups: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Training and forget masks of shadows for U-LiRA.

  A target row is kept by a third of the models (IN), never seen by a third
  (OUT), and trained on and then forgotten by a third (UNLEARN), so that one
  unlearning run a model serves all rows. Other rows are never forgotten.

  Args:
    key: PRNG key.
    num_models: static, S, a multiple of 3.
    targets: bool [N], the rows under audit; may be traced. A third of them is
      the forget set of each model, so keep them few.
    share: static, in (0, 1]; of the models that are trained on a row that is
      no target. 1 is all.
    groups: None, each target row is drawn by itself; or int [N], in 0 .. N - 1:
      rows of one number are kept, left out or forgotten together. A request for
      whole classes needs the label here: beside other rows of its class a row
      was "never seen" in another sense than when the class is gone.

  Returns:
    `(train, forget)`, bool [S, N]; `forget` is a part of `train`.

  Raises:
    ValueError: S no multiple of 3, a share that splits S unevenly, targets or
      groups of another shape or dtype.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> targets = jnp.array([True, True, False])
    >>> train, forget = attacks.u_lira_masks(jax.random.key(0), 6, targets)
    >>> train.sum(axis=0).tolist(), forget.sum(axis=0).tolist()
    ([4, 4, 3], [2, 2, 0])
  """
  targets = arrays("targets bool [N]", targets)
  checks.counts(num_models=num_models)
  if num_models % 3:
    raise ValueError(
      f"Expected num_models to be a multiple of 3, got {num_models}."
    )
  members = num_models if share == 1 else _whole_share(num_models, share)
  num_rows = targets.shape[0]
  target_key, other_key = jax.random.split(key)
  rank = _ranks(target_key, num_models, num_rows)
  if groups is not None:
    groups = arrays(f"groups [{num_rows}]", groups)
    checks.labels(groups, num_rows, "groups")
    rank = rank[:, groups]
  third = num_models // 3
  others = _ranks(other_key, num_models, num_rows) < members
  targets = targets[None]
  forget = targets & (rank < third)
  return jnp.where(targets, rank < 2 * third, others), forget


class RowQueries(NamedTuple):
  """How models are asked about rows; targets and shadows alike.

  Attributes:
    augment: see `query_statistics`, as are the rest.
    num_queries: static, A.
    key: for `augment`; all models are asked the same queries.
    statistic: of a row under a model.
    chunk_size: static; rows at a time.
  """

  augment: Augment | None = None
  num_queries: int = 1
  key: jax.Array | None = None
  statistic: Statistic = logit_confidence
  chunk_size: int = 1024


QUERIES = RowQueries()


# The keywords of the release before.
OLD_QUERIES = {
  "augment": "augment",
  "num_queries": "num_queries",
  "query_key": "key",
  "statistic": "statistic",
  "query_chunk_size": "chunk_size",
  "query_batch_size": "chunk_size",
}


@old_fields(queries=OLD_QUERIES)
def train_shadows(
  model: Model,
  data: PyTree,
  masks: jax.Array,
  keys: jax.Array,
  query: PyTree | None = None,
  *,
  queries: RowQueries = QUERIES,
  strategy: str | int = "vmap",
  mesh: jax.sharding.Mesh | None = None,
  **recipe: Any,
) -> jax.Array:
  """Trains a model for every mask and returns what each says of every row.

  Args:
    model: what to train.
    data: pytree of arrays [N, ...] with "x" and "label", shared by all.
    masks: bool [S, N], see `shadow_masks`.
    keys: PRNG keys [S].
    query: the rows to ask about, {"x": [Q, ...], "label": [Q]}; the data by
      default.
    queries: how to ask; see `RowQueries`.
    strategy: see `core.training.map_many`; an int bounds how many models are in
      memory at once.
    mesh: see `map_many`.
    **recipe: the keyword arguments of `core.training.train`.

  Returns:
    [S, Q, A], float32 or wider. Rows of a model that diverged are nan.

  Raises:
    ValueError: masks and keys of different lengths, and what `train` and
      `query_statistics` raise.

  Example:
    >>> import jax, optax
    >>> from jaxunlearn import attacks, toy
    >>> problem = toy.classifier()
    >>> masks = attacks.shadow_masks(problem.key, num_models=2, num_rows=60)
    >>> statistics = attacks.train_shadows(
    ...   problem.model, problem.data, masks, jax.random.split(problem.key),
    ...   optimizer=optax.adam(0.1), num_steps=10, batch_size=16)
    >>> statistics.shape
    (2, 60, 1)
  """
  query = data if query is None else query

  def one(mask: jax.Array, key: jax.Array) -> jax.Array:
    variables, _ = train(model, data, mask, key, **recipe)
    return query_statistics(model, variables, query, **queries._asdict())

  return map_many(one, masks, keys, strategy=strategy, mesh=mesh)


@renamed(chunk_size="batch_size")
def query_statistics(
  model: Model,
  variables: Variables,
  query: PyTree,
  *,
  augment: Augment | None = None,
  num_queries: int = 1,
  key: jax.Array | None = None,
  statistic: Statistic = logit_confidence,
  chunk_size: int = 1024,
) -> jax.Array:
  """A statistic of rows under one model, over augmented queries.

  Targets and shadows must be asked alike: the same `key` gives the same
  queries.

  Args:
    model: the model.
    variables: its variables.
    query: {"x": [Q, ...], "label": [Q]}.
    augment: None asks about the rows as they are, once. Or `(key, inputs) ->
      inputs`, applied to all rows of "x" at once, with a key for each query.
    num_queries: static, A; 1 without `augment`.
    key: PRNG key, needed with `augment`.
    statistic: `(outputs [B, ...], labels [B]) -> [B]`; high should speak for
      membership.
    chunk_size: static; rows at a time. Outputs of so many are in memory, and
      one augmented copy of the inputs.

  Returns:
    [Q, A], float32 or wider.

  Raises:
    ValueError: counts that are not positive, queries without `augment`, an
      `augment` without key, a statistic that is not one number a row.

  Example:
    >>> from jaxunlearn import attacks, toy
    >>> problem = toy.classifier()
    >>> found = attacks.query_statistics(
    ...   problem.model, problem.variables, problem.data,
    ...   statistic=attacks.correctness)
    >>> found.shape, round(float(found.mean()), 2)
    ((60, 1), 0.97)
  """
  checks.counts(num_queries=num_queries, chunk_size=chunk_size)
  num_rows = checks.num_rows(query, "query")
  if augment is None and num_queries != 1:
    raise ValueError(
      f"Expected num_queries=1 without augment, got {num_queries}."
    )

  def apply(variables, rows, *, train=False, key=None):
    del train, key
    values = statistic(model.predict(variables, rows["x"]), rows["label"])
    wanted = rows["label"].shape[:1]
    if values.shape != wanted:
      raise ValueError(
        f"Expected statistic to return shape {wanted}, one number a row, got "
        f"{values.shape}."
      )
    return values, variables.model_state

  def ask(inputs: PyTree) -> jax.Array:
    rows = {"x": inputs, "label": query["label"]}
    asked = model._replace(apply=apply)
    return predict(asked, variables, rows, chunk_size=chunk_size)

  query = jax.tree.map(jnp.asarray, query)
  if augment is None:
    values = ask(query["x"])[None]
  elif key is None:
    raise ValueError("Expected a key for the augmented queries, got None.")
  else:
    keys = jax.random.split(key, num_queries)
    values = jax.lax.map(lambda k: ask(augment(k, query["x"])), keys)
  dtype = jnp.promote_types(jnp.float32, values.dtype)
  return values.astype(dtype).reshape(num_queries, num_rows).T


def _ranks(key: jax.Array, num_models: int, num_rows: int) -> jax.Array:
  """A random order of the models for each row; int [S, N]."""
  draws = jax.random.uniform(key, (num_models, num_rows))
  return jnp.argsort(draws, axis=0)


def _whole_share(num_models: int, share: float) -> int:
  """S * share, which must be a whole number of models on either side."""
  if not num_models >= 2:
    raise ValueError(f"Expected num_models >= 2, got {num_models}.")
  members = round(num_models * share)
  if abs(members - num_models * share) > 1e-6:
    raise ValueError(
      "Expected num_models * share to be a whole number, got "
      f"{num_models} * {share}."
    )
  if not 0 < members < num_models:
    raise ValueError(
      f"Expected share to leave models on both sides, got {members} of "
      f"{num_models}."
    )
  return members
