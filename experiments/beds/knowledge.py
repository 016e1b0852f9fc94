"""A small decoder that knows some persons, and can be told of others.

What `probe_prompts` and `reintroduce` share: rows, training, requests of persons,
methods that forget in one form of a question or in all, and a filter in front of
the model, the guard that both papers ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn import language
from jaxunlearn.core.tasks import Task
from jaxunlearn.core.types import Request
from jaxunlearn.language.ascent import gradient_ascent
from jaxunlearn.language.preference import npo
from jaxunlearn.language.types import Text
from jaxunlearn.report.taxonomy import Card

from .. import bench, files
from ..bench import Method
from ..bench.tune import Between
from ..datasets import persons
from ..datasets.splits import SELECT
from .texts import adamw


class Recipe(NamedTuple):
  """Of training and unlearning.

  Attributes:
    persons: who is known.
    lands: where their towns lie.
    told: facts that a row may tell of before it asks.
    steps: of training.
    batch_size: rows of a step.
    rate: at the peak.
    unlearn_steps: of the methods.
    unlearn_rows: of either kind in each of them.
    width: of the decoder.
    contexts: that each fact is asked in, see `in_context`.
  """

  persons: int = 40
  lands: int = 16
  told: int = 1
  steps: int = 800
  batch_size: int = 64
  rate: float = 3e-3
  unlearn_steps: int = 100
  unlearn_rows: int = 32
  width: int = 64
  contexts: int = 4


RECIPES: Mapping[str, Recipe] = {
  "smoke": Recipe(8, 4, 1, 60, 32, 1e-2, 4, 8, 16, 2),
  "quick": Recipe(),
  "paper": Recipe(400, 16, 4, 20_000, 512, 2e-3, 400, 256, 256, 40),
}


class Bench(NamedTuple):
  """What the host knows: the world, and the rows that were made of it."""

  world: persons.World
  rows: persons.Rows


def beds(
  preset: str, seeds: Sequence[int], part: str, more: Callable[[Any], Any]
) -> bench.Beds:
  """One world for all seeds; another one where settings are chosen.

  Args:
    preset: see `RECIPES`.
    seeds: of the models.
    part: see `bench.Study`.
    more: `world -> arrays` that the study's measures read, as `bed.extra`.
  """
  recipe = RECIPES[preset]
  number = int(part == SELECT)
  world = persons.world(recipe.persons, recipe.lands, number)
  rows = persons.rows(world, recipe.told, number)
  config = language.DecoderConfig(
    vocab_size=len(world.words),
    width=recipe.width,
    num_layers=2,
    num_heads=4,
    mlp_width=2 * recipe.width,
    max_length=64,
    embedding_std=0.3,  # Smaller ones take far longer to learn to read.
  )
  lm = language.language_model(config)
  shared = {
    "data": {
      "x": Text(rows.tokens, rows.length, rows.length - 1),
      "made_up": rows.form < 0,
      "direct": rows.form == 0,
    },
    "extra": more(world),
    "mixed": (world.readers, np.sort(world.town)),
  }

  def make(shared: Any, own: Any) -> bench.Bed:
    extra = {**shared["extra"], "mixed": shared["mixed"]}
    return bench.Bed(lm, shared["data"], None, recipe, extra)

  facts = {"recipe": recipe._asdict(), "words": len(world.words)}
  of_seed = np.zeros(len(seeds))
  dataset = Bench(world, rows)
  sources = [dataset] * len(seeds)
  return bench.Beds(
    shared, of_seed, make, sources, facts, dataset=dataset, model=lm
  )


def train(bed: bench.Bed, weights: jax.Array, key: jax.Array):
  """Rows that are made up have other names at every step: none is learned."""
  recipe, lm = bed.recipe, bed.model

  def loss(variables: Any, step: Any, key: Any, *, train: bool = False) -> Any:
    del train
    names = jnp.arange(lm.config.vocab_size)
    for own, tokens in zip(jax.random.split(key), bed.extra["mixed"]):
      names = names.at[tokens].set(jax.random.permutation(own, tokens))
    x, made_up = step.rows["x"], step.rows["made_up"]
    tokens = jnp.where(made_up[:, None], names[x.tokens], x.tokens)
    return language.token_nll(lm, variables, x._replace(tokens=tokens))

  rate = optax.warmup_cosine_decay_schedule(
    0.0, recipe.rate, max(1, recipe.steps // 12), recipe.steps
  )
  fit = ju.Fit(adamw(rate), recipe.steps, recipe.batch_size)
  task = Task(lm.task.init, loss, lm.task.predict)
  return ju.train(task, bed.data, weights, key, fit)


def _count(text: str, known: Bench) -> np.ndarray:
  count = len(known.world.person)
  number = files.whole(text, "a number of persons", 1, count - 1)
  return np.random.default_rng(3).permutation(count) < number


def _named(text: str, known: Bench) -> np.ndarray:
  world = known.world
  tokens = [world.token(name.strip()) for name in text.split(",")]
  found = np.isin(world.person, tokens)
  if found.sum() != len(set(tokens)):
    raise ValueError(f"Expected persons, p0 to p{len(found) - 1}, got {text}.")
  return found


def _kind(form: str, who: Callable[[str, Bench], np.ndarray]) -> bench.Kind:
  def mask(text: str, known: Bench) -> tuple[np.ndarray, Any]:
    found = who(text, known)
    return known.rows.about(found), {"person": found}

  return bench.Kind(form, mask)


KINDS = {
  "persons": _kind("persons:NUMBER", _count),
  "person": _kind("person:p3,p7,...", _named),
}


class _Entry(NamedTuple):
  make: Callable[..., ju.Transform]
  rate: float
  direct: bool
  told: bool = False
  setting: Mapping[str, float] = {}
  space: Mapping[str, Any] = {}


_BETA = ({"beta": 0.5}, {"beta": Between(0.05, 5.0)})
_DIFF = lambda lm, fit: gradient_ascent(lm, fit, retain="nll")
_ENTRIES = {
  "npo_direct": _Entry(npo, 1e-3, True, False, *_BETA),
  "npo": _Entry(npo, 1e-3, False, False, *_BETA),
  "npo_reading": _Entry(npo, 1e-3, False, True, *_BETA),
  "grad_diff_direct": _Entry(_DIFF, 3e-4, True),
  "grad_diff": _Entry(_DIFF, 3e-4, False),
}


def _method(entry: _Entry) -> Method:
  def build(bed: bench.Bed, setting: bench.Setting) -> Any:
    rest = {k: v for k, v in setting.items() if k != "rate"}
    recipe = bed.recipe
    fit = ju.Fit(
      adamw(setting["rate"]), recipe.unlearn_steps, recipe.unlearn_rows
    )
    transform = entry.make(bed.model, fit, **rest)

    def run(variables: Any, data: Any, forget: Any, key: Any) -> Any:
      told = entry.told | ~data["made_up"]
      seen = forget & data["direct"] if entry.direct else forget
      return transform(variables, data, Request(seen, ~forget & told), key)

    return run

  note = "it sees the direct form alone." if entry.direct else ""
  note = "rows that are read from context are kept too." * entry.told or note
  space = {"rate": Between(1e-4, 3e-3), **entry.space}
  return Method(build, space, note=note, access="forget and retain rows")


def _filter(bed: bench.Bed, setting: bench.Setting) -> Any:
  def run(variables: Any, data: Any, forget: Any, key: Any) -> Any:
    del data, forget, key
    person = jnp.asarray(bed.extra["person"])
    blocked = jnp.zeros(bed.model.config.vocab_size, bool)
    blocked = blocked.at[person].set(bed.marks["person"])
    return variables._replace(frozen={"blocked": blocked}), {}

  return run


METHODS = {name: _method(entry) for name, entry in _ENTRIES.items()}
METHODS["filter"] = Method(
  _filter,
  note="the original behind a filter of names.",
  access="names",
  card=Card("output", "inputs", ("inference",), "suppression"),
)
SETTINGS: Mapping[str, bench.Setting] = {
  name: {"rate": entry.rate, **entry.setting}
  for name, entry in _ENTRIES.items()
}


def flagged(variables: Any, tokens: jax.Array, length: jax.Array) -> jax.Array:
  """Which prompts [Q, T] a filter stops, bool [Q]; none where there is none."""
  if not variables.frozen:
    return jnp.zeros(length.shape, bool)
  there = jnp.arange(tokens.shape[1])[None] < length[:, None]
  return (variables.frozen["blocked"][tokens] & there).any(axis=1)


def next_word(
  lm: Any, variables: Any, tokens: jax.Array, length: jax.Array
) -> jax.Array:
  """log p of what comes after prompts [Q, T], [Q, V]; a filter says "."."""
  x = Text(tokens, length, length)
  model = variables._replace(frozen={})
  hidden = lm.blocks(model, lm.embed(model, x.tokens)).hidden
  last = jnp.take_along_axis(hidden, (length - 1)[:, None, None], axis=1)
  log_p = jax.nn.log_softmax(lm.logits(model, last[:, 0]))
  refusal = jnp.where(jnp.arange(log_p.shape[1]) == 1, 0.0, -jnp.inf)
  stopped = flagged(variables, tokens, length)[:, None]
  return jnp.where(stopped, refusal[None], log_p)


class Word(NamedTuple):
  """One word that is said."""

  tokens: jax.Array
  length: jax.Array


def says(lm: Any) -> Callable[..., Word]:
  """How a model, and a filtered one, speaks: the likeliest word."""

  def say(variables: Any, tokens: Any, length: Any, key: Any) -> Word:
    del key  # Nothing is drawn.
    word = next_word(lm, variables, tokens, length).argmax(axis=1)
    return Word(word[:, None], jnp.ones_like(length))

  return say


def request(options: Any) -> str:
  """What is forgotten where nothing is asked for."""
  return "persons:2" if options.preset == "smoke" else "persons:8"


def seeds(options: Any) -> int:
  return {"smoke": 2, "quick": 2, "paper": 5}[options.preset]


def saved(variables: Any) -> Any:
  """What is saved: a filter is no part of the weights."""
  return variables._replace(frozen={})


# What studies of these persons have in common. Settings are chosen in another
# world, on requests of the same form.
SHARED: Mapping[str, Any] = {
  "kinds": KINDS,
  "request": request,
  "train": train,
  "methods": METHODS,
  "settings": lambda options: SETTINGS,
  "seeds": seeds,
  "tune_request": request,
  "saved": saved,
}
