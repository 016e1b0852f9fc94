"""Methods that get a name alone: they write their corpus, or guard the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxunlearn as ju
from jaxunlearn import language
from jaxunlearn.core import keys
from jaxunlearn.core.types import Request
from jaxunlearn.language.ascent import gradient_ascent, idk
from jaxunlearn.language.dpo import dpo
from jaxunlearn.language.entity_guards import (
  activation_guard,
  control_vector,
  prefix_guard,
)
from jaxunlearn.language.own_words import own_words, spliced
from jaxunlearn.language.preference import npo
from jaxunlearn.language.types import Text
from jaxunlearn.report.taxonomy import Card

from .. import bench
from ..bench import Method
from ..bench.tune import Between
from . import texts


def guarded(case: bench.Case) -> language.LanguageModel:
  """The model, behind the guard that its variables come with."""
  lm, given = case.bed.model, case.variables.frozen
  if "prefix" in given:
    lm = prefix_guard(lm, *given["prefix"])
  if "vector" in given:
    lm = activation_guard(lm, given["vector"], given["strength"])
  return lm


def _who(bed: bench.Bed, count: int) -> jax.Array:
  """The entities of the request in turn, int [count]."""
  places, there = bed.marks["entities"]
  return places[jnp.arange(count) % jnp.maximum(there.sum(), 1)]


def _corpus(bed: bench.Bed, variables: Any, key: jax.Array, start: str) -> Text:
  who = _who(bed, bed.recipe.sample)
  starts = jax.tree.map(lambda leaf: leaf[who], bed.extra[start])
  return own_words(
    bed.model,
    variables,
    starts,
    keys.derive(key, start),
    max_new=bed.recipe.max_new,
    stop=bed.extra["stop"],
  )


def _answer(x: Text, width: int) -> tuple[jax.Array, jax.Array]:
  """What counts in each row, as a piece of so many tokens at most."""
  place = jnp.arange(width)[None] + x.prompt[:, None]
  inside = jnp.minimum(place, x.tokens.shape[1] - 1)
  tokens = jnp.take_along_axis(x.tokens, inside, axis=1)
  return tokens, jnp.minimum(x.length - x.prompt, width)


def _told(bed: bench.Bed, variables: Any, key: jax.Array) -> dict[str, Text]:
  """Its own texts, and beside them such texts on somebody who does not exist."""
  own = _corpus(bed, variables, key, "talk")
  other = _corpus(bed, variables, key, "nobody")
  width = bed.recipe.max_new + 1
  asked = own.tokens[:, :-width], own.prompt
  return {"x": own, "alternative": spliced([asked], [_answer(other, width)])}


def _refused(bed: bench.Bed, variables: Any, key: jax.Array) -> dict[str, Text]:
  """Questions that it asks itself, and refusals."""
  own = _corpus(bed, variables, key, "ask")
  count, stop = len(own.length), bed.extra["stop"]
  refusal = jax.tree.map(
    lambda leaf: leaf[_who(bed, count)], bed.extra["refusal"]
  )
  frame = [
    (jnp.tile(part[None], (count, 1)), jnp.full(count, len(part)))
    for part in map(jnp.asarray, bed.extra["frame"])
  ]
  tokens, length = _answer(own, bed.recipe.max_new)
  # Without the mark of its end, which stands behind what was asked.
  there = jnp.arange(tokens.shape[1])[None] < length[:, None]
  length = (there & (tokens != stop)).sum(axis=1)
  asked = [frame[0], (tokens, length), frame[1]]
  x = spliced(asked, [_answer(refusal, bed.recipe.max_new)])
  return {"x": x, "alternative": x}


def _by_name(make: Callable[..., Any], rows: Callable[..., Any] | None) -> Any:
  def build(bed: bench.Bed, setting: bench.Setting) -> Any:
    rest = {k: v for k, v in setting.items() if k != "rate"}
    recipe = bed.recipe
    optimizer = texts.adamw(setting["rate"])
    fit = ju.Fit(optimizer, recipe.unlearn_steps, recipe.batch_size)
    method = make(bed.model, fit, retain=None, **rest)

    def run(variables: Any, data: Any, forget: Any, key: Any) -> Any:
      if rows is None:
        return method(variables, data, Request(forget, ~forget), key)
      made = rows(bed, variables, keys.derive(key, "corpus"))
      every = jnp.ones(len(made["x"].length), bool)
      return method(variables, made, Request(every, ~every), key)

    return run

  return build


def _prefixed(bed: bench.Bed, setting: bench.Setting) -> Any:
  def run(variables: Any, data: Any, forget: Any, key: Any) -> Any:
    tokens, there = (
      jnp.asarray(part)[bed.marks["entities"][0]].ravel()
      for part in bed.extra["prefix"]
    )
    asked = jnp.repeat(bed.marks["entities"][1], len(tokens) // 4)
    return variables._replace(frozen={"prefix": (tokens, there & asked)}), {}

  return run


def _pushed(bed: bench.Bed, setting: bench.Setting) -> Any:
  def run(variables: Any, data: Any, forget: Any, key: Any) -> Any:
    who = _who(bed, 4)
    sides = (
      jax.tree.map(lambda leaf: leaf[who], bed.extra[side])
      for side in ("novice", "expert")
    )
    sides = (x._replace(length=x.prompt) for x in sides)
    guard = {
      "vector": control_vector(bed.model, variables, *sides),
      "strength": jnp.asarray(setting["strength"], jnp.float32),
    }
    return variables._replace(frozen=guard), {}

  return run


_RATE = {"rate": Between(1e-5, 3e-3)}
_NAME = "the name"


def _named(
  make: Any, rows: Any, goal: str, note: str = "", **space: Any
) -> Method:
  """A method that gets the name, or rows where there are none of its own."""
  access = (_NAME, ()) if rows else ("forget rows", ("forget",))
  intention = "suppression" if goal == "redirection" else "removal"
  card = Card(goal, "parameters", access[1], intention, granularity="concept")
  build = _by_name(make, rows)
  return Method(build, {**_RATE, **space}, note, access[0], card=card)


def _guard(build: Any, note: str, level: str, **space: Any) -> Method:
  card = Card("output", level, ("inference",), "suppression")
  return Method(build, space or None, note, _NAME, card=card)


_BETA = Between(0.05, 2.0)
METHODS = {
  "ga": _named(gradient_ascent, _told, "likelihood"),
  "npo": _named(npo, _told, "likelihood", beta=_BETA),
  "dpo": _named(
    dpo,
    _told,
    "redirection",
    "its positives are what it says of a name that nobody has.",
    beta=_BETA,
  ),
  "rt": _named(
    idk, _refused, "redirection", "refusals of questions that it asks itself."
  ),
  "ga_true": _named(
    gradient_ascent, None, "likelihood", "GA*, on the true rows."
  ),
  "icu": _guard(_prefixed, "a sentence before every prompt.", "inputs"),
  "repe": _guard(
    _pushed,
    "a push on activations.",
    "representations",
    strength=Between(0.25, 4.0),
  ),
}
SETTINGS: dict[str, bench.Setting] = {
  "ga": {"rate": 2e-4},
  "npo": {"rate": 5e-4, "beta": 0.2},
  "dpo": {"rate": 5e-4, "beta": 0.1},
  "rt": {"rate": 5e-4},
  "ga_true": {"rate": 2e-4},
  "icu": {},
  "repe": {"strength": 1.0},
}
