"""Is a model told from the retrained one by what it says of the forgotten rows?

The attack, the privacy score and the record of a model of the Unlearning
Comparator: an attacker who sees one number a row puts a threshold on it, above
which a model is called unlearned (or retrained). The score is that of the best
of four such attackers.

Source: Unlearning Comparator (2025), arXiv:2508.12730, and its code. Departures:
any forget set stands for the class of the paper, and values are not rounded to
two digits before they are compared. As in the code, and unlike the 2023
challenge (`forgetting_quality`), epsilon is the lower of two bounds, in natural
logarithms, and the score takes it as an exponent of 2.

Data access: the forget rows, and a model retrained without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn import metrics
from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.core.tasks import Model
from jaxunlearn.core.types import PyTree, Variables

SIGNALS = ("entropy", "confidence")
# Between which values are clipped, and thresholds are tried.
RANGES = ((0.0, 2.5), (-2.5, 10.0))
DIRECTIONS = ("unlearned", "retrained")  # Which of them is called so above.
NUM_THRESHOLDS = 51
_TEMPERATURE = 2.0
_DELTA = 1e-5
_LEAST = 1e-10


class ThresholdCurve(NamedTuple):
  """An attacker at each threshold.

  Attributes:
    thresholds: [T].
    fpr: [T], share of the other model's rows that are called positive.
    fnr: [T], share of the positive model's rows that are not.
    epsilon: [T], >= 0; see `privacy_epsilon`.
    score: [T], 1 - 2^-epsilon, in [0, 1]; 0 is to guess.
  """

  thresholds: jax.Array
  fpr: jax.Array
  fnr: jax.Array
  epsilon: jax.Array
  score: jax.Array


class PrivacyScore(NamedTuple):
  """All four attackers.

  Attributes:
    value: 1 less the best score of any, in [0, 1]; 1: like the retrained model.
      Two samples of one law do not reach 1: of 200 rows each about 0.9.
    curves: leaves [2, 2, T]: by signal, see `SIGNALS`, and `DIRECTIONS`.
    best: int [], the place among 2 * 2 * T of the best.
  """

  value: jax.Array
  curves: ThresholdCurve
  best: jax.Array


class ModelRecord(NamedTuple):
  """What a comparison of models shows of one; see `model_record`.

  Attributes:
    train: by class, on the training rows.
    test: by class, on test rows.
    forget_accuracy: [], on training rows.
    retain_accuracy: [], likewise.
    test_accuracy: [].
    logits: [P, C], of the rows shown.
    cka: [R, 2, L]: to each reference, on forget and retain rows, by layer.
    signals: [2, P], of the rows shown; see `SIGNALS`.
    privacy: against the first reference, on the forget rows among those shown.
  """

  train: metrics.ClassOutcomes
  test: metrics.ClassOutcomes
  forget_accuracy: jax.Array
  retain_accuracy: jax.Array
  test_accuracy: jax.Array
  logits: jax.Array
  cka: jax.Array
  signals: jax.Array
  privacy: PrivacyScore


def retraining_signals(logits: jax.Array) -> jax.Array:
  """What the attackers look at: entropy and confidence, no label.

  Args:
    logits: float [..., C].

  Returns:
    [2, ...]: the entropy in nats of the softmax at temperature 2, and the
    log odds of the largest probability at temperature 1.

  Example:
    >>> retraining_signals(jnp.zeros((1, 2))).tolist()
    [[0.6931471824645996], [0.0]]
  """
  logits = arrays("logits [...]", logits)
  logits = logits.astype(jnp.promote_types(jnp.float32, logits.dtype))
  top = jnp.argmax(logits, axis=-1)
  is_top = jax.nn.one_hot(top, logits.shape[-1], dtype=bool)
  others = jnp.where(is_top, -jnp.inf, logits)
  odds = jnp.max(logits, axis=-1) - jax.nn.logsumexp(others, axis=-1)
  return jnp.stack([metrics.entropy(logits / _TEMPERATURE), odds])


def privacy_epsilon(fpr: jax.Array, fnr: jax.Array) -> jax.Array:
  """The least epsilon at which an attacker with these rates is possible.

  Args:
    fpr: [...], in [0, 1].
    fnr: of the same shape.

  Returns:
    [...], nats, >= 0; inf where both are 0, and 0 where either is 1.

  Example:
    >>> round(float(privacy_epsilon(jnp.array(0.25), jnp.array(0.25))), 4)
    1.0986
  """
  most = 1 - _DELTA
  a, b = (jnp.clip(rate, _LEAST, most - _LEAST) for rate in (fpr, fnr))
  bounds = jnp.log(most - a) - jnp.log(b), jnp.log(most - b) - jnp.log(a)
  found = jnp.maximum(jnp.minimum(*bounds), 0)
  found = jnp.where((fpr >= most) | (fnr >= most), 0, found)
  return jnp.where((fpr == 0) & (fnr == 0), jnp.inf, found)


def threshold_curve(
  positive: jax.Array,
  other: jax.Array,
  thresholds: jax.Array,
  weights: jax.Array | None = None,
) -> ThresholdCurve:
  """An attacker who calls a model positive where a row's value is >= t.

  Args:
    positive: float [N], a number a row under the model that is to be called.
    other: float [N], under the other one.
    thresholds: float [T].
    weights: bool or float [N] >= 0, `forget_mask`; None counts all rows.

  Returns:
    See `ThresholdCurve`; nan where a counted value is.

  Raises:
    ValueError: the shapes do not match.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> unlearned, retrained = jnp.array([2.0, 3.0]), jnp.array([0.0, 1.0])
    >>> found = attacks.threshold_curve(
    ...   unlearned, retrained, jnp.array([0.5, 1.5, 2.5]))
    >>> found.fpr.tolist(), found.fnr.tolist()
    ([0.5, 0.0, 0.0], [0.0, 0.0, 0.5])
  """
  shaped("positive [N] and other [N]", positive, other)
  shaped("thresholds [T]", thresholds)
  weight = jnp.ones(positive.shape) if weights is None else weights
  checks.weights(weight, length=len(positive))
  share = jnp.asarray(weight, jnp.float32) / jnp.sum(weight)
  broken = jnp.where(share > 0, positive + other, 0).sum() * 0

  at = thresholds[:, None]

  def above(values: jax.Array) -> jax.Array:
    return (share[None] * (values[None] >= at)).sum(-1) + broken

  below = (share[None] * (positive[None] < at)).sum(-1) + broken
  # Sums of shares end a digit beside 0 and 1.
  fpr, fnr = (jnp.clip(rate, 0, 1) for rate in (above(other), below))
  epsilon = privacy_epsilon(fpr, fnr)
  return ThresholdCurve(thresholds, fpr, fnr, epsilon, 1 - jnp.exp2(-epsilon))


def privacy_score(
  unlearned: jax.Array,
  retrained: jax.Array,
  weights: jax.Array | None = None,
  *,
  num_thresholds: int = NUM_THRESHOLDS,
) -> PrivacyScore:
  """How hard the unlearned model is to tell from the retrained one.

  Args:
    unlearned: float [2, N], of `retraining_signals`.
    retrained: float [2, N], of the retrained model on the same rows.
    weights: bool or float [N] >= 0, `forget_mask`; None counts all rows.
    num_thresholds: static; 51 in the paper, and 201 for whole data sets.

  Returns:
    See `PrivacyScore`. Exchanging the models leaves the value as it is.

  Raises:
    ValueError: the shapes do not match.

  Example:
    >>> signals = retraining_signals(jnp.array([[3.0, 0.0], [0.0, 1.0]]))
    >>> float(privacy_score(signals, signals).value)
    1.0
  """
  shaped("unlearned [2, N] and retrained [2, N]", unlearned, retrained)
  found: list[ThresholdCurve] = []
  for i, ends in enumerate(RANGES):
    thresholds = jnp.linspace(*ends, num_thresholds)
    ours, theirs = (jnp.clip(v[i], *ends) for v in (unlearned, retrained))
    found += [
      threshold_curve(*pair, thresholds, weights)
      for pair in ((ours, theirs), (theirs, ours))
    ]
  curves = jax.tree.map(
    lambda *leaves: jnp.stack(leaves).reshape(2, 2, num_thresholds), *found
  )
  best = jnp.argmax(curves.score)
  return PrivacyScore(1 - curves.score.max(), curves, best)


def layer_names(model: Model, inputs: PyTree) -> tuple[str, ...]:
  """Names of the layers that `model_record` compares, the outputs last.

  Args:
    model: `features` says which there are: those that it names itself (sows),
      or the outputs of its own modules; without it there are outputs only.
    inputs: a batch of any size.

  Example:
    >>> from jaxunlearn import attacks, toy
    >>> problem = toy.classifier()
    >>> attacks.layer_names(problem.model, problem.data["x"])
    ('hidden', 'outputs')
  """
  if model.features is None:
    return ("outputs",)
  find = lambda x: model.features(model.init(jax.random.key(0), x), x)  # type: ignore[misc]
  names = [name for name in jax.eval_shape(find, inputs) if "__" not in name]
  # Modules of Flax have capitals; the last of the layers is "features" as well.
  own = [name for name in names if name[0].islower() and name != "features"]
  own = own or [name for name in names if "/" not in name]
  return (*own, "outputs")


def model_record(
  model: Model,
  variables: Variables,
  references: Sequence[Variables],
  data: PyTree,
  test: PyTree,
  forget_mask: jax.Array,
  shown: jax.Array,
  *,
  num_classes: int,
) -> ModelRecord:
  """All that a comparison shows of a model; vmapped over models and requests.

  Args:
    model: a classifier.
    variables: its values.
    references: the retrained model first, then others, the original.
    data: training rows {"x": [N, ...], "label": int [N]}.
    test: rows that were never trained on, of the same form.
    forget_mask: bool [N].
    shown: int [P], numbers of training rows for what is measured row by row.
    num_classes: C; static.

  Returns:
    See `ModelRecord`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> zeros = jax.tree.map(jnp.zeros_like, problem.variables)
    >>> found = attacks.model_record(
    ...   problem.model, zeros, [problem.variables], problem.data, problem.data,
    ...   problem.request, jnp.arange(8), num_classes=4)
    >>> round(float(found.retain_accuracy), 3), found.cka.shape
    (0.333, (1, 2, 2))
  """
  layers = layer_names(model, data["x"])
  rows = jax.tree.map(lambda leaf: leaf[shown], data)
  forget = forget_mask[shown]

  def inner(values: Variables) -> dict[str, jax.Array]:
    found = {"outputs": model.predict(values, rows["x"])}
    if model.features is not None:
      found |= model.features(values, rows["x"])
    return found

  ours, theirs = inner(variables), [inner(values) for values in references]
  cka = [
    [metrics.linear_cka(ours[n], other[n], group) for n in layers]
    for other in theirs
    for group in (forget, ~forget)
  ]
  logits = model.predict(variables, data["x"])
  tested = model.predict(variables, test["x"])
  right = lambda weight: metrics.accuracy(logits, data["label"], weight)
  signals, retrained = (
    retraining_signals(found["outputs"]) for found in (ours, theirs[0])
  )
  return ModelRecord(
    metrics.class_outcomes(logits, data["label"], num_classes),
    metrics.class_outcomes(tested, test["label"], num_classes),
    right(forget_mask),
    right(~forget_mask),
    metrics.accuracy(tested, test["label"]),
    ours["outputs"],
    jnp.array(cka).reshape(len(theirs), 2, len(layers)),
    signals,
    privacy_score(signals, retrained, forget),
  )
