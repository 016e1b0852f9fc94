"""What all methods of this room optimise: triples of the drawn interactions."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain, edit, provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.types import (
  Batch,
  Draw,
  Info,
  PyTree,
  Transform,
  Variables,
)
from jaxunlearn.losses.ranking import bpr, reverse_bpr
from jaxunlearn.recsys.negatives import draw_unseen, make_history
from jaxunlearn.recsys.types import (
  Embeddings,
  Recommender,
  check_data,
  check_weights,
)

_TEMPERATURE = 0.2
SETS = ("retain", "full")


def with_graph(model: Recommender, graph: str = "retain") -> Transform:
  """The link that checks the request and provides the interaction graph."""
  checks.one_of(SETS, graph=graph)

  def make(carry, data, forget_mask, key):
    check_data(data, forget_mask, model.num_users, model.num_items)
    nothing = jnp.zeros(forget_mask.shape, bool)
    return model.graph(data, forget_mask if graph == "retain" else nothing)

  return provide("graph", make)


def with_history(model: Recommender, history: str = "full") -> Transform:
  """The link that provides what negatives are drawn around.

  Args:
    model: the model.
    history: "full": an item that a user ever interacted with, forgotten or not,
      is no negative. "retain": forgotten rows are not read at all.
  """
  checks.one_of(SETS, history=history)

  def make(carry, data, forget_mask, key):
    weight = jnp.asarray(forget_mask).astype(jnp.float32)
    counted = weight < 1 if history == "retain" else weight >= 0
    return make_history(data, counted, model.num_users, model.num_items)

  return provide("history", make)


def row_keys(key: jax.Array, batch: Batch) -> jax.Array:
  """A key for each row that depends on the row and not on its slot.

  So the retained rows of a step get the same negatives whether or not forgotten
  rows are drawn beside them.
  """
  tag = batch.row_id.astype(jnp.uint32) + batch.epoch.astype(
    jnp.uint32
  ) * jnp.uint32(0x9E3779B9)
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, tag)


def triples(
  model: Recommender,
  *,
  forget_loss: Callable[[jax.Array, jax.Array], jax.Array] = reverse_bpr,
  positives: Callable[[Batch], jax.Array] | None = None,
) -> Callable[..., jax.Array]:
  """The objective: BPR of retained rows, another loss of forgotten ones.

  The model's penalty and contrastive term are added to retained rows. A row
  whose user has seen every item has no negative and a loss of 0.

  Args:
    model: the model.
    forget_loss: `(positive, negative) -> [B]` for rows of the request.
    positives: None takes the rows' items; or `batch -> int [B]`.
  """

  def objective(
    variables: Variables, batch: Batch, key: jax.Array
  ) -> jax.Array:
    extra = batch.context.extra
    made = model.embed(variables, extra["graph"])
    user, item = batch.rows["x"][:, 0], batch.rows["x"][:, 1]
    if positives is not None:
      item = positives(batch)
    other, has_one = draw_unseen(extra["history"], user, row_keys(key, batch))
    parts = made.users[user], made.items[item], made.items[other]
    of_user, of_item, of_other = (
      p.astype(jnp.promote_types(jnp.float32, p.dtype)) for p in parts
    )
    positive = (of_user * of_item).sum(axis=1)
    negative = (of_user * of_other).sum(axis=1)
    squares = sum((p**2).sum(axis=1) for p in (of_user, of_item, of_other))
    forward = bpr(positive, negative) + 0.5 * model.penalty * squares
    losses = jnp.where(batch.forget, forget_loss(positive, negative), forward)
    losses = jnp.where(has_one, losses, 0.0)
    if made.views:
      counted = (batch.weight > 0) & ~batch.forget
      contrast = _contrast(made, user, item, counted)
      losses = losses + model.contrast_weight * contrast
    return losses

  return objective


def _contrast(
  made: Embeddings, user: jax.Array, item: jax.Array, counted: jax.Array
) -> jax.Array:
  """InfoNCE between the two views of a batch's users, and of its items.

  Source: arXiv:2308.03588. Returns [B], 0 for rows that are not counted.
  """

  def one(pair: tuple[jax.Array, jax.Array], rows: jax.Array) -> jax.Array:
    first, second = (_unit(view[rows]) for view in pair)
    logits = first @ second.T / _TEMPERATURE
    logits = jnp.where(counted[None, :], logits, -jnp.inf)
    own = (first * second).sum(axis=1) / _TEMPERATURE
    # A row of its own in the sum keeps it finite for rows that do not count.
    total = jax.nn.logsumexp(
      jnp.where(jnp.eye(len(rows), dtype=bool), own[:, None], logits), axis=1
    )
    return jnp.where(counted, total - own, 0.0)

  users, items = made.views
  return one(users, user) + one(items, item)


def _unit(x: jax.Array) -> jax.Array:
  wide = x.astype(jnp.promote_types(jnp.float32, x.dtype))
  square = (wide**2).sum(axis=1, keepdims=True)
  return wide * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def fitting(
  model: Recommender,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
  graph: str = "retain",
  history: str = "full",
  name: str = "fit",
) -> Transform:
  """Fits BPR on the retained interactions.

  Args:
    model: the model.
    optimizer: starts fresh.
    num_steps: static.
    batch_size: retained interactions a step, one negative each.
    graph: "retain" or "full", see `with_graph`.
    history: "retain" or "full", see `with_history`.
    name: the key of its info in a chain.
  """
  checks.positive(batch_size=batch_size)
  fit = phase(
    triples(model), optimizer, num_steps, draw=Draw(retain=batch_size)
  )
  return chain(
    with_graph(model, graph), with_history(model, history), fit, name=name
  )


def retrain(
  model: Recommender,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
) -> Transform:
  """Trains from scratch on the retained interactions: the gold standard.

  Exact: nothing of a forgotten row is read, neither as an edge nor as an item
  that is no negative. With an empty request and the key of `train` it gives
  the original back, up to rounding.

  Args:
    model: the model.
    optimizer: that of the original training.
    num_steps: that of the original training.
    batch_size: that of the original training.
  """

  def fresh(variables, data, forget_mask, key):
    return jax.tree.map(
      lambda new, old: new.astype(old.dtype), model.init(key), variables
    )

  fit = fitting(
    model,
    optimizer=optimizer,
    num_steps=num_steps,
    batch_size=batch_size,
    history="retain",
  )
  return chain(edit(fresh, reads="nothing", name="init"), fit, name="retrain")


def train(
  model: Recommender,
  data: PyTree,
  weights: jax.Array,
  key: jax.Array,
  *,
  optimizer: optax.GradientTransformation,
  num_steps: int,
  batch_size: int,
) -> tuple[Variables, Info]:
  """Trains a fresh recommender on the interactions that a mask selects.

  Args:
    model: what to train.
    data: {"x": int [N, 2]}.
    weights: bool [N], True = train on the interaction; or float in [0, 1].
    key: decides the initial params, the order of rows and the negatives.
    optimizer: any optax optimiser.
    num_steps: static.
    batch_size: static; interactions a step.

  Returns:
    The trained variables, and the info of `fitting`.

  Raises:
    ValueError: ids out of range, weights of a wrong shape or dtype, or that
      select nothing.
  """
  check_weights(data, weights)
  weights = jnp.asarray(weights)
  left_out = ~weights if weights.dtype == jnp.bool_ else 1 - weights
  init_key, fit_key = jax.random.split(key)
  fit = fitting(
    model,
    optimizer=optimizer,
    num_steps=num_steps,
    batch_size=batch_size,
    history="retain",
  )
  return fit(model.init(init_key), data, left_out, fit_key)
