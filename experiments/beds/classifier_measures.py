"""What is measured of a classifier that was asked to forget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxunlearn as ju
from jaxunlearn import attacks, metrics, report
from jaxunlearn.attacks import anamnesis
from jaxunlearn.core.keys import derive
from jaxunlearn.core.training import init_variables
from jaxunlearn.report.taxonomy import WHITE_BOX
from jaxunlearn.report.verdict import DAMAGE, NOTHING, TELLTALE, TRACE

from ..bench import (
  ORIGINAL,
  RETRAINED,
  Bed,
  Case,
  Evidence,
  Measure,
  Plan,
  Rule,
  distance,
  table,
)

NUM_TEACHERS = 8
SVC_ROWS = 500  # Rows of a class that the membership attack is fitted on.
RELEARN_MARGIN = 0.05
RELEARN_ROWS = 1000  # That accuracy is measured on, after every step.
GAP = (
  "forget_accuracy",
  "retain_accuracy",
  "test_accuracy",
  "membership_share",
)
# What SalUn's tables (arXiv:2310.12508) average: UA, RA, TA and MIA.
SALUN = (
  "unlearning_accuracy",
  "retain_accuracy",
  "kept_test_accuracy",
  "mia_efficacy",
)
# Of training and test rows, what membership attacks are given.
_SIGNALS = ("entropy", "test_entropy", "confidence", "test_confidence")
_OWN = (
  report.Metric(
    "forget_cross_entropy",
    "Forget cross-entropy",
    "Mean loss on the rows to be forgotten; far above the retrained model's is "
    "over-forgetting.",
    "nats",
    2,
  ),
  report.Metric(
    "same_class_accuracy",
    "Retain accuracy, same classes",
    "Share of the retained rows of the classes that the request has rows of "
    "that the model predicts correctly; no value where whole classes go.",
    "%",
    1,
  ),
)
_NEWEST = report.Metric(
  "newest_forget_accuracy",
  "Forget accuracy, newest request",
  "Share of the rows of the newest request alone that the model still predicts "
  "correctly.",
  "%",
  1,
)
_SHARED = (
  "forget_accuracy",
  "retain_accuracy",
  "test_accuracy",
  "forget_test_accuracy",
  "retain_test_accuracy",
  "unlearning_accuracy",
  "kept_test_accuracy",
  "chance_accuracy",
  "zrf",
  "activation_distance",
  "js_to_retrained",
  "weight_distance",
  "membership_auc",
  "membership_share",
  "mia_efficacy",
)


_IDENTITIES = (
  report.Metric(
    "instance_attack",
    "Instance attack",
    "Accuracy of a logistic regression on the loss that tells images to be "
    "forgotten from images of people never trained on, as many of both; 50 % is "
    "guessing.",
    "%",
    1,
  ),
  report.Metric(
    "forgetting_score",
    "Forgetting score",
    "How far the instance attack is from guessing, |M - 1/2|.",
    "points",
    1,
    report.LOWER,
  ),
  report.Metric(
    "nomus",
    "NoMUS",
    "Half the test accuracy and half of 1 - 2 |M - 1/2|, M the accuracy of the "
    "instance attack (arXiv:2311.02240).",
    "",
    3,
    report.HIGHER,
    headline=True,
  ),
)


RULES = (
  Rule("forget_accuracy", 0.05, above=TRACE, below=TELLTALE),
  Rule("membership_share", 0.1, above=TRACE, below=TELLTALE, threat=WHITE_BOX),
  Rule("kept_test_accuracy", 0.02, above=NOTHING, below=DAMAGE),
  Rule("retain_accuracy", 0.03, NOTHING, DAMAGE, reference=ORIGINAL),
  distance("js_to_retrained", 0.02),
)


def measures(plan: Plan, rules: tuple[Rule, ...] = RULES) -> list[Measure]:
  """Accuracies, distances, membership, relearning, and what follows."""
  sequence = plan.requests.in_sequence
  return [
    Measure(
      (*map(table.shared, _SHARED), *_OWN, *([_NEWEST] if sequence else [])),
      _outputs(sequence),
      (*_SIGNALS, "confusion"),
      _memberships,
      rules,
      _teachers,
    ),
    Measure(
      tuple(
        table.shared(name)
        for name in ("relearn_steps", "relearn_reached", "anamnesis_index")
      ),
      _relearn(plan),
      ("relearn_target", "relearn_curve", "relearn_finite"),
      _anamnesis,
      costly=True,
    ),
    *([Measure(_IDENTITIES, _instances)] if with_identities(plan) else []),
    table.gap(GAP),
    table.gap(SALUN, name="salun_gap"),
  ]


def with_identities(plan: Plan) -> bool:
  """Whether there are rows of people that nobody trained on."""
  return getattr(plan.dataset, "unseen", None) is not None


def _instances(case: Case) -> Mapping[str, Any]:
  """The attack on single images of arXiv:2311.02240, and its score."""
  bed = case.bed

  def loss(rows: Any) -> jax.Array:
    logits = ju.predict(bed.model, case.variables, rows["x"])
    return -bed.model.loss(logits, rows)

  attack = attacks.logistic_accuracy(
    derive(case.key, "instances"),
    loss(bed.data),
    loss(bed.extra.aside),
    case.forget,
  ).accuracy
  logits = ju.predict(bed.model, case.variables, bed.test["x"])
  right = metrics.accuracy(logits, bed.test["label"])
  return {
    "instance_attack": attack,
    "forgetting_score": metrics.forgetting_score(attack),
    "nomus": metrics.nomus(right, attack),
  }


def _teachers(bed: Bed, key: jax.Array) -> jax.Array:
  """Probabilities of untrained networks that no method has used, [T, N, C]."""

  def teacher(key: jax.Array) -> jax.Array:
    untrained = init_variables(bed.model, bed.data, key)
    return jax.nn.softmax(ju.predict(bed.model, untrained, bed.data["x"]))

  keys = jax.random.split(derive(key, "teachers"), NUM_TEACHERS)
  return ju.map_many(teacher, keys, strategy="map")


def _outputs(sequence: bool):
  def run(case: Case) -> Mapping[str, Any]:
    bed, forget, gone = case.bed, case.forget, case.marks
    train, test = bed.data, bed.test
    classes = bed.extra.num_classes
    # The rows that are left of the classes of which some are to be forgotten.
    touched = jnp.zeros(classes, bool).at[train["label"]].max(forget)
    siblings = touched[train["label"]] & ~forget
    logits, reference = (
      ju.predict(bed.model, v, train["x"])
      for v in (case.variables, case.retrained)
    )
    test_logits = ju.predict(bed.model, case.variables, test["x"])
    right = lambda w: metrics.accuracy(logits, train["label"], w)
    test_right = lambda w: metrics.accuracy(test_logits, test["label"], w)
    # Forgotten rows against unseen ones of the same classes, where the request
    # is of whole classes; against all unseen ones else.
    unseen = jnp.where(gone.any(), gone, True)
    kept = jnp.where(gone.any(), ~gone, True)
    nothing = lambda v: jnp.where(gone.any(), v, jnp.nan)
    counts = jnp.zeros(classes).at[train["label"]].add(~forget)
    both = ((logits, train["label"]), (test_logits, test["label"]))
    signals = (
      *(metrics.entropy(outputs) for outputs, _ in both),
      *(metrics.confidence(outputs, label) for outputs, label in both),
    )
    finite = jnp.isfinite(logits).all() & jnp.isfinite(test_logits).all()
    found = {
      "is_finite": finite,
      "forget_accuracy": right(forget),
      "retain_accuracy": right(~forget),
      "same_class_accuracy": right(siblings),
      "test_accuracy": test_right(None),
      "forget_test_accuracy": test_right(gone),
      "retain_test_accuracy": nothing(test_right(kept)),
      "unlearning_accuracy": 1 - right(forget),
      "kept_test_accuracy": test_right(kept),
      "chance_accuracy": counts.max() / counts.sum(),
      "forget_cross_entropy": metrics.mean_cross_entropy(
        logits, train["label"], forget
      ),
      "zrf": metrics.zrf_over_teachers(
        jax.nn.softmax(logits), case.fitted, forget
      ),
      "activation_distance": metrics.activation_distance(
        logits, reference, forget
      ),
      "js_to_retrained": metrics.mean_js(logits, reference, forget),
      "weight_distance": metrics.weight_distance(
        case.variables, case.original
      ).relative,
      "membership_auc": metrics.separation_auc(
        -bed.model.loss(logits, train),
        -bed.model.loss(test_logits, test),
        forget,
        unseen,
      ),
      **dict(zip(_SIGNALS, signals)),
      "confusion": metrics.confusion_matrix(
        test_logits, test["label"], classes
      ),
    }
    if sequence:
      found["newest_forget_accuracy"] = right(case.added)
    return found

  return run


def _memberships(evidence: Evidence, method: str) -> dict[str, np.ndarray]:
  """Shares of forget rows that attacks call members, or strangers."""
  found = evidence.found[method].values
  signals = [found[name] for name in _SIGNALS]
  share = _membership(evidence, method, *signals[:2])
  # The share called non-members, by another feature and, where whole classes
  # are forgotten, against unseen rows of the others, as in SalUn's code.
  strangers = 1 - _membership(evidence, method, *signals[2:], kept_only=True)
  zero = {"activation_distance": 0.0, "js_to_retrained": 0.0}
  return {
    "membership_share": share,
    "mia_efficacy": strangers,
    # By definition; two programs that round differently would show 1e-9.
    **(
      {k: np.full_like(share, v) for k, v in zero.items()}
      if method == RETRAINED
      else {}
    ),
  }


def _membership(
  evidence: Evidence,
  method: str,
  signal: np.ndarray,
  test_signal: np.ndarray,
  *,
  kept_only: bool = False,
) -> np.ndarray:
  """The attack's share for each lane, by a signal of training and test rows.

  Args:
    evidence: see `Evidence`.
    method: whose.
    signal: float [L, N].
    test_signal: float [L, N_test].
    kept_only: whether test rows of forgotten classes are left out.

  Returns:
    [L], nan for a model that diverged.
  """
  plan, is_finite = evidence.plan, evidence.found[method].is_finite
  gone = plan.requests.marks.reshape(len(plan.forget), -1)
  shares = np.full(len(is_finite), np.nan)
  for lane in np.flatnonzero(is_finite):
    rows, test_rows, forget = signal[lane], test_signal[lane], plan.forget[lane]
    if kept_only:
      test_rows = test_rows[~gone[lane]]
    shares[lane] = metrics.svc_membership(
      rows[~forget],
      test_rows,
      rows[forget],
      max_rows=SVC_ROWS,
      seed=plan.seeds[plan.lanes[1][lane]],
    )
  return shares


def relearn_limit(plan: Plan) -> int:
  """The most steps: a sixth of the training, some ten epochs of a "paper" one."""
  return max(1, plan.beds.facts["recipe"]["num_steps"] // 6)


def _relearn(plan: Plan):
  """How fast a model learns again what it was made to forget.

  The anamnesis index of arXiv:2201.05629: every model is trained on all training
  rows, the forgotten ones with them, by Adam with the same draws, until it is
  nearly as good on what was forgotten as the original model was: on test rows of
  the forgotten classes where the request is a union of classes, else on the
  forgotten rows themselves.
  """
  limit = relearn_limit(plan)
  forget, gone = plan.requests.forget, plan.requests.marks
  rows = np.where(gone.any(-1), gone.sum(-1), forget.sum(-1)).max()
  count = int(min(rows, RELEARN_ROWS))

  def run(case: Case) -> dict[str, Any]:
    bed = case.bed
    of_train, of_test = (
      _spread(mask, count) for mask in (case.forget, case.marks)
    )
    is_test = case.marks.any()
    chosen = jax.tree.map(
      lambda a, b: jnp.where(is_test, b[of_test[0]], a[of_train[0]]),
      bed.data,
      bed.test,
    )
    weight = jnp.where(is_test, of_test[1], of_train[1])

    def accuracy(variables: Any) -> jax.Array:
      logits = ju.predict(bed.model, variables, chosen["x"])
      return metrics.accuracy(logits, chosen["label"], weight)

    again = anamnesis.relearn(
      bed.model,
      case.variables,
      bed.data,
      jnp.ones_like(case.forget),
      derive(case.key, "relearn"),
      evaluate=accuracy,
      target=anamnesis.relearn_target(accuracy(case.original), RELEARN_MARGIN),
      num_steps=limit,
      batch_size=bed.recipe.batch_size,
      # As released: a model that is at the target already takes one step, so
      # that the index has a value wherever the retrained model relearns.
      count_from_zero=False,
    )
    return {
      "relearn_steps": again.steps,
      "relearn_reached": again.reached,
      "relearn_target": again.target,
      "relearn_curve": again.curve,
      "relearn_finite": again.is_finite,
    }

  return run


def _spread(mask: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
  """Numbers of rows of a mask, evenly spread, and their weights, [count]."""
  order, total = jnp.argsort(~mask, stable=True), mask.sum()
  place = jnp.arange(count)
  thinned = place * jnp.maximum(total - 1, 0) // max(count - 1, 1)
  place = jnp.where(total > count, thinned, place) % mask.size
  return order[place], mask[order[place]].astype(jnp.float32)


def _anamnesis(evidence: Evidence, method: str) -> dict[str, np.ndarray]:
  ours, theirs = (
    anamnesis.Relearned(
      *(found["relearn_steps"], found["relearn_reached"]),
      *(found["relearn_curve"], found["relearn_target"]),
      *(None, found["relearn_finite"]),
    )
    for found in (evidence.found[m].values for m in (method, RETRAINED))
  )
  index = anamnesis.anamnesis_index(ours, theirs).value
  return {"anamnesis_index": np.asarray(index, np.float64)}
