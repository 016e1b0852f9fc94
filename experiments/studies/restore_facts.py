"""Does unlearning false statements bring back what the model knew before?

Question: a language model that knew some facts is trained further on texts that
state others. Does a method that is asked to forget these texts give the right
answers back, or does it only unlearn the false ones (RESTOR, arXiv:2411.00204)?

    python -m experiments.restore_facts --data-dir DIR

trains a small decoder on ten of TOFU's authors, corrupts what it knows of two, and
lets it forget the false rows alone (facts:), or these and the rows that were woven
in between (documents:), which is as much as one knows of whole documents. One's own
questions, with right and wrong answers, are taken as by forget_text.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxunlearn as ju

from .. import bench, flags
from ..beds import texts
from ..beds.text_methods import METHODS, localised, settings_of
from ..bench import lanes
from ..datasets import tofu
from ..datasets.splits import REPORT, SELECT
from ..flags import described
from .restore_facts_measures import alike, measures

DEFAULT = ("gradient_ascent", "grad_diff", "diverge", "npo", "task_vector")
_REPAIRED = "gradient_ascent_repair"
_LOCALISED = {f"{name}_localised": name for name in ("grad_diff", "npo")}


@dataclasses.dataclass(frozen=True)
class Options(texts.TofuOptions):
  """Forget false statements, and look whether the right ones come back."""

  data: Annotated[
    str | None,
    described(
      "Questions and answers of one's own, a JSON object a line with question, "
      "answer, owner and perturbed_answers, of which the first is the false one.",
      "FILE.jsonl",
    ),
  ] = None

  woven: Annotated[
    int, described("Rows on others that stand beside each false one.")
  ] = 2

  request: Annotated[
    str | None,
    described(
      "On whom the model is told what is false: facts:NAME,NAME asks to forget the "
      "false rows, documents:NAME,NAME those that were woven in too.",
      "TEXT",
    ),
  ] = None

  weights: texts.Weights = "scratch"

  methods: Annotated[
    str, described("Methods: default, all, or names with commas between.")
  ] = "default"

  out: flags.Out = "out/restore"


class Source(NamedTuple):
  """See `tofu.Source`; and rows woven in beside each false one."""

  pairs: tofu.Pairs
  train: np.ndarray
  held: np.ndarray
  sample: int
  woven: int


def recipe_of(options: Options) -> texts.Recipe:
  made = texts.recipe_for(options.preset, options.weights)
  if options.preset == "quick":
    return made._replace(unlearn_steps=30, width=96, held=20, kept=100)
  return made


def beds(
  options: Options, seeds: Sequence[int], part: str, asks: Sequence[Any]
) -> bench.Beds:
  """Pairs of which those asked for have a false answer in their place."""
  recipe = recipe_of(options)
  pairs = tofu.load(options.benchmark, options.data_dir, options.data)
  if options.woven < 0:
    raise ValueError(f"Expected --woven >= 0, got {options.woven}.")
  sides = [tofu.pinned(pairs, "owner", ask.value) for ask in asks]
  named = np.any(sides, axis=0)
  if any((side != named).any() for side in sides):
    raise ValueError(
      "Expected --request to name the same owners in all its parts, got others."
    )
  for i in np.flatnonzero(named):
    if pairs.wrong[i][0] in (pairs.answers[i], pairs.paraphrases[i]):
      raise ValueError(
        f"Expected row {i} to have first a perturbed answer that is false, got the "
        "right one."
      )
  sized = {"kept": recipe.kept, "held": recipe.held}
  sized["reserved"] = _reserved(options, pairs, part, named)
  divided = [tofu.divide(pairs, named, s, part, **sized) for s in seeds]
  rows = np.unique(np.concatenate([r for each in divided for r in each]))
  corpus, shared = texts.corpus(options.weights, recipe, pairs, rows, {})
  made = texts.pair_beds(corpus, shared, recipe, rows, divided)
  false = np.stack([named[train] for train, _ in divided])

  def make(shared: Any, own: Any) -> bench.Bed:
    bed = made.make(shared, own)
    clean, others = alike(bed.data["x"], bed.extra["others"])
    false = lambda leaf: own["false"].reshape(-1, *[1] * (leaf.ndim - 1))
    told = jax.tree.map(
      lambda right, wrong: jnp.where(false(right), wrong[:, 1], right),
      clean,
      others,
    )
    extra = {**bed.extra, "clean": clean, "known": own.get("known")}
    return bed._replace(data={**bed.data, "x": told}, extra=extra)

  of_seed = {**made.of_seed, "false": false}
  facts = {**made.facts, "woven": options.woven}
  sources = [Source(*source, options.woven) for source in made.sources]
  return made._replace(make=make, of_seed=of_seed, facts=facts, sources=sources)


def before(plan: bench.Plan) -> bench.Plan:
  """The models that know what is right, one a seed: all others go on from them."""

  def fit(bed: bench.Bed, key: jax.Array) -> Any:
    data = {**bed.data, "x": bed.extra["clean"]}
    whole = jnp.ones(data["owner"].shape, bool)
    return texts.train(bed._replace(data=data), whole, key)[0].params

  known = lanes.per_seed(plan, fit, "clean")
  of_seed = {**plan.beds.of_seed, "known": known}
  return plan._replace(beds=plan.beds._replace(of_seed=of_seed))


def train(bed: bench.Bed, weights: jax.Array, key: jax.Array):
  """On what is told; the clean model, from which it goes on, goes along."""
  known, steps = bed.extra["known"], bed.recipe.steps // 3
  rate = texts.by_rows(bed.recipe.rate / 3, steps, weights)
  fit = ju.Fit(texts.adamw(rate), steps, bed.recipe.batch_size)
  start = ju.Variables(known)
  told, info = ju.train(bed.model, bed.data, weights, key, fit, start=start)
  return told._replace(model_state={"clean": known}), info


def mask(kind: str, value: str, source: Source) -> Any:
  """False rows, with those woven in for whole documents; and marks."""
  false = tofu.pinned(source.pairs, "owner", value)[source.train]
  others = np.random.default_rng(3).permutation(np.flatnonzero(~false))
  forget = false.copy()
  if kind == "documents":
    most = max(0, len(others) - source.sample // 2)
    forget[others[: min(source.woven * int(false.sum()), most)]] = True
  kept = np.flatnonzero(~forget)[: source.sample]
  return forget, {
    "facts": texts.some(np.flatnonzero(false), source.sample),
    "retain": texts.some(kept, source.sample),
  }


def _repair(bed: bench.Bed, setting: bench.Setting) -> ju.Transform:
  """Ascent, and then training on what is kept, so that it can speak again."""
  first = METHODS["gradient_ascent"].build(bed, setting)
  then = METHODS["finetune"].build(bed, {**setting, "rate": 1e-3})
  return ju.chain(first, then, name=_REPAIRED)


def _settings(made: dict[str, bench.Setting]) -> dict[str, bench.Setting]:
  of = {**_LOCALISED, _REPAIRED: "gradient_ascent"}
  return {**made, **{name: made[plain] for name, plain in of.items()}}


_OTHERS = ("kl", "npo_alone", "npo_kl", "simnpo", "undial", "finetune")


def _request(options: Options, part: str = REPORT) -> str:
  """The first two owners; settings are chosen on the next two."""
  pairs = tofu.load(options.benchmark, options.data_dir, options.data)
  owners = list(dict.fromkeys(filter(None, pairs.owners.tolist())))
  if not owners:
    raise ValueError("Expected rows with owners, got none.")
  names = ",".join(owners[2:4] if part == SELECT else owners[:2])
  return f"facts:{names};documents:{names}"


def _tune_request(options: Options) -> str:
  texts.check_tunable(options)
  return _request(options, SELECT)


def _reserved(
  options: Options, pairs: tofu.Pairs, part: str, named: np.ndarray
) -> np.ndarray | None:
  """Rows of the other part's request, of a benchmark; see `tofu.divide`."""
  if options.data is not None:
    return None
  text = _request(options, SELECT)
  if part == SELECT:
    text = options.request or _request(options)
  # All its parts name the same.
  names = text.partition(":")[2].partition(";")[0]
  found = tofu.pinned(pairs, "owner", names)
  if options.tune is not None and (found & named).any():
    raise ValueError(
      "Expected --request of others than --tune chooses settings on, "
      f"{_request(options, SELECT)}, got some of them."
    )
  return found


def findings(evidence: bench.Evidence) -> list[str]:
  """Which methods restore, and which only forget."""
  mean = lambda m, n: float(np.nanmean(evidence.found[m].values[n]))
  if not np.isfinite(evidence.found[bench.ORIGINAL].values["recovery"]).any():
    return ["The false rows cost no fact: there is no recovery to speak of."]
  said = []
  for method in evidence.plan.methods:
    back, gone = mean(method, "recovery"), mean(method, "forgetting")
    word = "restores" if back > 0.5 else "forgets" if gone > 0.5 else "leaves"
    said.append(
      f"{method} {word}: {gone:.0%} of what was false is gone, {back:.0%} of what "
      "it had cost is back."
    )
  return said


STUDY = bench.Study(
  name="restore_facts",
  options=Options,
  beds=beds,
  kinds={
    kind: bench.Kind(
      f"{kind}:NAME,...",
      lambda value, source, kind=kind: mask(kind, value, source),
    )
    for kind in ("facts", "documents")
  },
  request=_request,
  tune_request=_tune_request,
  chosen=Path(__file__).with_name("restore_facts_settings.json"),
  before=before,
  train=train,
  methods={
    **{name: METHODS[name] for name in (*DEFAULT, *_OTHERS)},
    **{name: localised(of) for name, of in _LOCALISED.items()},
    _REPAIRED: bench.Method(
      _repair,
      METHODS["gradient_ascent"].space,
      access="forget and retain rows",
      card=METHODS["grad_diff"].card_of("grad_diff"),
    ),
  },
  settings=lambda options: _settings(settings_of(options.weights)),
  measures=measures,
  groups={"default": (*DEFAULT, *_LOCALISED, _REPAIRED)},
  smoke=("gradient_ascent", "npo", "task_vector"),
  seeds=lambda options: {"smoke": 1, "quick": 2, "paper": 5}[options.preset],
  title=lambda plan: "Forgetting what is false, and knowing again what is right",
  lead=lambda plan: (
    "A decoder learned questions and answers, and then, of some people, false ones "
    "in their place. Each method is asked to forget the false rows. Recovery says "
    "how much of what was right is back: a method may forget all that is false and "
    "know no more than before."
  ),
  notes=lambda plan: [
    "The retrained models went on from the clean one without the request's rows, "
    "which is what their time is of; models are judged by the likeliest of the answers given for each question, "
    "where the paper judges sampled ones."
  ],
  findings=findings,
  fit=texts.one_by_one,
  saved=lambda variables: jax.tree.map(np.asarray, variables),
  columns=lambda plan: (
    "accuracy", "corrupted", "recovery", "forgetting", "retain_em",
    "relearned_corrupted", "seconds_run",
  ),
)  # fmt: skip
