"""How a language model is looked at: scores of rows, what it says, two attacks."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn import language
from jaxunlearn.attacks.anamnesis import relearning
from jaxunlearn.attacks.quantization import quantize, quantize_nf4
from jaxunlearn.core import keys
from jaxunlearn.language.generation import generate
from jaxunlearn.language.types import Text
from jaxunlearn.metrics import text as scores

from ..bench import Case
from .texts import adamw

_CHUNK = 40  # Rows whose logits are there at once.


def look(case: Case, variables: Any, x: Text) -> language.TokenScores:
  """Token scores of rows [E, L], some rows at a time.

  Args:
    case: of any study; only its model is read.
    variables: of the model.
    x: [E, L].
  """
  one = lambda row: jax.tree.map(
    lambda leaf: leaf[0],
    language.token_scores(
      case.bed.model, variables, jax.tree.map(lambda leaf: leaf[None], row)
    ),
  )
  return jax.lax.map(one, x, batch_size=_CHUNK)


def mean(values: jax.Array, there: jax.Array) -> jax.Array:
  """Of those that are there; nan where none is."""
  total = jnp.where(there, values, 0).sum()
  return jnp.where(there.any(), total / jnp.maximum(there.sum(), 1), jnp.nan)


def rows_of(case: Case) -> dict[str, tuple[Text, jax.Array, jax.Array]]:
  """By kind the rows, which of them count, and their places."""
  of = {"forget": case.bed.data["x"], "retain": case.bed.data["x"]}
  of["held"] = case.bed.test["x"]
  return {
    kind: (jax.tree.map(lambda leaf, r=rows: leaf[r], of[kind]), there, rows)
    for kind, (rows, there) in case.marks.items()
  }


def say(case: Case, x: Text) -> language.Generated:
  """What the model says after the prompts, greedily."""
  return generate(
    case.bed.model,
    case.variables,
    x,
    keys.derive(case.key, "say"),
    max_new=case.bed.recipe.max_new,
    stop=case.bed.extra["stop"],
  )


def decoded(tokenizer: Any, tokens: Any, lengths: Any) -> list[str]:
  """Generated tokens as texts."""
  rows = zip(tokens, lengths.astype(int))
  return tokenizer.decode_batch([row[:n].tolist() for row, n in rows])


def exact_match(
  case: Case, variables: Any, x: Text, there: jax.Array
) -> jax.Array:
  """Mean share of the answers' tokens that come first, of the rows there."""
  own = look(case, variables, x)
  return mean(scores.exact_memorisation(own.is_top, own.mask), there)


def relearned(case: Case, score: Any) -> jax.Array:
  """The score after training on every other forget row, at the worse of two rates.

  Args:
    case: see there; its recipe has the attack's.
    score: `(variables, seen) -> scalar`; seen, bool [N], are the rows that the
      attack was trained on.
  """
  bed, recipe = case.bed, case.bed.recipe
  seen = case.forget & (jnp.cumsum(case.forget) % 2 == 1)

  def after(rate: jax.Array) -> jax.Array:
    attack = relearning(
      bed.model,
      num_steps=recipe.relearn_steps,
      batch_size=recipe.batch_size,
      optimizer=adamw(rate),
    )
    key = keys.derive(case.key, "relearn")
    again, _ = attack(case.variables, bed.data, seen, key)
    return score(again, seen)

  return worse(after, recipe.relearn_rate)


def rounded(variables: Any) -> dict[str, Any]:
  """The variables at 8 bits and in NF4, by name; each layer has its own scales."""
  params = variables.params
  return {
    name: variables._replace(
      params={**params, "blocks": jax.vmap(fn)(params["blocks"])}
    )
    for name, fn in (
      ("int8", lambda layer: quantize(layer, 8)),
      ("nf4", quantize_nf4),
    )
  }


def disturbed(case: Case, score: Any) -> dict[str, jax.Array]:
  """The most that a score of variables is, by name, when the weights are disturbed.

  A tenth of each array's weights, the smallest, is cut off ("pruned"); three draws
  of noise a thousandth as large as they are added ("noised"); and they go back by
  up to a quarter of the way to the original ("nearer"). What small changes had
  hidden comes out again.
  """
  variables = case.variables
  with_params = lambda params: score(variables._replace(params=params))
  bare = jax.tree.leaves(case.original.params)
  leaves, tree = jax.tree.flatten(variables.params)

  def pruned(leaf: jax.Array) -> jax.Array:
    size = jnp.abs(leaf)
    return jnp.where(size < jnp.quantile(size, 0.1), 0, leaf)

  def noised(key: jax.Array) -> jax.Array:
    own = jax.random.split(key, len(leaves))
    return with_params(
      jax.tree.unflatten(
        tree,
        [
          w + 1e-3 * w.std() * jax.random.normal(k, w.shape, w.dtype)
          for w, k in zip(leaves, own)
        ],
      )
    )

  def nearer(share: jax.Array) -> jax.Array:
    part = [w + share * (b - w) for w, b in zip(leaves, bare)]
    return with_params(jax.tree.unflatten(tree, part))

  draws = jax.random.split(keys.derive(case.key, "noise"), 3)
  return {
    "pruned": with_params(jax.tree.map(pruned, variables.params)),
    "noised": jax.lax.map(noised, draws).max(),
    "nearer": jax.lax.map(nearer, jnp.array([0.05, 0.1, 0.25])).max(),
  }


def worse(after: Any, rate: float) -> jax.Array:
  """The larger of two numbers, after attacks at a rate and at three times it.

  Where training diverges at one, nan, nothing was brought back; it is nan only
  where both are.
  """
  return jnp.nanmax(jax.lax.map(after, rate * jnp.array([1.0, 3.0])))
