"""What is each row of the training data worth, and who finds wrong labels?

Question: how well does EcoVal (arXiv:2402.09288, as reconstructed in
`jaxunlearn.valuation.ecoval`), which trains one model a cluster, do beside
estimators that train thousands: truncated Monte-Carlo Shapley (1904.02868),
leave-one-out, Beta Shapley (2110.14049), Data Banzhaf (2205.15466),
KNN-Shapley (1908.08619), Data-OOB (2304.07718); and beside two that value
nothing, the confidence of one model and random numbers?

    python -m experiments.value_data --preset quick --out out/value

flips a fifth of the labels of scikit-learn's digits, values every row, looks for
the flipped ones among the lowest, trains anew without the lowest, the highest,
and on them alone, and writes results.json, table.md, values.csv, plots/ and
report.html. It takes two to three minutes on two CPU cores.

    python -m experiments.value_data --data adult --data-dir DIR

does so on rows of a table (UCI Adult).
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.progress import Progress

from experiments import common, data, flags
from experiments import value_data_output as output
from experiments.flags import described
from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.training import train
from jaxunlearn.valuation.banzhaf import banzhaf_msr
from jaxunlearn.valuation.closed_form import logistic_utility
from jaxunlearn.valuation.clusters import cluster_rows, interleaved
from jaxunlearn.valuation.ecoval import ecoval_values
from jaxunlearn.valuation.exact import loo
from jaxunlearn.valuation.knn import knn_shapley
from jaxunlearn.valuation.out_of_bag import data_oob, trained_scores
from jaxunlearn.valuation.permutation import beta_shapley, shapley
from jaxunlearn.valuation.quality import confidence
from jaxunlearn.valuation.types import Utility
from jaxunlearn.valuation.uses import (
  addition_curve,
  lowest,
  noisy_label_scores,
  removal_curve,
)

DEFAULT_SEEDS = {"smoke": 2, "quick": 3, "paper": 5}
REMOVED = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
ADDED = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
CLUSTERINGS = 3  # Over which EcoVal's values are averaged.
_LANES = 64  # Models trained together.


class Size(NamedTuple):
  """How much of everything.

  Attributes:
    rows: that are valued.
    validation: rows that utilities are measured on.
    permutations: of truncated Monte-Carlo Shapley.
    beta_permutations: of Beta Shapley.
    masks: of Banzhaf.
    bags: models of Data-OOB.
    clusters: of each clustering of EcoVal, in all.
  """

  rows: int
  validation: int
  permutations: int
  beta_permutations: int
  masks: int
  bags: int
  clusters: int


SIZES: Mapping[str, Size] = {
  "smoke": Size(80, 60, 2, 2, 40, 8, 20),
  "quick": Size(500, 500, 20, 8, 1000, 100, 80),
  "paper": Size(2000, 1000, 200, 100, 5000, 1000, 400),
}


class Problem(NamedTuple):
  """One seed's rows; arrays only, so that all seeds share one program.

  Attributes:
    train: {"x": [N, D], "label": [N]}, a share of the labels flipped.
    validation: {"x", "label"}, labels as they were.
    test: the same; no estimator sees it.
    noisy: bool [N], whose labels were flipped.
    rows: int [N], the training rows' numbers in the data set.
  """

  train: dict[str, Any]
  validation: dict[str, Any]
  test: dict[str, Any]
  noisy: Any
  rows: Any


class Setting(NamedTuple):
  """What a method is made for; static."""

  size: Size
  num_classes: int
  num_features: int

  @property
  def clusters_per_class(self) -> int:
    return max(1, self.size.clusters // self.num_classes)


# Values [N] and the number of models trained.
Method = Callable[[Setting, Problem, jax.Array], tuple[jax.Array, Any]]


@dataclasses.dataclass(frozen=True)
class Options:
  """Flip labels, value every training row in ten ways, and see who finds them."""

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

  seeds: flags.Seeds = None

  preset: flags.Preset = "quick"

  data_dir: flags.DataDir = None

  out: flags.Out = "out/value_data"


class Plan(NamedTuple):
  """Options that were checked, and what they name."""

  options: Options
  dataset: data.Dataset
  setting: Setting
  methods: tuple[str, ...]
  num_seeds: int


def prepare(options: Options) -> Plan:
  """Checks everything that can be checked before training.

  Raises:
    ValueError: one line that names the option, what was found and wanted.
  """
  if not 0 < options.noise < 1:
    raise ValueError(f"Expected --noise in (0, 1), got {options.noise}.")
  flags.check_seeds(options.seeds)
  names = flags.chosen(options.methods, METHODS)
  dataset = data.with_floats(
    data.load(options.data, preset=options.preset, data_dir=options.data_dir)
  )
  size = SIZES[options.preset]
  available = len(dataset.train["label"])
  if available < size.rows + size.validation:
    # Two thirds are valued where the data are few.
    rows = 2 * available // 3
    size = size._replace(rows=rows, validation=available - rows)
  size = size._replace(clusters=min(size.clusters, size.rows // 2))
  if size.rows < 4 * dataset.num_classes:
    raise ValueError(
      f"Expected --data with at least {6 * dataset.num_classes} training rows "
      f"for {dataset.num_classes} classes, got {available}."
    )
  if round(options.noise * size.rows) < 1:
    raise ValueError(
      f"Expected --noise to flip labels of {size.rows} rows, got "
      f"{options.noise}, which flips none."
    )
  features = int(np.prod(dataset.train["x"].shape[1:]))
  setting = Setting(size, dataset.num_classes, features)
  seeds = options.seeds or DEFAULT_SEEDS[options.preset]
  return Plan(options, dataset, setting, names, seeds)


def make_problem(plan: Plan, seed: int) -> Problem:
  """Rows to value and to validate on, and flips, of one seed."""
  size, num_classes = plan.setting.size, plan.setting.num_classes
  rng = np.random.default_rng(seed)
  order = rng.permutation(len(plan.dataset.train["label"]))
  rows, validation = np.split(order[: size.rows + size.validation], [size.rows])
  flat = lambda part: part["x"].reshape(len(part["x"]), -1)
  x, label = flat(plan.dataset.train), plan.dataset.train["label"]
  centre = x[rows].mean(axis=0)
  part = lambda index: {"x": x[index] - centre, "label": label[index]}
  noisy = np.zeros(size.rows, bool)
  noisy[rng.permutation(size.rows)[: round(plan.options.noise * size.rows)]] = 1
  valued = part(rows)
  shift = rng.integers(1, num_classes, size.rows)
  flipped = (valued["label"] + shift) % num_classes
  valued["label"] = np.where(noisy, flipped, valued["label"]).astype(np.int32)
  test = {
    "x": flat(plan.dataset.test) - centre,
    "label": plan.dataset.test["label"],
  }
  problem = Problem(valued, part(validation), test, noisy, rows)
  return jax.tree.map(jnp.asarray, problem)


def utility(
  setting: Setting, problem: Problem, part: str = "validation"
) -> Utility:
  """Logistic regression: log-likelihood, or the accuracy on the test rows."""
  return logistic_utility(
    problem.train,
    getattr(problem, part),
    num_classes=setting.num_classes,
    score="log_likelihood" if part == "validation" else "accuracy",
    num_steps=4,
    num_cg_steps=8,
  )


def linear_model(setting: Setting) -> Model:
  """Softmax regression, for what wants a model's outputs."""
  shape = (setting.num_features, setting.num_classes)
  return from_functions(
    lambda key, x: {"kernel": jnp.zeros(shape), "bias": jnp.zeros(shape[1])},
    lambda params, x: x @ params["kernel"] + params["bias"][None],
  )


def _recipe(setting: Setting) -> dict[str, Any]:
  return {
    "optimizer": optax.adam(0.05),
    "num_steps": 100,
    "batch_size": setting.size.rows,
  }


def _confidence(setting: Setting, problem: Problem, key: jax.Array):
  model, rows = linear_model(setting), problem.train
  everything = jnp.ones(setting.size.rows, bool)
  variables, _ = train(model, rows, everything, key, **_recipe(setting))
  return confidence(model.predict(variables, rows["x"]), rows["label"]), 1


def _ecoval(rule: str, *, by_class: bool = False) -> Method:
  def run(setting, problem, key):
    x, label = problem.train["x"], problem.train["label"]
    cluster_key, train_key = jax.random.split(key)
    quality, trained = _confidence(setting, problem, train_key)
    score = utility(setting, problem)

    def of_clusters(key):
      groups = cluster_rows(
        x,
        label,
        key,
        num_classes=setting.num_classes,
        clusters_per_class=setting.clusters_per_class,
        num_iterations=10,
        num_restarts=1,
      )
      found = ecoval_values(
        score,
        groups.ids,
        quality,
        num_clusters=groups.num_clusters,
        rule=rule,
        strategy=_LANES,
      )
      return found.values, found.num_evaluations

    keys = jax.random.split(cluster_key, CLUSTERINGS)
    values, asked = jax.lax.map(of_clusters, keys)
    values = values.mean(axis=0)
    if by_class:
      values = interleaved(values, label, num_clusters=setting.num_classes)
    return values, asked.sum() + trained

  return run


def _of_utility(estimate) -> Method:
  """A method that asks the utility only."""

  def run(setting, problem, key):
    found = estimate(utility(setting, problem), setting.size, key)
    return found.values, found.num_evaluations

  return run


def _data_oob(setting, problem, key):
  scores = trained_scores(
    linear_model(setting), problem.train, **_recipe(setting)
  )
  found = data_oob(
    scores, setting.size.rows, key, num_models=setting.size.bags, strategy=16
  )
  return found.values, found.num_evaluations


def _knn_shapley(setting, problem, key):
  del key
  validation = problem.validation
  found = knn_shapley(
    problem.train["x"],
    problem.train["label"],
    validation["x"],
    validation["label"],
  )
  return found.values, found.num_evaluations


METHODS: Mapping[str, Method] = {
  "ecoval_additive": _ecoval("additive"),
  "ecoval_share": _ecoval("share"),
  "ecoval_share_by_class": _ecoval("share", by_class=True),
  "tmc_shapley": _of_utility(
    lambda u, size, key: shapley(
      u,
      key,
      num_permutations=size.permutations,
      truncation=0.01,
      strategy=_LANES,
    )
  ),
  "loo": _of_utility(lambda u, size, key: loo(u, strategy=_LANES)),
  "beta_shapley": _of_utility(
    lambda u, size, key: beta_shapley(
      u,
      key,
      alpha=4.0,
      beta=1.0,
      num_permutations=size.beta_permutations,
      strategy=_LANES,
    )
  ),
  "banzhaf": _of_utility(
    lambda u, size, key: banzhaf_msr(
      u, key, num_samples=size.masks, strategy=_LANES
    )
  ),
  "knn_shapley": _knn_shapley,
  "data_oob": _data_oob,
  "confidence": _confidence,
  "random": lambda setting, problem, key: (
    jax.random.uniform(key, (setting.size.rows,)),
    0,
  ),
}


class Judged(NamedTuple):
  """What values of M methods are good for.

  Attributes:
    noise: by name, float [M].
    removal: float [M, 2, F], test accuracy without the highest, the lowest.
    addition: float [M, 2, F], on the highest, the lowest alone.
    pruned: float [M], test accuracy without the lowest share `noise`.
    original: float [], of all rows.
    retrained: float [], without the flipped rows.
  """

  noise: dict[str, Any]
  removal: Any
  addition: Any
  pruned: Any
  original: Any
  retrained: Any


def judge(
  setting: Setting,
  problem: Problem,
  values: jax.Array,
  removed: jax.Array,
  added: jax.Array,
  noise: jax.Array,
) -> Judged:
  """Measures values [M, N] on the flips and on the test rows."""
  score = utility(setting, problem, "test")

  def one(own: jax.Array):
    curves = [
      jnp.stack(
        [
          curve(score, own, at, order=order, strategy=_LANES)
          for order in ("high", "low")
        ]
      )
      for curve, at in ((removal_curve, removed), (addition_curve, added))
    ]
    split = noisy_label_scores(own, problem.noisy)
    found = {
      "noise_f1": split.f1,
      "noise_auc": split.roc_auc,
      "noise_precision": split.precision_at_noisy,
    }
    return found, *curves, score.many(~lowest(own, fraction=noise)[None])[0]

  found, removal, addition, pruned = jax.lax.map(one, values)
  both = jnp.stack([jnp.ones_like(problem.noisy), ~problem.noisy])
  original, retrained = score.many(both)
  return Judged(found, removal, addition, pruned, original, retrained)


class Outcome(NamedTuple):
  """All that was found.

  Attributes:
    problems: a seed each.
    values: float [S, M, N].
    trainings: int [S, M].
    seconds: by method, (compile, run of each seed).
    judged: a seed each, NumPy.
  """

  problems: list[Problem]
  values: np.ndarray
  trainings: np.ndarray
  seconds: dict[str, tuple[float, list[float]]]
  judged: list[Judged]


def run(plan: Plan, progress: Progress) -> Outcome:
  """Values and measures; writes nothing."""
  seeds = range(plan.num_seeds)
  problems = [make_problem(plan, seed) for seed in seeds]
  total = len(plan.methods) + 1
  task = progress.add_task("starting", total=total * plan.num_seeds)
  values, trainings, seconds = [], [], {}
  for number, name in enumerate(plan.methods):
    progress.update(task, description=f"valuing by {name}")
    began = time.perf_counter()
    of_problem = functools.partial(METHODS[name], plan.setting)
    key = jax.random.key(0)
    program = jax.jit(of_problem).lower(problems[0], key).compile()
    seconds_compile = time.perf_counter() - began
    times, found = [], []
    for seed in seeds:
      key = jax.random.fold_in(jax.random.key(seed), number)
      began = time.perf_counter()
      done = jax.block_until_ready(program(problems[seed], key))
      times.append(time.perf_counter() - began)
      found.append(jax.tree.map(np.asarray, done))
      progress.advance(task)
    seconds[name] = (seconds_compile, times)
    values.append(np.stack([v for v, _ in found]))
    trainings.append([int(t) for _, t in found])
  progress.update(task, description="training on the best and the worst")
  stacked = np.stack(values, axis=1)
  judging = jax.jit(lambda *args: judge(plan.setting, *args))
  judged = []
  for seed in seeds:
    fractions = (jnp.asarray(REMOVED), jnp.asarray(ADDED))
    noise = jnp.asarray(plan.options.noise)
    done = judging(problems[seed], stacked[seed], *fractions, noise)
    judged.append(jax.tree.map(np.asarray, done))
    progress.advance(task)
  return Outcome(problems, stacked, np.array(trainings).T, seconds, judged)


def main(argv: Sequence[str] | None = None) -> None:
  """The program; bad input ends it with one line and exit status 2."""
  asked = flags.parse(Options, "python -m experiments.value_data", argv)
  plan, summary = common.run_program(asked, prepare, run, output.write)
  output.show(common.wide_console(), plan, summary)


if __name__ == "__main__":
  main()
