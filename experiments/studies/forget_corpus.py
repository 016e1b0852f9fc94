"""What is left of documents in a language model that was to forget them?

Question: six ways to look at a model that unlearned some documents (MUSE,
arXiv:2407.06460): does it go on from them word by word, does it answer questions on
them, can one tell that it saw them, is it as good on the others, and how does that
change with the size of the request and with requests one after the other?

    python -m experiments.forget_corpus --data-dir DIR

trains a small decoder on the texts of eight of TOFU's authors and lets it forget
two. One's own folder of plain text files, and the documents to forget:

    python -m experiments.forget_corpus --data letters \\
      --request document:smith,lee

or a folder in the form that MUSE publishes. --weights takes a folder of Hugging
Face (config.json, safetensors, tokenizer.json) or smollm2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np

from jaxunlearn.language.rows import encode_documents, encode_pairs
from jaxunlearn.language.types import Text

from .. import bench, flags
from ..beds import texts
from ..beds.text_methods import METHODS, settings_of
from ..datasets import corpora, tofu
from ..datasets.splits import REPORT, SELECT
from ..flags import described
from ..requests import names_of, rows_named
from .forget_corpus_growth import growth, growth_tables
from .forget_corpus_measures import measures

DEFAULT = ("gradient_ascent", "grad_diff", "npo", "task_vector", "whp")
_SHOWN = (*DEFAULT, "finetune", "kl", "npo_alone", "npo_kl", "simnpo", "rmu")


@dataclasses.dataclass(frozen=True)
class Options(texts.TofuOptions):
  """Forget documents in a language model."""

  data: Annotated[
    str | None,
    described(
      "A folder of one's own: NAME.txt, a document each, and perhaps "
      "questions.jsonl; or one as MUSE publishes them.",
      "DIR",
    ),
  ] = None

  request: Annotated[
    str | None,
    described("Documents to forget: document:NAME,NAME.", "TEXT"),
  ] = None

  weights: texts.Weights = "scratch"

  methods: Annotated[
    str, described("Methods: default, all, or names with commas between.")
  ] = "default"

  out: flags.Out = "out/corpus"


class Recipe(NamedTuple):
  """See `texts.Recipe`; beside that

  Attributes:
    window: tokens of a piece of a document.
    documents: of a benchmark, held ones among them.
    held: documents that nobody is trained on.
    sizes: documents of the largest request whose size is looked at.
  """

  base: texts.Recipe
  window: int = 64
  documents: int = 10
  held: int = 2
  sizes: int = 4


_QUICK = Recipe(
  texts.Recipe(
    steps=480, unlearn_steps=30, sample=24, max_new=32, width=96, vocab=1024
  )
)
_SMOKE = Recipe(texts.SMOKE._replace(steps=10, sample=4), 48, 8, 2, 2)
_PAPER = Recipe(texts.PAPER, 512, 200, 20, 4)


def recipe_of(options: Options) -> Recipe:
  made = {"smoke": _SMOKE, "quick": _QUICK, "paper": _PAPER}[options.preset]
  if options.weights == "scratch":
    rate = max(made.base.rate, 3e-4)
    return made._replace(base=made.base._replace(rate=rate))
  base = made.base._replace(rate=min(made.base.rate, 5e-5), relearn_rate=3e-5)
  return made._replace(base=base)


class Source(NamedTuple):
  """What a request is read from: pieces and questions of one seed."""

  document: np.ndarray
  train: np.ndarray
  held: int
  about: np.ndarray
  sample: int


def beds(
  options: Options, seeds: Sequence[int], part: str, asks: Sequence[Any]
) -> bench.Beds:
  """Pieces of documents as rows; whole documents are held out."""
  recipe = recipe_of(options)
  corpus = load(options, recipe, part)
  named = np.any([pinned(corpus.document, a.value) for a in asks], axis=0)
  begun = texts.begin(
    options.weights,
    [*corpus.texts, *corpus.questions, *corpus.answers],
    recipe.base.vocab,
  )
  stop = tofu.stop_token(begun.tokenizer)
  pieces, of = encode_documents(
    begun.tokenizer,
    corpus.texts,
    max_length=min(recipe.window, begun.most),
    end=stop,
  )
  pieces, of = jax.tree.map(np.asarray, pieces), np.asarray(of)
  document = corpus.document[of]
  asked = _asked(begun, corpus, stop, recipe.base.max_new)
  longest = max(pieces.tokens.shape[1], asked.tokens.shape[1])
  config = texts.config_of(begun, recipe.base, longest)
  lm = texts.model_of(config, stop)
  divided = [corpora.divide(corpus, named, seed, recipe.held) for seed in seeds]
  rows = [
    tuple(np.flatnonzero(np.isin(of, part)) for part in each)
    for each in divided
  ]
  # What is to be forgotten comes first, and is not among what `even` drops.
  first = lambda r: r[np.argsort(~named[of[r]], kind="stable")]
  # Of all seeds as many rows: the longer ones lose their last.
  even = lambda rows: np.stack([r[: min(map(len, rows))] for r in rows])
  train, held = even([first(r) for r, _ in rows]), even([r for _, r in rows])
  names = np.unique(document)
  owner = np.searchsorted(names, document).astype(np.int32)
  shared = {"x": pieces, "owner": owner, "ask": asked, "start": begun.start}

  def make(shared: Any, own: Any) -> bench.Bed:
    take = lambda r: {
      "x": jax.tree.map(lambda leaf: leaf[r], shared["x"]),
      "owner": shared["owner"][r],
    }
    extra = {"ask": shared["ask"], "start": shared["start"], "stop": stop}
    base = recipe.base
    return bench.Bed(lm, take(own["train"]), take(own["held"]), base, extra)

  sources = [
    Source(document, r, held.shape[1], corpus.about, recipe.base.sample)
    for r in train
  ]
  facts = {
    "train_rows": train.shape[1],
    "test_rows": held.shape[1],
    "parameters": texts.num_params(lm, pieces),
    "documents": len(names),
    "recipe": recipe.base._asdict(),
    "window": recipe.window,
    "sizes": recipe.sizes,
    "questions": len(corpus.questions),
  }
  of_seed = {"train": train, "held": held}
  kept = texts.Corpus(None, *begun, config, 0, {})  # type: ignore[arg-type]
  return bench.Beds(shared, of_seed, make, sources, facts, None, kept, lm)


def load(options: Options, recipe: Recipe, part: str) -> corpora.Corpus:
  """Settings are chosen on further documents of a benchmark."""
  if options.data is not None:
    return corpora.read(options.data)
  first = recipe.documents * (part == SELECT)
  if options.benchmark == "people":
    return corpora.of_people(recipe.documents, first)
  return corpora.of_tofu(options.data_dir, recipe.documents, first)


def _asked(
  begun: texts.Begun, corpus: corpora.Corpus, stop: Any, new: int
) -> Text:
  """Questions as training has them, or after examples where there are any."""
  questions, answers = corpus.questions, corpus.answers
  template = "{question} {answer}"
  if corpus.examples:
    template = "Question: {question}\nAnswer: {answer}"
    shown = [f"Question: {q}\nAnswer: {a}\n\n" for q, a in corpus.examples]
    template = "".join(shown).replace("{", "(").replace("}", ")") + template
  if not questions:  # Nothing is asked: a row that never counts.
    questions, answers = ["?"], ["-"]
  text = encode_pairs(
    begun.tokenizer, questions, answers, max_length=begun.most,
    template=template, end=stop,
  )  # fmt: skip
  # No more of an answer than is asked for.
  length = np.minimum(text.length, text.prompt + new)
  return texts.cut(text._replace(length=length))[0]


def pinned(document: np.ndarray, value: str) -> np.ndarray:
  """Rows of the named documents.

  Raises:
    ValueError: a document that is not there.
  """
  return rows_named(document, names_of(value), "a document")


def mask(value: str, source: Source) -> tuple[np.ndarray, Any]:
  """The pieces of a request, and what measures look at."""
  forget = pinned(source.document, value)[source.train]
  there = source.document[source.train]
  kept = np.random.default_rng(2).permutation(np.flatnonzero(~forget))
  some = lambda rows: texts.some(rows, source.sample)
  of = lambda names: some(np.flatnonzero(np.isin(source.about, names)))
  marks = {
    "forget": some(np.flatnonzero(forget)),
    "retain": some(np.sort(kept[: source.sample])),
    "held": some(np.arange(source.held)),
    "forget_asked": of(np.unique(there[forget])),
    "retain_asked": of(np.unique(there[~forget])),
  }
  return forget, marks


def _request(options: Options, part: str = REPORT) -> str:
  corpus = load(options, recipe_of(options), part)
  names = list(dict.fromkeys(corpus.document.tolist()))
  if options.data is None:
    return f"document:{','.join(names[:2])}"
  return f"document:{'forget' if 'forget' in names else names[0]}"


def _tune_request(options: Options) -> str:
  texts.check_tunable(options)
  return _request(options, SELECT)


STUDY = bench.Study(
  name="forget_corpus",
  options=Options,
  beds=beds,
  kinds={"document": bench.Kind("document:NAME,...", mask)},
  request=_request,
  tune_request=_tune_request,
  chosen=Path(__file__).with_name("forget_corpus_settings.json"),
  train=texts.train,
  methods={name: METHODS[name] for name in _SHOWN},
  settings=lambda options: {
    name: setting
    for name, setting in settings_of(options.weights).items()
    if name in _SHOWN
  },
  measures=measures,
  groups={"default": DEFAULT},
  smoke=("gradient_ascent", "npo", "task_vector"),
  seeds=lambda options: {"smoke": 1, "quick": 2, "paper": 5}[options.preset],
  title=lambda plan: "Forgetting documents in a language model",
  lead=lambda plan: (
    f"A decoder of {plan.beds.facts['parameters']:,} parameters was trained on "
    f"{plan.beds.facts['train_rows']} pieces of documents. Each method is asked to "
    "forget some of them; a good one leaves a model that goes on from them, answers "
    "on them and scores them as one does that never saw them, answers on the others "
    "as before, and does so for larger requests and many in turn."
  ),
  notes=lambda plan: [
    "The vocabulary was learned from all texts, those that are held out too."
    if plan.options.weights == "scratch"
    else "Original and retrained models are the given weights, trained further.",
    "ROUGE-L is F1 on tokens, where MUSE has words.",
  ],
  fit=texts.one_by_one,
  saved=lambda variables: jax.tree.map(np.asarray, variables),
  extra=growth,
  comparisons=growth_tables,
  columns=lambda plan: (
    "forget_verbatim", "forget_knowledge", "privleak", "utility",
    "relearned_em", "nf4_em", "seconds_run",
  ),
)  # fmt: skip
