"""Can a language model forget what it was taught about some people?

Question: of the ways to make a language model forget questions and answers, which
comes near a model that never saw them, keeps the rest, and does not have it all
back after a few steps of training or a rounding of its weights (TOFU,
arXiv:2401.06121; arXiv:2506.12618; arXiv:2410.16454)?

    python -m experiments.forget_text --data-dir DIR

trains a small decoder on ten of TOFU's authors and lets it forget two. One's own
questions and answers, a JSON object a line, and whom to forget:

    python -m experiments.forget_text --data support.jsonl --request owner:4711
    python -m experiments.forget_text --weights DIR --data support.jsonl \
      --request index:rows.txt

--weights takes a folder of Hugging Face (config.json, safetensors, tokenizer.json)
or smollm2; the models that come out are such folders too, in OUT/models.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn import language
from jaxunlearn.language.types import Text

from .. import bench, files, flags, requests
from ..datasets import tofu
from ..datasets.splits import SELECT
from ..flags import described
from .forget_text_measures import adamw, measures
from .forget_text_methods import (
  DEFAULT,
  METHODS,
  settings_of,
)


@dataclasses.dataclass(frozen=True)
class Options(bench.CommonOptions):
  """Forget questions and answers in a language model."""

  benchmark: Annotated[
    Literal["tofu", "people"],
    described("Rows: TOFU (wants --data-dir), or people made up on the spot."),
  ] = "tofu"

  data: Annotated[
    str | None,
    described(
      "Questions and answers of one's own, a JSON object a line with question, "
      "answer and perhaps owner, paraphrased_answer, perturbed_answers.",
      "FILE.jsonl",
    ),
  ] = None

  request: Annotated[
    str | None,
    described(
      "What to forget: split:forget01, forget05 or forget10 (TOFU), "
      "owner:NAME,NAME or index:FILE (rows of the file, from 0 on); several with "
      "semicolons between.",
      "TEXT",
    ),
  ] = None

  weights: Annotated[
    str,
    described(
      "What training begins from: scratch, smollm2, or a folder of Hugging Face.",
      "scratch|smollm2|DIR",
    ),
  ] = "scratch"

  original: Annotated[
    str | None,
    described(
      "The model that is to forget, trained from --weights elsewhere on the rows of "
      "--data but those of --held; without it one is trained here.",
      "DIR",
    ),
  ] = None

  held: Annotated[
    str | None,
    described(
      "Rows of --data that --original never saw, a number a line, from 0 on; they "
      "are held out.",
      "FILE",
    ),
  ] = None

  methods: Annotated[
    str, described("Methods: default, all, or names with commas between.")
  ] = "default"

  out: flags.Out = "out/text"


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


_SMOKE = Recipe(
  *(3e-3, 20, 8, 6, 6, 24, 8, 8, 2),
  *(32, 1, 512),
)
_PAPER = Recipe(1e-5, 625, 32, 130, 300, None, 200, 100, 12, 512, 8, 8192)


def recipe_of(options: Options) -> Recipe:
  recipe = {"smoke": _SMOKE, "quick": Recipe(), "paper": _PAPER}[options.preset]
  if options.weights == "scratch":
    return recipe._replace(rate=max(recipe.rate, 3e-4))
  return recipe._replace(rate=min(recipe.rate, 5e-5), relearn_rate=3e-5)


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


def beds(
  options: Options, seeds: Sequence[int], part: str, asks: Sequence[Any]
) -> bench.Beds:
  """Rows as tokens, divided once per seed; the decoder."""
  recipe = recipe_of(options)
  pairs = tofu.load(options.benchmark, options.data_dir, options.data)
  named = [tofu.pinned(pairs, ask.kind, ask.value) for ask in asks]
  own = options.data is not None
  original, unseen = _given(options, len(pairs.questions))
  kept = None if own and options.preset != "smoke" else recipe.kept
  held = max(1, len(pairs.questions) // 5) if own else recipe.held
  reserved = None if own else _reserved(options, pairs, part, named)
  divided = [
    tofu.divide(
      pairs,
      np.any(named, axis=0),
      seed,
      part,
      kept=kept,
      held=min(held, recipe.held),
      reserved=reserved,
    )
    if unseen is None
    else tofu.by_hand(np.any(named, axis=0), unseen)
    for seed in seeds
  ]
  if own and options.preset != "smoke":
    # As often as the presets' own rows come by, however many these are.
    epochs = 15 if options.weights == "scratch" else 5
    steps = epochs * len(divided[0][0]) // recipe.batch_size
    recipe = recipe._replace(steps=max(recipe.steps, steps))
  rows = np.unique(np.concatenate([r for each in divided for r in each]))
  corpus, shared = _encode(options, recipe, pairs, rows)
  large = corpus.config.vocab_size > 16_384
  lm = language.language_model(corpus.config, chunk=32 if large else None)
  given = original and _checked_original(original, corpus)
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
    data = {name: train[name] for name in ("x", "owner", "alternative")}
    extra = {"others": train["others"], "start": shared["start"]}
    extra["stop"] = tofu.stop_token(corpus.tokenizer)
    extra["longest_prompt"] = longest
    extra["facts"] = shared["facts"]
    return bench.Bed(lm, data, held, recipe, extra)

  sources = [
    tofu.Source(pairs, train, held, recipe.sample) for train, held in divided
  ]
  facts = {
    "train_rows": len(divided[0][0]),
    "test_rows": len(divided[0][1]),
    "parameters": _num_params(lm, shared["rows"]["x"]),
    "file_rows": len(pairs.questions),
    "tokens": corpus.tokens,
    "recipe": recipe._asdict(),
    "borrowed": pairs.borrowed,
  }
  return bench.Beds(shared, of_seed, make, sources, facts, given, corpus, lm)


def _given(options: Options, count: int) -> tuple[Any, np.ndarray | None]:
  """The original that was trained elsewhere, and the rows that it never saw."""
  if options.original is None and options.held is None:
    return None, None
  if not (options.original and options.held and options.data):
    raise ValueError(
      "Expected --original with --data, and --held for rows that it never saw, "
      "got one without the others."
    )
  held = files.read_rows(options.held, count)
  if not held.any():
    raise ValueError("Expected --held to name rows of --data, got none.")
  return load_weights(options.original), held


def _checked_original(original: Any, corpus: Corpus) -> ju.Variables:
  """Its variables, where it is a model of the same kind as --weights."""
  given = corpus.pretrained
  if given is None or given.config != original.config:
    raise ValueError(
      "Expected --original of the sizes of --weights, which it was trained from, "
      "got others."
    )
  if given.tokenizer.get_vocab() != original.tokenizer.get_vocab():
    raise ValueError(
      "Expected --original with the tokenizer of --weights, got another."
    )
  return ju.Variables(original.params)


def _reserved(
  options: Options, pairs: tofu.Pairs, part: str, named: Sequence[np.ndarray]
) -> np.ndarray | None:
  """Rows of the other part's requests; see `tofu.divide`.

  Raises:
    ValueError: a report on rows that its settings are chosen on.
  """
  if options.benchmark == "tofu" and len(pairs.questions) < 4000:
    return None
  text = tofu.TUNE[options.benchmark]
  if part == SELECT:
    text = (
      STUDY.request(options) if options.request is None else options.request
    )
  asks = requests.read(text, tofu.FORMS, "of the report")
  found = np.any([tofu.pinned(pairs, a.kind, a.value) for a in asks], axis=0)
  if options.tune is not None and (found & np.any(named, axis=0)).any():
    raise ValueError(
      "Expected --request of other rows than --tune chooses settings on, "
      f"{tofu.TUNE[options.benchmark]}, got some of them."
    )
  return found


def _encode(
  options: Options, recipe: Recipe, pairs: tofu.Pairs, rows: np.ndarray
) -> tuple[Corpus, Any]:
  """The rows as arrays, padded to the longest of all texts."""
  pick = lambda values: [values[i] for i in rows]
  few = pairs._replace(
    questions=pick(pairs.questions),
    answers=pick(pairs.answers),
    paraphrases=pick(pairs.paraphrases),
    wrong=pick(pairs.wrong),
    owners=pairs.owners[rows],
  )
  pretrained = load_weights(options.weights)
  tokenizer = pretrained.tokenizer if pretrained else None
  tokenizer = tokenizer or tofu.tokenizer_of(few, recipe.vocab)
  most = pretrained.config.max_length if pretrained else 512
  many = len(few.wrong[0])
  again = lambda values: [v for v in values for _ in range(many)]
  spell = lambda answers, questions=few.questions: tofu.encode(
    tokenizer, questions, answers, most
  )
  refusals = np.random.default_rng(0).choice(few.refusals, len(rows)).tolist()
  wrong = spell([w for each in few.wrong for w in each], again(few.questions))
  # What is trained on is padded no further than it must be.
  x, alternative = _cut(spell(few.answers), spell(refusals))
  paraphrase, wrong = _cut(spell(few.paraphrases), wrong)
  length = x.tokens.shape[1]
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
  config = pretrained and pretrained.config
  config = config or language.DecoderConfig(
    vocab_size=tokenizer.get_vocab_size(),
    width=recipe.width,
    num_layers=recipe.layers,
    num_heads=max(2, recipe.width // 32),
    mlp_width=recipe.width * 5 // 2,
    max_length=max(length, wrong.tokens.shape[1]) + recipe.max_new,
    embedding_std=0.05,
  )
  known = {}
  if pretrained and options.benchmark == "tofu" and options.data is None:
    known = _first(tofu.facts(options.data_dir), recipe.sample)
  owner = np.unique(few.owners, return_inverse=True)[1].astype(np.int32)
  start = pretrained and ju.Variables(pretrained.params)
  shared = {
    "rows": {
      "x": x,
      "alternative": alternative,
      "others": others,
      "owner": owner,
    },
    "start": start,
    "facts": {
      name: _answers(tokenizer, each, most) for name, each in known.items()
    },
  }
  return Corpus(pairs, tokenizer, pretrained, config, length, known), shared


def _first(known: dict[str, tofu.Pairs], count: int) -> dict[str, tofu.Pairs]:
  lists = ("questions", "answers", "paraphrases", "wrong")
  return {
    name: each._replace(**{f: getattr(each, f)[:count] for f in lists})
    for name, each in known.items()
  }


def _answers(tokenizer: Any, pairs: tofu.Pairs, most: int) -> Text:
  """The right answer and then the wrong ones, leaves [N, 1 + K, ...]."""
  every = [[a, *w] for a, w in zip(pairs.answers, pairs.wrong)]
  many = len(every[0])
  questions = [q for q in pairs.questions for _ in range(many)]
  (flat,) = _cut(
    tofu.encode(tokenizer, questions, [a for e in every for a in e], most)
  )
  split = lambda leaf: leaf.reshape(len(every), many, *leaf.shape[1:])
  return jax.tree.map(split, flat)


def _cut(*texts: Text) -> list[Text]:
  """Without the columns that none of them needs, but for a multiple of eight."""
  length = -(-max(int(np.max(t.length)) for t in texts) // 8) * 8
  return [
    Text(np.asarray(t.tokens)[:, :length], *map(np.asarray, t[1:]))
    for t in texts
  ]


def load_weights(weights: str) -> Any:
  """What --weights names: None, or a `Pretrained` with a tokenizer."""
  from jaxunlearn.adapters import gguf, huggingface

  if weights == "scratch":
    return None
  if weights == "smollm2":
    loaded = gguf.load_llama(gguf.find_smollm2())
  else:
    loaded = huggingface.load(weights, dtype=np.float32)
  if loaded.tokenizer is None:
    raise ValueError(f"Expected tokenizer.json in {weights}, got no such file.")
  # Layers are computed again for the gradient: memory is what is short.
  config = dataclasses.replace(loaded.config, remat=True)
  return loaded._replace(config=config)


def _num_params(lm: language.LanguageModel, x: Text) -> int:
  made = jax.eval_shape(lambda: lm.model.init(jax.random.key(0), x))
  return sum(leaf.size for leaf in jax.tree.leaves(made.params))


def mask(kind: str, value: str, source: tofu.Source) -> tuple[Any, Any]:
  """The rows of a request, and which rows of each kind are looked at."""
  forget = tofu.pinned(source.pairs, kind, value)[source.train]
  marks = {"forget": _some(np.flatnonzero(forget), source.sample)}
  kept = np.random.default_rng(2).permutation(np.flatnonzero(~forget))
  marks["retain"] = _some(np.sort(kept[: source.sample]), source.sample)
  marks["held"] = _some(np.arange(len(source.held)), source.sample)
  return forget, marks


def _some(rows: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
  """The first so many, int [count], and whether there are as many, bool."""
  there = np.arange(count) < len(rows)
  return np.resize(rows, count) if len(rows) else np.zeros(count, int), there


def train(bed: bench.Bed, weights: jax.Array, key: jax.Array):
  recipe = bed.recipe
  rate = optax.warmup_cosine_decay_schedule(
    0.0, recipe.rate, max(1, recipe.steps // 8), recipe.steps
  )
  fit = ju.Fit(adamw(rate), recipe.steps, recipe.batch_size)
  start = bed.extra["start"]
  return ju.train(bed.model, bed.data, weights, key, fit, start=start)


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


STUDY = bench.Study(
  name="forget_text",
  options=Options,
  beds=beds,
  kinds={
    kind: bench.Kind(
      form, lambda value, source, kind=kind: mask(kind, value, source)
    )
    for kind, form in tofu.FORMS.items()
  },
  request=lambda options: (
    "split:forget01"
    if options.benchmark == "tofu" and options.data is None
    else _first_owners(options)
  ),
  train=train,
  methods=METHODS,
  settings=lambda options: settings_of(options.weights),
  measures=measures,
  groups={"default": DEFAULT},
  seeds=lambda options: {"smoke": 2, "quick": 3, "paper": 5}[options.preset],
  tune_request=lambda options: _tune_request(options),
  title=lambda plan: "Forgetting questions and answers in a language model",
  lead=lambda plan: (
    f"A decoder of {plan.beds.facts['parameters']:,} parameters was trained on "
    f"{plan.beds.facts['train_rows']} questions and their answers. Each method is "
    "asked to forget some of them; a good one leaves a model that answers these as "
    "one does that never saw them, which is not to say nothing, and all others as "
    "before; and neither a few steps of training nor a rounding of its weights "
    "bring them back."
  ),
  notes=lambda plan: _notes(plan),
  findings=lambda evidence: _findings(evidence),
  fit=lambda plan: _one_by_one(plan),
  # On the host: of every method there is one, and models are large.
  saved=lambda variables: jax.tree.map(np.asarray, variables),
  files=lambda evidence: {
    f"models/{name}": functools.partial(_save, evidence, name)
    for name in evidence.plan.methods
  },
  columns=lambda plan: (
    "forget_em",
    "forget_rouge",
    "retain_rouge",
    "utility",
    "forget_quality",
    "membership_auc",
    "relearned_em",
    "nf4_em",
    "seconds_run",
  ),
)


def _one_by_one(plan: bench.Plan) -> bench.Plan:
  """Large models one after the other, unless something else is asked for."""
  if plan.options.strategy is None and plan.dataset.pretrained:
    return plan._replace(strategy="map")
  return plan


def _findings(evidence: bench.Evidence) -> list[str]:
  """Whether there was anything to forget."""
  before, after = (
    np.nanmean(evidence.found[name].values["forget_em"])
    for name in (bench.ORIGINAL, bench.RETRAINED)
  )
  if abs(before - after) >= 0.1:
    return []
  return [
    f"The original model gives {before:.0%} of the tokens of rows to be forgotten, "
    f"one that never saw them {after:.0%}: with so little to forget, this table "
    "does not tell methods apart. More training of the original may, or weights "
    "that did not see the rows before."
  ]


def _tune_request(options: Options) -> str:
  if options.data is not None:
    raise ValueError(
      "Expected --tune with a --benchmark, whose other rows settings are chosen "
      f"on, got it with --data {options.data}."
    )
  return tofu.TUNE[options.benchmark]


def _first_owners(options: Options) -> str:
  """Two owners of a file, where nothing is asked for."""
  pairs = tofu.load(options.benchmark, options.data_dir, options.data)
  owners = list(dict.fromkeys(filter(None, pairs.owners.tolist())))
  if not owners:
    raise ValueError(
      "Expected --request index:FILE for rows without an owner, got none."
    )
  return "owner:" + ",".join(owners[:2])


def _notes(plan: bench.Plan) -> list[str]:
  notes = [
    "The vocabulary was learned from all texts, those that are held out too."
    if plan.options.weights == "scratch"
    else "Original and retrained models are the given weights, trained further: "
    "what those knew before nobody forgets, rows to be forgotten included where "
    "these weights were trained on them.",
    "Of {file_rows} rows there were {train_rows} to train on, those to be forgotten "
    "among them, and {test_rows} that no model here was trained on.".format(
      **plan.beds.facts
    ),
    "ROUGE-L alone calls a model perfect whose scores still give the rows away, "
    "and forget quality one that is destroyed: read them together.",
  ]
  if plan.options.original is not None:
    notes.append(
      "The original was trained elsewhere, in its own way: how far it is from the "
      "retrained models is due to that too, not to the rows alone."
    )
  if plan.beds.facts["borrowed"]:
    notes.append(
      "{borrowed} of {file_rows} rows come without wrong answers: those of other "
      "rows stand in for them in truth ratios and what is made of them.".format(
        **plan.beds.facts
      )
    )
  return notes
