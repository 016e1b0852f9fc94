"""Can a language model forget what it was taught about some people?

Question: of the ways to make a language model forget questions and answers, which
comes near a model that never saw them, keeps the rest, and does not have it all
back after a few steps of training or a rounding of its weights (TOFU,
arXiv:2401.06121; arXiv:2506.12618; arXiv:2410.16454)?

    python -m experiments.forget_text --data-dir DIR

trains a small decoder on ten of TOFU's authors and lets it forget two. One's own
questions and answers, a JSON object a line, and whom to forget:

    python -m experiments.forget_text --data support.jsonl --request owner:4711
    python -m experiments.forget_text --weights DIR --data support.jsonl \\
      --request index:rows.txt

--weights takes a folder of Hugging Face (config.json, safetensors, tokenizer.json)
or smollm2; the models that come out are such folders too, in OUT/models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np

import jaxunlearn as ju

from .. import bench, files, flags, requests
from ..beds import texts
from ..beds.text_methods import DEFAULT, GUARDS, METHODS, settings_of
from ..datasets import tofu
from ..datasets.splits import SELECT
from ..flags import described
from . import forget_text_curve as curve
from .forget_text_measures import measures


@dataclasses.dataclass(frozen=True)
class Options(texts.TofuOptions):
  """Forget questions and answers in a language model."""

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

  weights: texts.Weights = "scratch"

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

  curve: Annotated[
    int | None,
    described(
      "Also stop NPO, ascent and GradDiff after so many equal shares of their steps: "
      "what each keeps at equal forgetting.",
      "INT",
    ),
  ] = None

  out: flags.Out = "out/text"


def beds(
  options: Options, seeds: Sequence[int], part: str, asks: Sequence[Any]
) -> bench.Beds:
  """Rows as tokens, divided once per seed; the decoder."""
  if options.curve is not None and options.curve < 2:
    raise ValueError(f"Expected --curve > 1, got {options.curve}.")
  recipe = texts.recipe_for(options.preset, options.weights)
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
  known = {}
  if options.weights != "scratch" and options.benchmark == "tofu" and not own:
    known = _first(tofu.facts(options.data_dir), recipe.sample)
  corpus, shared = texts.corpus(options.weights, recipe, pairs, rows, known)
  given = original and _checked_original(original, corpus)
  return texts.pair_beds(corpus, shared, recipe, rows, divided, given)


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
  return texts.load_weights(options.original), held


def _checked_original(original: Any, corpus: texts.Corpus) -> ju.Variables:
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


def _first(known: dict[str, tofu.Pairs], count: int) -> dict[str, tofu.Pairs]:
  lists = ("questions", "answers", "paraphrases", "wrong")
  return {
    name: each._replace(**{f: getattr(each, f)[:count] for f in lists})
    for name, each in known.items()
  }


STUDY = bench.Study(
  name="forget_text",
  options=Options,
  beds=beds,
  kinds=texts.KINDS,
  request=lambda options: (
    "split:forget01"
    if options.benchmark == "tofu" and options.data is None
    else _first_owners(options)
  ),
  train=texts.train,
  methods=METHODS,
  settings=lambda options: settings_of(options.weights),
  chosen=Path(__file__).with_name("forget_text_settings.json"),
  measures=measures,
  groups={"default": DEFAULT},
  smoke=("finetune", "grad_diff", "npo"),
  seeds=lambda options: {"smoke": 2, "quick": 3, "paper": 5}[options.preset],
  tune_request=lambda options: _tune_request(options),
  tune_seeds=1,  # Three trainings of each are most of what choosing costs.
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
  fit=texts.one_by_one,
  # On the host: of every method there is one, and models are large.
  saved=lambda variables: jax.tree.map(np.asarray, variables),
  sweeps=curve.sweeps,
  panels=(curve.panels,),
  files=lambda evidence: texts.saved_models(evidence) | curve.files(evidence),
  columns=lambda plan: (
    "forget_em",
    "forget_rouge",
    "retain_rouge",
    "utility",
    "forget_quality",
    "membership_auc",
    "bare_em",
    "relearned_em",
    "nf4_em",
    "seconds_run",
  ),
)


def _findings(evidence: bench.Evidence) -> list[str]:
  """Whether there was anything to forget."""
  mean = lambda name, column="forget_em": np.nanmean(
    evidence.found[name].values[column]
  )
  before, after = map(mean, (bench.ORIGINAL, bench.RETRAINED))
  told = [_in_front(name, mean) for name in GUARDS if name in evidence.found]
  told += curve.findings(evidence)
  if abs(before - after) >= 0.1:
    return told
  return [
    *told,
    f"The original model gives {before:.0%} of the tokens of rows to be forgotten, "
    f"one that never saw them {after:.0%}: with so little to forget, this table "
    "does not tell methods apart. More training of the original may, or weights "
    "that did not see the rows before.",
  ]


def _in_front(name: str, mean: Any) -> str:
  """What a guard hides, and what is there behind it."""
  served, bare = mean(name), mean(name, "bare_em")
  behind = mean(bench.ORIGINAL, "bare_em")
  verdict = (
    "removes nothing" if abs(bare - behind) < 1e-6 else "changes the weights"
  )
  return (
    f"{name} {verdict}: {served:.0%} of the tokens of rows to be forgotten come "
    f"first where it stands in front of the weights, {bare:.0%} without it, "
    f"{behind:.0%} of the original's, and {mean(name, 'relearned_em'):.0%} of "
    "those not trained on after relearning."
  )


def _tune_request(options: Options) -> str:
  texts.check_tunable(options)
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
