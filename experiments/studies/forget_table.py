"""Does one Newton step forget what a linear model learned of a small table?

Question: where training is convex, influence functions (arXiv:1703.04730) say
where the model without some rows lies. How near does that one step come to
retraining on scikit-learn's tables, beside methods that train on, and how near
with a network, where the theory does not hold?

    python -m experiments.forget_table --out out/table
    python -m experiments.forget_table --data wine --model mlp

forgets a tenth of the rows, and a class. The shortest study, to be copied.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn import metrics, models
from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.core.reduction import all_finite
from jaxunlearn.report.verdict import DAMAGE, NOTHING, TELLTALE, TRACE

from .. import bench, flags, requests
from ..bench import Case, Measure, Method, Rule, render, table
from ..bench.tune import Between
from ..datasets import splits
from ..flags import described

HIDDEN = {"linear": (), "mlp": (32,)}
STEPS = {"smoke": 200, "quick": 1000, "paper": 4000}
# Of the weights; without it separable classes have no optimum to step to.
DECAY = 1e-2
GAP = ("forget_accuracy", "retain_accuracy", "test_accuracy")


@dataclasses.dataclass(frozen=True)
class Options(bench.CommonOptions):
  """Forget rows of a small table, with a linear model or a network."""

  data: Annotated[
    Literal["breast-cancer", "wine", "iris"], described("Rows with classes.")
  ] = "breast-cancer"

  model: Annotated[
    Literal["linear", "mlp"], described("A linear model or a network.")
  ] = "linear"

  out: flags.Out = "out/table"


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
  """All rows [N, D] and their classes."""
  from sklearn import datasets

  load_rows = getattr(datasets, f"load_{name.replace('-', '_')}")
  x, label = load_rows(return_X_y=True)
  return x.astype(np.float32), label.astype(np.int32)


def beds(options: Options, seeds: Sequence[int], part: str, asks: Any):
  """Rows, split once per seed and standardised by those that train."""
  x, label = load(options.data)
  hidden, count = HIDDEN[options.model], int(label.max()) + 1
  model = from_linen(models.MLP(count, hidden=hidden))
  made = []
  for seed in seeds:
    train, test = splits.split_rows(len(x), seed, part, test_share=0.25)
    scaled = (x - x[train].mean(0)) / x[train].std(0)
    rows = lambda numbers, x=scaled: {"x": x[numbers], "label": label[numbers]}
    made.append((rows(train), rows(test)))
  steps = STEPS[options.preset]
  fit = ju.Fit(_adam(optax.cosine_decay_schedule(0.05, steps)), steps, ju.ALL)
  return bench.Beds(
    *splits.per_seed(made),
    lambda shared, own: bench.Bed(model, *own, recipe=fit),
    [train["label"] for train, _ in made],
    {"rows": len(x), "columns": x.shape[1], "classes": count},
  )


def _adam(rate: Any):
  return optax.chain(optax.add_decayed_weights(DECAY), optax.adam(rate))


def of_share(text: str, label: np.ndarray) -> tuple[np.ndarray, None]:
  """As many rows of any class, drawn alike for every seed."""
  count = requests.rows_of_share(text, len(label))
  return np.random.default_rng(7).permutation(len(label)) < count, None


def of_class(text: str, label: np.ndarray) -> tuple[np.ndarray, None]:
  return requests.rows_numbered(label, text, "a class"), None


def _method(
  factory: Callable[..., Any], space: Any, access: str, by: Any = _adam
) -> Method:
  """A method that trains on; a setting of `rate` and `steps` is its fit."""

  def build(bed: bench.Bed, setting: bench.Setting) -> ju.Transform:
    rest = dict(setting)
    fit = ju.Fit(by(rest.pop("rate")), rest.pop("steps"), ju.ALL)
    return factory(bed.model, fit, **rest)

  return Method(build, space, access=access)


_RATE, _BOTH = {"rate": Between(1e-4, 1e-1)}, "forget and retain rows"
METHODS = {
  "newton_step": Method(
    lambda bed, s: ju.methods.influence_unlearning(bed.model, **s),
    {"damping": Between(1e-4, 1e-1)},
    access=_BOTH,
  ),
  "ssd": Method(
    lambda bed, s: ju.methods.ssd(bed.model, **s),
    {"alpha": Between(0.5, 100.0), "dampening": Between(0.01, 2.0)},
    access=_BOTH,
  ),
  "finetune": _method(ju.methods.finetune, _RATE, "retain rows"),
  "gradient_ascent": _method(
    ju.methods.gradient_ascent, _RATE, "forget rows", optax.sgd
  ),
  "neggrad_plus": _method(
    ju.methods.neggrad_plus,
    {**_RATE, "retain_share": Between(0.8, 0.9999, log=False)},
    _BOTH,
    optax.sgd,
  ),
}
SETTINGS = {
  "newton_step": {"damping": DECAY},
  "ssd": {"alpha": 10.0, "dampening": 1.0},
  "finetune": {"rate": 0.01, "steps": 50},
  "gradient_ascent": {"rate": 0.01, "steps": 10},
  "neggrad_plus": {"rate": 0.01, "steps": 50, "retain_share": 0.95},
}


def measure(case: Case) -> dict[str, Any]:
  """Accuracies, and how far outputs are from the retrained model's."""
  bed, forget = case.bed, case.forget
  answer = lambda variables, rows: bed.model.predict(variables, rows["x"])
  logits, theirs = (
    answer(case.variables, bed.data),
    answer(case.retrained, bed.data),
  )
  tested = answer(case.variables, bed.test)
  right = lambda weight: metrics.accuracy(logits, bed.data["label"], weight)
  return {
    "is_finite": all_finite(logits),
    "forget_accuracy": right(forget),
    "retain_accuracy": right(~forget),
    "test_accuracy": metrics.accuracy(tested, bed.test["label"]),
    "js_to_retrained": metrics.mean_js(logits, theirs, forget),
  }


MEASURE = Measure(
  tuple(table.shared(n, headline=True) for n in (*GAP, "js_to_retrained")),
  measure,
  rules=(
    Rule("forget_accuracy", 0.05, TRACE, TELLTALE),
    Rule("test_accuracy", 0.03, NOTHING, DAMAGE),
    bench.distance("js_to_retrained", 0.02),
  ),
)
STUDY = bench.Study(
  name="forget_table",
  options=Options,
  beds=beds,
  kinds={
    "random": bench.Kind("random:SHARE", of_share),
    "class": bench.Kind("class:C", of_class),
  },
  request=lambda options: "random:0.1;class:0",
  train=lambda bed, weights, key: ju.train(
    bed.model, bed.data, weights, key, bed.recipe
  ),
  methods=METHODS,
  settings=lambda options: SETTINGS,
  measures=lambda plan: [MEASURE, table.gap(GAP, "Over three accuracies.")],
  tune_request=lambda options: "random:0.2;class:1",
  seeds=lambda options: {"smoke": 2, "quick": 10, "paper": 20}[options.preset],
  title=lambda plan: f"Forgetting rows of {plan.options.data}",
  lead=lambda plan: (
    f"A {plan.options.model} model was to forget some of its rows. Where training "
    "is convex, one Newton step should lead to the retrained model; what the "
    "others do by training on has no such promise."
  ),
  panels=(render.bars(GAP, "means and deviations over seeds."),),
)
