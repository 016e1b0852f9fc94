"""Language models: the rows, decoders and training that studies of them share.

A study has `Pairs` of questions and answers, or documents as a `Text` of its own.
Of the first kind it wants `corpus` and `pair_beds`; of the second `begin`,
`config_of` and `model_of`. Both train by `train`, forget by `text_methods.METHODS`
and look by `text_measures`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn import language
from jaxunlearn.language.phrases import telling
from jaxunlearn.language.types import Text

from .. import bench, files
from ..data import data_folder
from ..datasets import tofu
from ..flags import described

Weights = Annotated[
  str,
  described(
    "What training begins from: scratch, smollm2, or a folder of Hugging Face.",
    "scratch|smollm2|DIR",
  ),
]


@dataclasses.dataclass(frozen=True)
class TofuOptions(bench.CommonOptions):
  """Flags of a study whose rows are TOFU's, or of people who were made up."""

  benchmark: Annotated[
    Literal["tofu", "people"] | None,
    described(
      "Rows: TOFU (wants --data-dir), or people made up on the spot, which smoke "
      "has where there is no folder."
    ),
  ] = None

  data: str | None = None

  def __post_init__(self) -> None:
    if self.benchmark is None:
      is_short = self.preset == "smoke" and self.data is None
      people = is_short and data_folder(self.data_dir) is None
      chosen = "people" if people else "tofu"
      object.__setattr__(self, "benchmark", chosen)


def check_tunable(options: Any) -> None:
  """Raises: ValueError: --tune of a user's file, which has no other rows."""
  if options.data is not None:
    raise ValueError(
      "Expected --tune with a --benchmark, whose other rows settings are chosen "
      f"on, got it with --data {options.data}."
    )


def adamw(rate: Any) -> optax.GradientTransformation:
  """What everything is trained with."""
  return optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=0.01)
  )


class Recipe(NamedTuple):
  """Of training and retraining; AdamW, warm-up, cosine, gradients clipped at 1.

  Attributes:
    rate: at the peak.
    steps: of it.
    batch_size: rows a step.
    unlearn_steps: of the methods, with as many rows of each kind a step.
    sample: rows of a kind that measures look at.
    kept: rows besides the forget rows that are trained on; None takes all.
    held: rows that are held out.
    max_new: tokens that are generated at most.
    relearn_steps: of the relearning attack.
    width: of a decoder from scratch.
    layers: of it.
    vocab: tokens of its vocabulary.
    relearn_rate: of the attack, about what methods unlearn at: it is tried at
      once and at three times that.
  """

  rate: float = 3e-3
  steps: int = 240
  batch_size: int = 10
  unlearn_steps: int = 40
  sample: int = 40
  kept: int | None = 120
  held: int = 40
  max_new: int = 64
  relearn_steps: int = 12
  width: int = 128
  layers: int = 2
  vocab: int = 2048
  relearn_rate: float = 3e-4


SMOKE = Recipe(
  *(3e-3, 20, 8, 6, 6, 24, 8, 8, 2),
  *(32, 1, 512),
)
PAPER = Recipe(1e-5, 625, 32, 130, 300, None, 200, 100, 12, 512, 8, 8192)


def recipe_for(preset: str, weights: str) -> Recipe:
  """That of a preset; rates are lower for weights that know something."""
  recipe = {"smoke": SMOKE, "quick": Recipe(), "paper": PAPER}[preset]
  if weights == "scratch":
    return recipe._replace(rate=max(recipe.rate, 3e-4))
  return recipe._replace(rate=min(recipe.rate, 5e-5), relearn_rate=3e-5)


def load_weights(weights: str) -> Any:
  """What --weights names: None, or a `Pretrained` with a tokenizer."""
  from jaxunlearn.adapters import gguf, huggingface

  if weights == "scratch":
    return None
  if weights == "smollm2":
    loaded = gguf.load_llama(gguf.find_smollm2())
  else:
    folder = files.checked_path(weights, "--weights")
    loaded = huggingface.load(folder, dtype=np.float32)
  if loaded.tokenizer is None:
    raise ValueError(f"Expected tokenizer.json in {weights}, got no such file.")
  # Layers are computed again for the gradient: memory is what is short.
  config = dataclasses.replace(loaded.config, remat=True)
  return loaded._replace(config=config)


def given_weights(weights: str) -> Any:
  """The same of programs that train none themselves."""
  if weights == "scratch":
    raise ValueError("Expected --weights smollm2 or a folder, got 'scratch'.")
  return load_weights(weights)


class Begun(NamedTuple):
  """What training begins from.

  Attributes:
    tokenizer: of the package `tokenizers`.
    pretrained: weights as they were loaded, or None.
  """

  tokenizer: Any
  pretrained: Any

  @property
  def start(self) -> ju.Variables | None:
    """The variables that training begins from; None for random ones."""
    return self.pretrained and ju.Variables(self.pretrained.params)

  @property
  def most(self) -> int:
    """Tokens of a row at most."""
    return self.pretrained.config.max_length if self.pretrained else 512


def begin(weights: str, texts: Sequence[str], vocab: int) -> Begun:
  """Loads what --weights names; from scratch a tokenizer is trained on texts."""
  pretrained = load_weights(weights)
  tokenizer = pretrained.tokenizer if pretrained else None
  return Begun(tokenizer or tofu.tokenizer_on(texts, vocab), pretrained)


def config_of(
  begun: Begun, recipe: Recipe, length: int
) -> language.DecoderConfig:
  """Of the weights, or of a decoder from scratch for rows of so many tokens."""
  if begun.pretrained:
    return begun.pretrained.config
  return language.DecoderConfig(
    vocab_size=begun.tokenizer.get_vocab_size(),
    width=recipe.width,
    num_layers=recipe.layers,
    num_heads=max(2, recipe.width // 32),
    mlp_width=recipe.width * 5 // 2,
    max_length=length + recipe.max_new,
    embedding_std=0.05,
  )


def model_of(
  config: language.DecoderConfig, stop: int | None = None
) -> language.LanguageModel:
  """Its head is computed in chunks where the vocabulary is large.

  With whatever guard its variables hold in front; without one it is bare.
  """
  large = config.vocab_size > 16_384
  bare = language.language_model(config, chunk_size=32 if large else None)
  bare = language.whp_model(bare)
  stops = () if stop is None else (stop,)
  guarded = language.guard_model(language.eco_model(bare), stop=stops)
  return language.o3_model(guarded)


class Corpus(NamedTuple):
  """What the host knows of the rows.

  Attributes:
    pairs: all of them.
    tokenizer: of the package `tokenizers`.
    pretrained: what training began from, or None.
    config: of the decoder.
    tokens: of the longest row.
    facts: further questions by name, of what the weights knew before.
  """

  pairs: tofu.Pairs
  tokenizer: Any
  pretrained: Any
  config: language.DecoderConfig
  tokens: int
  facts: dict[str, tofu.Pairs]


def corpus(
  weights: str,
  recipe: Recipe,
  pairs: tofu.Pairs,
  rows: np.ndarray,
  known: Mapping[str, tofu.Pairs],
) -> tuple[Corpus, Any]:
  """Pairs as arrays, padded to the longest of all texts.

  Args:
    weights: see `Weights`.
    recipe: see `Recipe`.
    pairs: all of them.
    rows: int, sorted, those that any seed uses.
    known: see `Corpus.facts`.

  Returns:
    The corpus, and what `pair_beds` shares among seeds.
  """
  pick = lambda values: [values[i] for i in rows]
  few = pairs._replace(
    questions=pick(pairs.questions),
    answers=pick(pairs.answers),
    paraphrases=pick(pairs.paraphrases),
    wrong=pick(pairs.wrong),
    owners=pairs.owners[rows],
  )
  begun = begin(weights, tofu.texts_of(few), recipe.vocab)
  tokenizer, most = begun.tokenizer, begun.most
  many = len(few.wrong[0])
  again = lambda values: [v for v in values for _ in range(many)]
  spell = lambda answers, questions=few.questions, numbers=rows: tofu.encode(
    tokenizer, questions, answers, most, numbers
  )
  own = spell(few.answers)  # Before others that were made of them.
  refusals = np.random.default_rng(0).choice(few.refusals, len(rows)).tolist()
  every = [w for each in few.wrong for w in each]
  wrong = spell(every, again(few.questions), again(rows))
  # What is trained on is padded no further than it must be.
  x, alternative = cut(own, spell(refusals))
  paraphrase, wrong = cut(spell(few.paraphrases), wrong)
  split = lambda leaf: np.asarray(leaf).reshape(
    len(rows), many, *leaf.shape[1:]
  )
  others = jax.tree.map(
    lambda right, false: np.concatenate(
      [np.asarray(right)[:, None], split(false)], axis=1
    ),
    paraphrase,
    wrong,
  )
  length = max(x.tokens.shape[1], wrong.tokens.shape[1])
  config = config_of(begun, recipe, length)
  owner = np.unique(few.owners, return_inverse=True)[1].astype(np.int32)
  shared = {
    "rows": {
      "x": x,
      "alternative": alternative,
      "others": others,
      "owner": owner,
      "phrases": telling(tokenizer, few.questions, few.answers),
    },
    "start": begun.start,
    "names": names_of(tokenizer, config.vocab_size),
    "public": public_scores(pairs, rows, tokenizer, config.vocab_size),
    "facts": {name: answers(tokenizer, k, most) for name, k in known.items()},
  }
  tokens = x.tokens.shape[1]
  of = Corpus(pairs, tokenizer, begun.pretrained, config, tokens, dict(known))
  return of, shared


def names_of(tokenizer: Any, vocab_size: int) -> np.ndarray:
  """Tokens with a capital letter or a digit, of which names are made: bool [V]."""
  found = np.zeros(vocab_size, bool)
  for token in tokenizer.get_vocab().values():
    text = tokenizer.decode([token])
    found[token] = text != text.lower() or any(map(str.isdigit, text))
  return found


def public_scores(
  pairs: tofu.Pairs, rows: np.ndarray, tokenizer: Any, vocab_size: int
) -> np.ndarray:
  """log p of single tokens in rows that no model here sees; 0 where none are.

  For rewriting: of at most 400 of them, each token counted once more.
  """
  others = np.setdiff1d(np.arange(len(pairs.questions)), rows)[:400]
  counts = np.ones(vocab_size)
  for found in tokenizer.encode_batch([pairs.answers[i] for i in others]):
    np.add.at(counts, found.ids, 1)
  return np.log(counts / counts.sum()).astype(np.float32)


def answers(tokenizer: Any, pairs: tofu.Pairs, most: int) -> Text:
  """The right answer and then the wrong ones, leaves [N, 1 + K, ...]."""
  every = [[a, *w] for a, w in zip(pairs.answers, pairs.wrong)]
  many = len(every[0])
  questions = [q for q in pairs.questions for _ in range(many)]
  (flat,) = cut(
    tofu.encode(tokenizer, questions, [a for e in every for a in e], most)
  )
  split = lambda leaf: leaf.reshape(len(every), many, *leaf.shape[1:])
  return jax.tree.map(split, flat)


def cut(*texts: Text) -> list[Text]:
  """Without the columns that none of them needs, but for a multiple of eight."""
  length = -(-max(int(np.max(t.length)) for t in texts) // 8) * 8
  return [
    Text(np.asarray(t.tokens)[:, :length], *map(np.asarray, t[1:]))
    for t in texts
  ]


def pair_beds(
  corpus: Corpus,
  shared: Any,
  recipe: Recipe,
  rows: np.ndarray,
  divided: Sequence[tuple[np.ndarray, np.ndarray]],
  given: ju.Variables | None = None,
) -> bench.Beds:
  """The beds of all seeds.

  Args:
    corpus: see there.
    shared: as `corpus` returned it.
    recipe: see `Recipe`.
    rows: as `corpus` had them.
    divided: per seed the rows that are trained on, and those held out.
    given: the original, where it was trained elsewhere.

  Raises:
    ValueError: questions too long for the model.
  """
  lm = model_of(corpus.config, tofu.stop_token(corpus.tokenizer))
  place = lambda r: np.searchsorted(rows, r)
  of_seed = {
    "train": np.stack([place(train) for train, _ in divided]),
    "held": np.stack([place(held) for _, held in divided]),
  }
  longest = int(shared["rows"]["x"].prompt.max())
  if longest + recipe.max_new > corpus.config.max_length:
    raise ValueError(
      f"Expected questions and {recipe.max_new} tokens of an answer within the "
      f"model's {corpus.config.max_length}, got a question of {longest}."
    )

  def make(shared: Any, own: Any) -> bench.Bed:
    take = lambda places: jax.tree.map(lambda x: x[places], shared["rows"])
    train, held = take(own["train"]), take(own["held"])
    data = {
      name: train[name] for name in ("x", "owner", "alternative", "phrases")
    }
    extra = {"others": train["others"], "start": shared["start"]}
    extra["stop"] = tofu.stop_token(corpus.tokenizer)
    extra["longest_prompt"] = longest
    extra |= {name: shared[name] for name in ("facts", "names", "public")}
    return bench.Bed(lm, data, held, recipe, extra)

  pairs = corpus.pairs
  sources = [
    tofu.Source(pairs, train, held, recipe.sample) for train, held in divided
  ]
  facts = {
    "train_rows": len(divided[0][0]),
    "test_rows": len(divided[0][1]),
    "parameters": num_params(lm, shared["rows"]["x"]),
    "file_rows": len(pairs.questions),
    "tokens": corpus.tokens,
    "recipe": recipe._asdict(),
    "borrowed": pairs.borrowed,
  }
  return bench.Beds(shared, of_seed, make, sources, facts, given, corpus, lm)


def num_params(lm: language.LanguageModel, x: Text) -> int:
  """Numbers of a model."""
  made = jax.eval_shape(lambda: lm.model.init(jax.random.key(0), x))
  return sum(leaf.size for leaf in jax.tree.leaves(made.params))


def mask(kind: str, value: str, source: tofu.Source) -> tuple[Any, Any]:
  """The rows of a request, and which rows of each kind are looked at."""
  forget = tofu.pinned(source.pairs, kind, value)[source.train]
  marks = {"forget": some(np.flatnonzero(forget), source.sample)}
  kept = np.random.default_rng(2).permutation(np.flatnonzero(~forget))
  marks["retain"] = some(np.sort(kept[: source.sample]), source.sample)
  marks["held"] = some(np.arange(len(source.held)), source.sample)
  return forget, marks


def some(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
  """The first so many, int [count], and whether there are as many, bool."""
  there = np.arange(count) < len(rows)
  return np.resize(rows, count) if len(rows) else np.zeros(count, int), there


KINDS: Mapping[str, bench.Kind] = {
  kind: bench.Kind(
    form, lambda value, source, kind=kind: mask(kind, value, source)
  )
  for kind, form in tofu.FORMS.items()
}


def train(bed: bench.Bed, weights: jax.Array, key: jax.Array):
  """As the recipe has it, from `bed.extra["start"]` or from nothing."""
  recipe = bed.recipe
  rate = by_rows(recipe.rate, recipe.steps, weights, warm=1 / 8)
  fit = ju.Fit(adamw(rate), recipe.steps, recipe.batch_size)
  start = bed.extra["start"]
  return ju.train(bed.model, bed.data, weights, key, fit, start=start)


def by_rows(
  rate: float, steps: int, weights: jax.Array, warm: float = 0.0
) -> optax.Schedule:
  """A cosine to 0, over a share of the steps as large as that of the rows.

  Then whoever is trained on fewer rows sees each as often as others do theirs, and
  one program serves all of them.

  Args:
    rate: at the peak.
    steps: of a model of all rows.
    weights: bool [N], rows that are trained on.
    warm: the share of it in which the rate rises.
  """
  last = steps * weights.mean()

  def at(step: jax.Array) -> jax.Array:
    done = jnp.clip(step / last, 0.0, 1.0)
    rest = jnp.maximum(done - warm, 0) / (1 - warm)
    fall = 0.5 + 0.5 * jnp.cos(jnp.pi * rest)
    return rate * jnp.where(done < warm, done / max(warm, 1e-9), fall)

  return at


def saved_models(evidence: bench.Evidence) -> dict[str, Callable[[Path], None]]:
  """For `Study.files`: the methods' first models, as folders of Hugging Face."""
  return {
    f"models/{name}": functools.partial(_save, evidence, name)
    for name in evidence.plan.methods
  }


def _save(evidence: bench.Evidence, name: str, folder: Path) -> None:
  """The first model of a method, in a folder that other tools read."""
  from jaxunlearn.adapters import huggingface

  corpus: Corpus = evidence.plan.dataset
  huggingface.save(
    folder,
    corpus.config,
    evidence.found[name].first.params,
    corpus.tokenizer,
    like=corpus.pretrained,
  )


def one_by_one(plan: bench.Plan) -> bench.Plan:
  """Large models one after the other, unless something else is asked for."""
  if plan.options.strategy is None and plan.dataset.pretrained:
    return plan._replace(strategy="map")
  return plan
