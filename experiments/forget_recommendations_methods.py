"""Recommenders, and the methods that make them forget, as pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import optax

from jaxunlearn import recsys
from jaxunlearn.core.tasks import Fit
from jaxunlearn.recsys.receraser import AGGREGATE
from jaxunlearn.recsys.types import Recommender

POPULARITY, SHARDS, MMRECUN = "popularity", "shards", "mmrecun"
# What trains nothing; a speed-up of it says nothing.
INSTANT = (POPULARITY, "unlink")
METHODS = (
  POPULARITY,
  "unlink",
  "finetune",
  "gradient_ascent",
  "amnesiac",
  SHARDS,
  MMRECUN,
)
MODELS = ("bpr_mf", "lightgcn", "mgcn")
# Weight of the kept interactions in MMRecUN, by kind of request.
ALPHAS: Mapping[str, float] = {
  "users": 0.97,
  "items": 0.9,
  "group": 0.9,
  "preference": 0.99,
  "interactions": 0.99,
  "index": 0.99,
}


class Recipe(NamedTuple):
  """How models are trained and how methods are set; all optimise by Adam.

  Attributes:
    dim: width of the embeddings.
    steps: of training and of retraining.
    rate: learning rate of everything.
    batch_size: interactions a step.
    unlearn_steps: of MMRecUN, fine-tuning and amnesiac unlearning.
    ascent_steps: of gradient ascent.
    num_shards: models of shard-and-aggregate.
    shard_steps: of each of them.
    aggregator_steps: of what joins them.
  """

  dim: int
  steps: int
  rate: float
  batch_size: int
  unlearn_steps: int
  ascent_steps: int
  num_shards: int
  shard_steps: int
  aggregator_steps: int


def make_model(name: str, data: recsys.Dataset, dim: int) -> Recommender:
  """One of `MODELS`.

  Raises:
    ValueError: a multi-modal model of data without modalities.
  """
  sizes = data.num_users, data.num_items
  if name == "bpr_mf":
    return recsys.bpr_mf(*sizes, dim=dim)
  if name == "lightgcn":
    return recsys.lightgcn(*sizes, dim=dim, features=data.features or None)
  if not data.features:
    raise ValueError(
      "Expected data with features of items for --model mgcn, got none."
    )
  return recsys.mgcn(*sizes, data.features, dim=dim)


def method(model: Recommender, recipe: Recipe, name: str) -> Callable[..., Any]:
  """What makes a model, as a pure function.

  Args:
    model: the recommender.
    recipe: see `Recipe`.
    name: one of `METHODS`, "original", "retrained" or "first_shards".

  Returns:
    `(data, start, forget_mask, key, alpha) -> variables`. Of "original" `(data,
    key)`; of "first_shards", the first training of the shards, `(data, start,
    key) -> (variables, shard)`, with which "shards" starts.
  """
  adam = optax.adam(recipe.rate)
  training = Fit(adam, recipe.steps, recipe.batch_size)
  tuning = training._replace(num_steps=recipe.unlearn_steps)
  sharding = training._replace(num_steps=recipe.shard_steps)
  joining = AGGREGATE._replace(
    num_steps=recipe.aggregator_steps, batch_size=recipe.batch_size
  )
  count = recipe.num_shards
  if name == "original":
    return lambda data, key: recsys.train(
      model, data, _everything(data), key, training
    )[0]
  if name == "retrained":
    return lambda data, start, forget, key, alpha: recsys.train(
      model, data, ~forget, key, training
    )[0]
  if name == POPULARITY:
    return lambda data, start, forget, key, alpha: recsys.popularity(
      data, ~forget, model.num_users, model.num_items
    )
  if name == "first_shards":

    def first(data, start, key):
      part_key, fit_key = jax.random.split(key)
      made = model.embed_under(start, data, ~_everything(data))
      shard = recsys.balanced_shards(made, data, count, part_key, by="user")
      weights = _everything(data)
      fit = recsys.train_shards(
        *(model, shard, count, data, weights, fit_key, sharding),
        aggregator=joining,
      )
      return fit[0], shard

    return first
  if name == SHARDS:

    def again(data, start, forget, key, alpha):
      variables, shard = start
      method = recsys.receraser(
        model, shard, count, sharding, aggregator=joining
      )
      return method(variables, data, forget, key)[0], shard

    return again

  def unlearn(data, start, forget, key, alpha):
    made = {
      "unlink": recsys.unlink,
      "finetune": lambda: recsys.finetune(model, tuning),
      "gradient_ascent": lambda: recsys.gradient_ascent(
        model, training._replace(num_steps=recipe.ascent_steps)
      ),
      "amnesiac": lambda: recsys.amnesiac(model, tuning),
      MMRECUN: lambda: recsys.mmrecun(model, tuning, retain_weight=alpha),
    }
    return made[name]()(start, data, forget, key)[0]

  return unlearn


def _everything(data: Any) -> jax.Array:
  """True for every row; not a constant, or XLA would sort it at compile time."""
  return data["x"][:, 0] >= 0
