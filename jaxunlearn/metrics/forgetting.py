"""Has a model forgotten? Scores that need no retrained model.

Source: the zero-retrain forgetting metric (ZRF) of Chundawat et al. (2022),
"Can Bad Teaching Induce Forgetting?", arXiv:2205.08096: how close predictions
are to those of a network with random weights.

Difference from the released code: that swaps the arguments of the divergences
and averages over classes too. It has no lower bound and is -inf once a
probability is exactly 0; published tables may be on its scale. It is here as
`variant="released"`, and the paper's definition is the default.
"""

from __future__ import annotations

import jax

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays
from jaxunlearn.metrics import _rows
from jaxunlearn.metrics.distance import js_divergence, kl_divergence


def zrf(
  probs: jax.Array,
  teacher_probs: jax.Array,
  weights: jax.Array | None = None,
  *,
  base: str = "e",
  variant: str = "js",
) -> jax.Array:
  """1 - mean Jensen-Shannon divergence to a randomly initialised teacher.

  Better: near the retrained model's score, which in expectation depends on data
  and architecture and is below 1. 1 is as random as the teacher; above the
  retrained model's score forgetting itself becomes visible. A teacher that was
  used to unlearn makes the score optimistic: use `zrf_over_teachers` with fresh
  ones.

  Args:
    probs: float [N, C], the model's softmax outputs.
    teacher_probs: float [N, C], those of a network with random weights.
    weights: bool or float [N] >= 0, the forget mask; None counts every row.
    base: "e" for nats, "2" for bits.
    variant: "js" as the paper defines it, or "released": (KL(m || p) +
      KL(m || q)) / (2 C) in place of the Jensen-Shannon divergence.

  Returns:
    []; "js" is in [1 - ln 2, 1] = [0.307, 1] (in bits [0, 1]), "released" in
    [-inf, 1]; nan for an empty set.

  Raises:
    ValueError: shapes or dtypes do not match, unknown base or variant.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> probs = jnp.array([[0.9, 0.05, 0.05]])
    >>> f"{metrics.zrf(probs, jnp.ones((1, 3)) / 3):.5f}"
    '0.81513'
  """
  checks.one_of(("js", "released"), variant=variant)
  p = _rows.rows_of(probs, "probs")
  q = _rows.rows_of(teacher_probs, "teacher_probs")
  _rows.same_shape(p, q, "probs", "teacher_probs")
  if variant == "js":
    distances = js_divergence(p, q, base=base)
  else:
    middle = (p + q) / 2
    distances = kl_divergence(middle, p, base=base)
    distances += kl_divergence(middle, q, base=base)
    distances /= 2 * p.shape[-1]
  return 1 - _rows.weighted_mean(distances, weights)


def zrf_over_teachers(
  probs: jax.Array,
  teacher_probs: jax.Array,
  weights: jax.Array | None = None,
  *,
  base: str = "e",
  variant: str = "js",
) -> jax.Array:
  """`zrf`, averaged over several random teachers (8 or more are advisable).

  One random network may happen to prefer the very class that was forgotten, and
  the score with it alone says more about the teacher than about the model.

  Args:
    probs: float [N, C].
    teacher_probs: float [T, N, C], softmax outputs of T teachers.
    weights: bool or float [N] >= 0; None counts every row.
    base: as in `zrf`.
    variant: as in `zrf`.

  Returns:
    [], direction and range as in `zrf`; nan for an empty set or T = 0.

  Raises:
    ValueError: as `zrf`, or teacher_probs has no teacher axis.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> probs = jnp.array([[1.0, 0.0]])
    >>> teachers = jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    >>> round(float(metrics.zrf_over_teachers(probs, teachers, base="2")), 4)
    0.5
  """
  teacher_probs = arrays("teacher_probs [T, N, C]", teacher_probs)

  def score(teacher):
    return zrf(probs, teacher, weights, base=base, variant=variant)

  return jax.vmap(score)(teacher_probs).mean()
