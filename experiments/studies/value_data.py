"""What is each row of the training data worth, and who finds wrong labels?

Question: how well does EcoVal (arXiv:2402.09288, as reconstructed in
`jaxunlearn.valuation.ecoval`), which trains one model a cluster, do beside
estimators that train thousands: truncated Monte-Carlo Shapley (1904.02868) of
several budgets, leave-one-out, Beta Shapley (2110.14049), Data Banzhaf
(2205.15466), Distributional Shapley (2002.12334), KNN-Shapley (1908.08619), Data-OOB
(2304.07718); and beside two that value nothing, the confidence of one model and random
numbers? And do values of rows that one does not have yet say what those would add?

    python -m experiments.value_data --preset quick --out out/value

flips a fifth of the labels of scikit-learn's digits, values every row, looks for
the flipped ones among the lowest, trains anew without the lowest, the highest,
and on them alone, and writes results.json, table.md, values.csv, plots/, params/
and report.html. It takes two to three minutes on two CPU cores.

    python -m experiments.value_data --data adult --data-dir DIR

does so on rows of a table (UCI Adult).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import jaxunlearn as ju
from jaxunlearn import metrics, valuation
from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.core.keys import derive

from .. import bench, data, flags
from ..bench import Bed, Case, Measure, Method, Setting, table
from ..datasets import classes, flipped
from ..flags import described
from . import value_data_view as view

_LANES = 64  # Models trained together.
_NEWTON = {"num_steps": 4, "num_cg_steps": 8}
PERMUTATIONS = {
  "smoke": (5, 20),
  "quick": (5, 20),
  "paper": (5, 20, 100, 400),
}


class Size(NamedTuple):
  """How much of everything."""

  rows: int  # That are valued.
  validation: int  # Rows that utilities are measured on.
  beta_permutations: int
  masks: int  # Of Banzhaf.
  bags: int  # Models of Data-OOB.
  clusters: int  # Of each clustering of EcoVal, in all.
  sets: int  # Of Distributional Shapley.
  unseen: int  # Rows that are valued and not trained on, at most.
  seeds: int


SIZES: Mapping[str, Size] = {
  "smoke": Size(80, 60, 2, 40, 8, 20, 4, 10, 2),
  "quick": Size(500, 500, 8, 1000, 100, 80, 20, 80, 3),
  "paper": Size(2000, 1000, 100, 5000, 1000, 400, 100, 200, 5),
}


@dataclasses.dataclass(frozen=True)
class Options(bench.CommonOptions):
  """Flip labels, value every training row in many ways, and see who finds them."""

  data: Annotated[
    str,
    described(
      "Rows to value: digits and breast-cancer (ship with scikit-learn), "
      "adult, or npz:PATH, a file with x [N, ...] and integer classes y [N]."
    ),
  ] = "digits"

  noise: Annotated[
    float,
    described(
      "Share of the labels that is flipped to another class, in (0, 1).",
      "FLOAT",
    ),
  ] = 0.2

  methods: Annotated[
    str, described("Estimators: all, or names as in loo,knn_shapley.")
  ] = "all"

  # The rows whose labels were flipped, and no others.
  request: tyro.conf.Suppress[str | None] = None

  out: flags.Out = "out/value_data"


class Extra(NamedTuple):
  """What the estimators and the measures need beside the rows."""

  validation: Any
  unseen: Any
  noisy: Any
  num_classes: int
  noise: float


def beds(
  options: Options, seeds: Sequence[int], part: str, asks: Any
) -> bench.Beds:
  """Rows to value, drawn and flipped once per seed."""
  del asks
  if not 0 < options.noise < 1:
    raise ValueError(f"Expected --noise in (0, 1), got {options.noise}.")
  dataset = data.with_floats(
    data.load(options.data, preset=options.preset, data_dir=options.data_dir)
  )
  size, noise = SIZES[options.preset], options.noise
  found = []
  for seed in seeds:
    split = classes.split(dataset, seed, part)
    given = seed, size.rows, size.validation, size.unseen, noise
    found.append(flipped.flip(dataset, split, *given))
  count, (rows, features) = dataset.num_classes, found[0].train["x"].shape
  shape = (features, count)
  model = from_functions(
    lambda key, x: {"kernel": jnp.zeros(shape), "bias": jnp.zeros(count)},
    lambda params, x: x @ params["kernel"] + params["bias"][None],
  )

  def make(shared: Any, own: Any) -> Bed:
    train, validation, test, unseen, noisy = own
    extra = Extra(validation, unseen, noisy, count, noise)
    return Bed(model, train, test, extra=extra)

  validation = len(found[0].validation["label"])
  size = size._replace(rows=rows, validation=validation)
  return bench.Beds(
    (),
    jax.tree.map(lambda *leaves: np.stack(leaves), *(f[:5] for f in found)),
    make,
    found,
    {
      "size": size._asdict(),
      "clusters_per_class": clusters_per_class(size.clusters, rows, count),
    },
    dataset=dataset,
  )


def clusters_per_class(clusters: int, rows: int, num_classes: int) -> int:
  """Of so many clusters, of which there is at most one for two rows."""
  return max(1, min(clusters, rows // 2) // num_classes)


def train(bed: Bed, weights: jax.Array, key: Any = None):
  """Logistic regression by Newton's method, which has nothing random."""
  del key
  rows = bed.data
  logits = valuation.logistic_fit(
    rows["x"], rows["label"], num_classes=bed.extra.num_classes, **_NEWTON
  )(weights)
  bias = logits(jnp.zeros((1, rows["x"].shape[1])))
  kernel = logits(jnp.eye(rows["x"].shape[1])) - bias
  return ju.Variables({"kernel": kernel, "bias": bias[0]}), None


def utility(
  bed: Bed,
  rows: Any = None,
  score: str = "log_likelihood",
  with_unseen: bool = False,
) -> valuation.Utility:
  """What the same model is worth on the validation rows, or on others.

  With `with_unseen` the rows that are not trained on are players too, the last.
  """
  players = bed.data
  if with_unseen:
    join = lambda a, b: jnp.concatenate([a, b])
    players = jax.tree.map(join, players, bed.extra.unseen)
  return valuation.logistic_utility(
    players,
    bed.extra.validation if rows is None else rows,
    num_classes=bed.extra.num_classes,
    score=score,
    **_NEWTON,
  )


def _fit(bed: Bed) -> ju.Fit:
  return ju.Fit(optax.adam(0.05), 100, bed.data["label"].shape[0])


def _confidence(bed: Bed, setting: Setting, key: jax.Array):
  everything = jnp.ones_like(bed.extra.noisy)
  variables, _ = ju.train(bed.model, bed.data, everything, key, _fit(bed))
  of_rows = lambda rows: valuation.confidence(
    bed.model.predict(variables, rows["x"]), rows["label"]
  )
  return of_rows(bed.data), 1, of_rows(bed.extra.unseen)


def _ecoval(bed: Bed, setting: Setting, key: jax.Array):
  rows, num_classes = bed.data, bed.extra.num_classes
  known = _confidence(bed, {}, derive(key, "confidence"))
  quality, trained, unseen_quality = known
  unseen = bed.extra.unseen
  score = utility(bed)

  def of_clusters(key):
    groups = valuation.cluster_rows(
      rows["x"],
      rows["label"],
      key,
      num_classes=num_classes,
      clusters_per_class=clusters_per_class(
        setting["clusters"], len(rows["label"]), num_classes
      ),
      num_iterations=10,
      num_restarts=1,
    )
    found = valuation.ecoval_values(
      score,
      groups.ids,
      quality,
      num_clusters=groups.num_clusters,
      price=valuation.PriceRule(setting["rule"]),
      strategy=_LANES,
    )
    further = valuation.ecoval_of_points(
      found,
      groups,
      unseen["x"],
      unseen["label"],
      unseen_quality,
      num_classes=num_classes,
      price=valuation.PriceRule(setting["rule"]),
    )
    return found.values, found.num_evaluations, further

  keys = jax.random.split(derive(key, "clusters"), setting["clusterings"])
  values, asked, further = jax.lax.map(of_clusters, keys)
  values, further = values.mean(axis=0), further.mean(axis=0)
  if setting["by_class"]:
    values = valuation.interleaved(
      values, rows["label"], num_clusters=num_classes
    )
  return values, asked.sum() + trained, further


def _distributional(bed: Bed, setting: Setting, key: jax.Array):
  count = bed.data["label"].shape[0]
  game = utility(bed, with_unseen=True)
  rows = jnp.arange(game.num_rows)
  found = valuation.distributional_shapley(
    game,
    rows < count,
    rows,
    key,
    num_sets=setting["sets"],
    max_size=count,
    strategy=_LANES,
  )
  return found.values[:count], found.num_evaluations, found.values[count:]


def _data_oob(bed: Bed, setting: Setting, key: jax.Array):
  scores = valuation.trained_scores(bed.model, bed.data, **_fit(bed)._asdict())
  found = valuation.data_oob(
    scores,
    bed.data["label"].shape[0],
    key,
    num_models=setting["bags"],
    strategy=16,
  )
  return found.values, found.num_evaluations


def _knn_shapley(bed: Bed, setting: Setting, key: jax.Array):
  parts = (bed.data, bed.extra.validation)
  found = valuation.knn_shapley(*(p[k] for p in parts for k in ("x", "label")))
  return found.values, found.num_evaluations


def _of_utility(estimate: Callable[..., Any]):
  """An estimator that asks the utility only; settings are its arguments."""

  def values(bed: Bed, setting: Setting, key: jax.Array):
    found = estimate(utility(bed), key, strategy=_LANES, **setting)
    return found.values, found.num_evaluations

  return values


def _method(estimate: Callable[..., Any], note: str = "") -> Method:
  """Values, and the model without the lowest of them, as many as were flipped.

  Which rows are to be forgotten is what an estimator has to find out: it does
  not see the request.
  """

  def build(bed: Bed, setting: Setting):
    def method(variables: Any, rows: Any, forget: Any, key: jax.Array):
      values, trained, *further = estimate(bed, setting, key)
      left, _ = train(bed, ~valuation.lowest(values, fraction=bed.extra.noise))
      # Rows may have no value, which is no divergence.
      known = ~jnp.isnan(values)
      state = {
        "values": jnp.where(known, values, 0),
        "known": known,
        "num_trainings": jnp.asarray(trained),
      }
      if further:  # It values rows that it was not given, too.
        state["unseen"] = further[0]
      return left._replace(model_state=state), None

    return method

  return Method(build, note=note, access="all rows")


_SHAPLEY = {f"tmc_shapley_{n}": n for n in PERMUTATIONS["paper"]}
METHODS: Mapping[str, Method] = {
  "ecoval_additive": _method(_ecoval),
  "ecoval_share": _method(_ecoval),
  "ecoval_share_by_class": _method(
    _ecoval,
    "ranks the values of ecoval_share within each class, so that pruning takes "
    "the same share of every class.",
  ),
  **{name: _method(_of_utility(valuation.shapley)) for name in _SHAPLEY},
  "loo": _method(_of_utility(lambda u, key, **s: valuation.loo(u, **s))),
  "beta_shapley": _method(_of_utility(valuation.beta_shapley)),
  "banzhaf": _method(_of_utility(valuation.banzhaf_msr)),
  "distributional_shapley": _method(_distributional),
  "knn_shapley": _method(_knn_shapley),
  "data_oob": _method(_data_oob),
  "confidence": _method(_confidence),
  "random": _method(
    lambda bed, setting, key: (
      jax.random.uniform(key, bed.extra.noisy.shape),
      0,
    )
  ),
}


def settings_of(options: Options) -> dict[str, Setting]:
  size = SIZES[options.preset]
  # The values of EcoVal are means over the clusterings.
  shared = {"clusters": size.clusters, "clusterings": 3, "by_class": False}
  share = {**shared, "rule": "share"}
  return {
    "ecoval_additive": {**shared, "rule": "additive"},
    "ecoval_share": share,
    "ecoval_share_by_class": {**share, "by_class": True},
    **{
      name: {
        "num_permutations": count,
        "truncation": 0.01,
        # An odd number has no pairs.
        "antithetic": count % 2 == 0,
      }
      for name, count in _SHAPLEY.items()
    },
    "beta_shapley": {
      "alpha": 4.0,
      "beta": 1.0,
      "num_permutations": size.beta_permutations,
    },
    "banzhaf": {"num_samples": size.masks},
    "data_oob": {"bags": size.bags},
    "distributional_shapley": {"sets": size.sets},
  }


def fit(plan: bench.Plan) -> bench.Plan:
  """Leaves out the budgets that are too large for the preset."""
  if plan.options.methods != "all":
    return plan
  budgets = PERMUTATIONS[plan.options.preset]
  left = [m for m in plan.methods if _SHAPLEY.get(m, budgets[0]) in budgets]
  settings = {name: plan.settings[name] for name in left}
  return plan._replace(methods=tuple(left), settings=settings)


def unseen_gains(bed: Bed) -> jax.Array:
  """What each unseen row adds to all that are there, on the test rows; [K]."""
  game, count = utility(bed, bed.test, with_unseen=True), bed.data["label"].size
  rows = jnp.arange(game.num_rows)
  gains = game.over(
    lambda row: (rows < count) | (rows == row),
    rows[count - 1 :],
    strategy=_LANES,
  )
  return gains[1:] - gains[0]


def _judge(case: Case) -> dict[str, Any]:
  """Measures values on the flips and on the test rows."""
  bed, state = case.bed, case.variables.model_state
  logits = bed.model.predict(case.variables, bed.test["x"])
  found = {"test_accuracy": metrics.accuracy(logits, bed.test["label"])}
  if not state:
    return found  # Of a model that no values made.
  values = jnp.where(state["known"], state["values"], jnp.nan)
  split = valuation.noisy_label_scores(values, bed.extra.noisy)
  found |= {
    "noise_f1": split.f1,
    "noise_auc": split.roc_auc,
    "noise_precision": split.precision_at_noisy,
    "num_trainings": state["num_trainings"],
    "values": values,
  }
  if "unseen" in state:
    found["unseen_rank"] = valuation.rank_correlation(
      state["unseen"], unseen_gains(bed)
    )
  score = utility(bed, bed.test, "accuracy")
  for name, at in view.CURVES.items():
    curve = getattr(valuation, f"{name}_curve")
    for order in ("high", "low"):
      line = curve(score, values, jnp.array(at), order=order, strategy=_LANES)
      found[f"{order}_{name}"] = line
      # The first point of a removal removes nothing.
      mean = line[int(at[0] == 0) :].mean()
      found[f"{order}_{name}_accuracy"] = mean
  return found


STUDY = bench.Study(
  name="value_data",
  options=Options,
  beds=beds,
  kinds={
    "flipped": bench.Kind("flipped:SHARE", lambda value, own: (own.noisy, None))
  },
  request=lambda options: f"flipped:{options.noise:g}",
  train=train,
  methods=METHODS,
  smoke=("tmc_shapley_5", "tmc_shapley_20", "loo", "knn_shapley", "random"),
  settings=settings_of,
  fit=fit,
  measures=lambda plan: [
    Measure(view.COLUMNS, _judge, ("values", *view.LINES)),
    table.gap(
      ("test_accuracy",),
      "Difference of the test accuracy to that of the model trained without the "
      "flipped rows.",
    ),
  ],
  unanswered=(
    "Nothing was to be deleted here: rows were given values, and models trained "
    "without some of them."
  ),
  seeds=lambda options: SIZES[options.preset].seeds,
  title=lambda plan: f"What the rows of {plan.options.data} are worth",
  lead=view.lead,
  columns=lambda plan: view.SHOWN_COLUMNS,
  notes=lambda plan: view.NOTES,
  panels=view.PANELS,
  findings=view.findings,
  files=lambda evidence: {"values.csv": view.values_csv(evidence)},
)
