"""What a classifier knows of a class, in terms of concepts.

A concept is a direction in the space of embeddings, found from examples with and
without it; a bottleneck tells classes from the concepts alone; and a class's
attributions say which of them speak for it. `concept_residue` is what is left of
them after unlearning.

Sources: post-hoc concept bottlenecks, arXiv:2205.15480, and their released code;
concept inference for unlearning, arXiv:2405.15662, of which neither code nor
full text was at hand: attributions, the choice of concepts and the residue are
ours. Differences: directions by logistic regression in the place of a linear
SVM.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.metrics import _rows


class ConceptBank(NamedTuple):
  """Directions of K concepts.

  Attributes:
    weights: float32 [K, d]; 0 of a concept without examples of both kinds.
    bias: float32 [K].
    accuracy: float32 [K], on the examples; nan where there are none.
  """

  weights: jax.Array
  bias: jax.Array
  accuracy: jax.Array

  def margins(self, embeddings: jax.Array) -> jax.Array:
    """Signed distances [B, K] of embeddings [B, d]; 0 without a direction."""
    size = jnp.linalg.norm(self.weights, axis=-1)[None]
    scores = embeddings @ self.weights.T + self.bias[None]
    return jnp.where(size > 0, scores / jnp.where(size > 0, size, 1.0), 0.0)


class Bottleneck(NamedTuple):
  """A linear classifier on standardised margins.

  Attributes:
    weights: float32 [C, K].
    bias: float32 [C].
    centre: float32 [K], the mean margins that it was fitted on.
    scale: float32 [K], their standard deviation, 1 where that is 0.
  """

  weights: jax.Array
  bias: jax.Array
  centre: jax.Array
  scale: jax.Array

  def standardised(self, margins: jax.Array) -> jax.Array:
    return (margins - self.centre[None]) / self.scale[None]

  def predict(self, margins: jax.Array) -> jax.Array:
    """Logits [B, C] of margins [B, K]."""
    return self.standardised(margins) @ self.weights.T + self.bias[None]


def concept_bank(
  embeddings: jax.Array,
  labels: jax.Array,
  *,
  strength: float | jax.Array = 0.1,
  num_steps: int = 200,
) -> ConceptBank:
  """Directions that tell embeddings with a concept from those without.

  Minimises |w|^2 / 2 + strength * sum of log(1 + exp(-y (w e + b))) for each
  concept, by steps that cannot overshoot.

  Args:
    embeddings: float [N, d].
    labels: [N, K], 1 with the concept, -1 without, 0 where it is not known.
    strength: C > 0 of a linear SVM; may be traced.
    num_steps: static, >= 1.

  Raises:
    ValueError: shapes that do not fit, no concept, an option outside its range.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> embeddings = jnp.array([[1.0], [2.0], [-1.0], [-2.0]])
    >>> has_concept = jnp.array([[1], [1], [-1], [-1]])
    >>> bank = metrics.concept_bank(embeddings, has_concept)
    >>> bank.margins(embeddings).round(2).ravel().tolist()
    [1.0, 2.0, -1.0, -2.0]
  """
  checks.positive(strength=strength)
  checks.count(1, num_steps=num_steps)
  shaped("embeddings [N, d] and labels [N, K > 0]", embeddings, labels)
  e, y = jnp.asarray(embeddings, jnp.float32), jnp.asarray(labels, jnp.float32)
  x = jnp.concatenate([e, jnp.ones((len(e), 1))], axis=1)
  # The penalty, which leaves the bias all but free, and the largest curvature
  # that the losses of all rows can have: one matrix for every concept.
  ridge = jnp.ones(x.shape[1]).at[-1].set(1e-3)
  bound = jnp.diag(ridge) + 0.25 * strength * (x.T @ x)
  factor = jnp.linalg.cholesky(bound)

  def step(w: jax.Array, _: None) -> tuple[jax.Array, None]:
    wrong = jax.nn.sigmoid(-y * (x @ w))
    slope = ridge[:, None] * w - strength * (x.T @ (y * wrong))
    return w - jax.scipy.linalg.cho_solve((factor, True), slope), None

  w, _ = jax.lax.scan(
    step, jnp.zeros((x.shape[1], y.shape[1])), length=num_steps
  )
  known = (y > 0).any(axis=0) & (y < 0).any(axis=0)
  w = jnp.where(known[None], w, 0.0)
  right = ((x @ w) * y > 0).sum(axis=0) / jnp.maximum((y != 0).sum(axis=0), 1)
  return ConceptBank(w[:-1].T, w[-1], jnp.where(known, right, jnp.nan))


def fit_bottleneck(
  margins: jax.Array,
  label: jax.Array,
  num_classes: int,
  *,
  weights: jax.Array | None = None,
  penalty: float | jax.Array = 1e-5,
  l1_ratio: float | jax.Array = 0.99,
  num_steps: int = 1000,
) -> Bottleneck:
  """Multinomial regression of classes on margins with an elastic net.

  Args:
    margins: float [N, K].
    label: int [N].
    num_classes: C.
    weights: bool or float [N] of the rows; all by default.
    penalty: >= 0; may be traced.
    l1_ratio: of the penalty, in [0, 1]; the rest is on squares. May be traced.
    num_steps: static, of accelerated proximal gradient.

  Raises:
    ValueError: an option outside its range, labels that do not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> margins = jnp.array([[1.0], [2.0], [-1.0], [-2.0]])
    >>> label = jnp.array([0, 0, 1, 1])
    >>> bottleneck = metrics.fit_bottleneck(margins, label, 2, num_steps=100)
    >>> bottleneck.predict(margins).argmax(axis=1).tolist()
    [0, 0, 1, 1]
  """
  checks.count(1, num_classes=num_classes, num_steps=num_steps)
  checks.non_negative(penalty=penalty)
  checks.fraction(l1_ratio=l1_ratio)
  shaped("margins [N, K]", margins)
  s, k = jnp.asarray(margins, jnp.float32), margins.shape[1]
  checks.labels(label, num_classes, "label", length=len(s))
  part = _rows.weights_of(weights, s)
  part = part / jnp.maximum(part.sum(), 1e-12)
  centre = part @ s
  spread = jnp.sqrt(part @ (s - centre[None]) ** 2)
  scale = jnp.where(spread > 0, spread, 1.0)
  x = jnp.concatenate(
    [(s - centre[None]) / scale[None], jnp.ones((len(s), 1))], 1
  )
  hot = jax.nn.one_hot(label, num_classes)
  free = jnp.arange(k + 1) == k  # The bias is not penalised.
  l1 = jnp.where(free, 0.0, penalty * l1_ratio)[:, None]
  l2 = jnp.where(free, 0.0, penalty * (1 - l1_ratio))[:, None]
  # A softmax's curvature is half of the rows' mean square at most.
  rate = 1 / (0.5 * (k + 1) + penalty)

  def step(carry, _):
    w, ahead, t = carry
    error = jax.nn.softmax(x @ ahead) - hot
    slope = x.T @ (part[:, None] * error) + l2 * ahead
    moved = ahead - rate * slope
    new = jnp.sign(moved) * jnp.maximum(jnp.abs(moved) - rate * l1, 0.0)
    t_new = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
    return (new, new + (t - 1) / t_new * (new - w), t_new), None

  zero = jnp.zeros((k + 1, num_classes))
  (w, _, _), _ = jax.lax.scan(
    step, (zero, zero, jnp.ones(())), length=num_steps
  )
  return Bottleneck(w[:-1].T, w[-1], centre, scale)


def class_attributions(
  bottleneck: Bottleneck,
  margins: jax.Array,
  label: jax.Array,
  weights: jax.Array | None = None,
) -> jax.Array:
  """How much each concept speaks for each class, against the other classes.

  Integrated gradients of a class's logit from the mean margins of the other
  classes' rows, averaged over its own rows: exact, as the logit is linear.

  Args:
    bottleneck: of C classes on K concepts.
    margins: float [N, K].
    label: int [N].
    weights: bool or float [N] of the rows; all by default.

  Returns:
    float32 [C, K]; nan for a class without rows, or without others.

  Raises:
    ValueError: margins, labels or weights that do not fit.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> bottleneck = metrics.Bottleneck(
    ...   jnp.array([[2.0], [-2.0]]), jnp.zeros(2), jnp.zeros(1), jnp.ones(1))
    >>> margins = jnp.array([[3.0], [1.0], [-1.0]])
    >>> label = jnp.array([0, 0, 1])
    >>> metrics.class_attributions(bottleneck, margins, label).tolist()
    [[6.0], [6.0]]
  """
  num_classes, num_concepts = bottleneck.weights.shape
  margins = _rows.rows_of(margins, "margins")
  if margins.shape[1] != num_concepts:
    raise ValueError(
      f"Expected margins [N, {num_concepts}], the bottleneck's concepts, got "
      f"{margins.shape}."
    )
  checks.labels(label, num_classes, "label", length=len(margins))
  s = bottleneck.standardised(margins)
  part = _rows.weights_of(weights, s)
  own = jax.nn.one_hot(label, num_classes) * part[:, None]
  other = part[:, None] - own
  mean = lambda w: (w.T @ s) / w.sum(axis=0)[:, None]
  return bottleneck.weights * (mean(own) - mean(other))


def concepts_of(
  attributions: jax.Array, coverage: float | jax.Array = 0.9
) -> jax.Array:
  """The fewest concepts that have so much of all that speaks for a class.

  Args:
    attributions: float [K] of one class.
    coverage: in [0, 1], of the sum of the positive ones; may be traced.

  Returns:
    bool [K]; none where no attribution is positive.

  Raises:
    ValueError: a coverage outside [0, 1], attributions of several classes.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> metrics.concepts_of(jnp.array([6.0, -9.0, 1.0, 3.0])).tolist()
    [True, False, False, True]
  """
  checks.fraction(coverage=coverage)
  shaped("attributions of one class [K]", attributions)
  for_it = jnp.maximum(attributions, 0.0)
  order = jnp.argsort(-for_it)
  before = jnp.cumsum(for_it[order]) - for_it[order]
  taken = (before < coverage * for_it.sum()) & (for_it[order] > 0)
  return jnp.zeros(len(for_it), bool).at[order].set(taken)


def closest_class(attributions: jax.Array, of: int | jax.Array) -> jax.Array:
  """The other class whose attributions [C, K] point most nearly the same way.

  By the cosine; int32 [].

  Raises:
    ValueError: no matrix, or (concrete) a class that it has no row of.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> attributions = jnp.array([[1.0, 0.0], [0.0, 9.0], [2.0, 1.0]])
    >>> int(metrics.closest_class(attributions, of=0))
    2
  """
  attributions = _rows.rows_of(attributions, "attributions")
  checks.labels(of, len(attributions), "of")
  size = jnp.linalg.norm(attributions, axis=-1)
  dots = attributions @ attributions[of]
  cosine = dots / jnp.where(size > 0, size, 1.0)
  cosine = jnp.where(jnp.isnan(cosine), -jnp.inf, cosine).at[of].set(-jnp.inf)
  return jnp.argmax(cosine).astype(jnp.int32)


def concept_residue(
  after: jax.Array, before: jax.Array, chosen: jax.Array
) -> jax.Array:
  """What is left of a class's attributions after unlearning.

  Better: lower, towards 0; 1 is unchanged.

  Args:
    after: float [K], of the new model's embeddings under the old directions.
    before: float [K].
    chosen: bool [K], see `concepts_of`.

  Returns:
    [], sum |after| / sum |before| over the chosen; nan where none is.

  Raises:
    ValueError: shapes that differ; `chosen` that is not bool.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> before, after = jnp.array([4.0, -2.0, 2.0]), jnp.array([1.0, -2.0, 0.5])
    >>> chosen = jnp.array([True, False, True])
    >>> float(metrics.concept_residue(after, before, chosen))
    0.25
  """
  after, before = arrays("after [...]", after), arrays("before [...]", before)
  chosen = arrays("chosen [...]", chosen)
  _rows.same_shape(before, after, "before", "after")
  _rows.same_shape(before, chosen, "before", "chosen")
  if chosen.dtype != jnp.bool_:
    raise ValueError(f"Expected chosen of dtype bool, got {chosen.dtype}.")
  total = lambda a: jnp.where(chosen, jnp.abs(a), 0.0).sum()
  return total(after) / total(before)
