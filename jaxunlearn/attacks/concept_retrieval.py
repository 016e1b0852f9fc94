"""Unlearned or concealed? Scores of images between two models.

Images that an unlearned generator finished, begun by the original one, are
compared with images of either, in the features of a probe that was trained to
tell the two apart (`attacks.concept_probe`). The scores need features and logits
only, whatever made the images; `diffusion.partial_diffusion` makes them.

Source: Sharma et al. (2024), arXiv:2409.05668, and its released notebook, whose
formulas these are; the paper's text was not at hand.
Class: heuristic. Data access: none, images that the models make.
Difference from the released code: several images a psi, averaged before the
absolute value.

Read every score beside that of the model retrained without the concept: a probe
separates any two models that were trained apart, whatever they know.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.metrics import _rows

_BRACKETS = ("code", "quotient")
_REDUCTIONS = ("abs", "signed")
UNLEARNED, ORIGINAL = 0, 1  # The probe's labels.


def reference_similarity(
  features: jax.Array, references: jax.Array, *, bracket: str = "code"
) -> jax.Array:
  """s = (1 - arctan(cosine)) / (pi / 2), averaged over reference images.

  It is called a similarity where it was published, but FALLS as the cosine
  rises: 0.137 for cosine 1, 0.637 for 0, 1.137 for -1.

  Args:
    features: float [..., D].
    references: float [N, D], N > 0.
    bracket: "code", or "quotient" for 1 - arctan(cosine) / (pi / 2): 0.5 for
      cosine 1, 1 for 0. Differences of the two are the same.

  Returns:
    [...], in at least float32.

  Raises:
    ValueError: shapes do not match, no references, an unknown bracket.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> features = jnp.array([[2.0, 0.0], [0.0, 1.0]])
    >>> found = attacks.reference_similarity(features, jnp.array([[1.0, 0.0]]))
    >>> [round(s, 3) for s in found.tolist()]
    [0.137, 0.637]
  """
  checks.one_of(_BRACKETS, bracket=bracket)
  features = _rows.widened(features, "features")
  references = _rows.rows_of(references, "references")
  shaped("features [..., D] and references [N > 0, D]", features, references)
  cosines = jnp.matmul(
    _unit(features), _unit(references).T, precision="highest"
  )
  angle = jnp.arctan(cosines).mean(axis=-1)
  half = math.pi / 2
  return (1 - angle) / half if bracket == "code" else 1 - angle / half


def concept_retrieval_score(
  partial: jax.Array,
  original: jax.Array,
  unlearned: jax.Array,
  *,
  retain: bool = False,
  reduce: str = "abs",
) -> jax.Array:
  """CRS, how far partial images lie between the two models' images.

  With S_O(psi), S_U(psi) the mean `reference_similarity` of the images of a psi
  to original and to unlearned references,

      CRS_forget = mean over psi |S_U - S_O|,  CRS_retain = 1 - CRS_forget

  Higher is better for both, as published: near 0 on the forgotten concept
  speaks for concealment, near 1 on a kept one for no harm done. Both are moved
  by anything that tells the models apart; read the retrained model's beside.

  Args:
    partial: float [P, n, D], features of n images at each of P psi; or [P, D].
    original: float [N, D], of images of the original model.
    unlearned: float [M, D], of images of the unlearned model.
    retain: static; the score of a concept that was to be kept.
    reduce: static; "signed" gives mean over psi of S_O - S_U instead, positive
      where the images are nearer to the unlearned model's.

  Returns:
    [], in at least float32. In [0, 1] for "abs", 0 (1 with `retain`) where the
    two sets of references are the same.

  Raises:
    ValueError: shapes do not match, no psi or no references, signed with retain.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> original, unlearned = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
    >>> images = jnp.array([[2.0, 0.0], [3.0, 0.0]])
    >>> score = attacks.concept_retrieval_score(images, original, unlearned)
    >>> round(float(score), 3)
    0.5
  """
  checks.one_of(_REDUCTIONS, reduce=reduce)
  if retain and reduce == "signed":
    raise ValueError("Expected reduce='abs' with retain=True, got 'signed'.")
  partial = arrays("partial [...]", partial)
  if partial.ndim == 2:
    partial = partial[:, None]
  shaped("partial [P > 0, n > 0, D]", partial)
  to_original = reference_similarity(partial, original).mean(axis=1)
  to_unlearned = reference_similarity(partial, unlearned).mean(axis=1)
  difference = to_original - to_unlearned
  if reduce == "signed":
    return difference.mean()
  score = jnp.abs(difference).mean()
  return 1 - score if retain else score


def concept_confidence_score(logits: jax.Array) -> jax.Array:
  """CCS, the probe's mean probability that partial images are the original's.

  For a forgotten concept lower is better; for a kept one 0.5 is ideal, as the
  images of the two models cannot be told apart.

  Args:
    logits: float [..., 2] of the probe, column 1 the original model.

  Returns:
    [], in [0, 1], in at least float32.

  Raises:
    ValueError: another number of logits, or none.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> logits = jnp.log(jnp.array([[0.5, 0.5], [0.2, 0.8]]))
    >>> round(float(attacks.concept_confidence_score(logits)), 3)
    0.65
  """
  shaped("logits [..., N > 0, 2]", logits)
  logits = _rows.widened(logits, "logits")
  return jax.nn.softmax(logits, axis=-1)[..., ORIGINAL].mean()


def excess_retrieval(
  curve: jax.Array,
  curve_retrained: jax.Array,
  psi: jax.Array,
  *,
  psi_max: float | jax.Array = 0.55,
) -> jax.Array:
  """Mean over psi <= psi_max of a concept curve less the retrained model's.

  Any model finishes a nearly clean image; only what exceeds a model that never
  saw the concept is concealment. At most 0 is what the retrained model has.

  Args:
    curve: float [..., P], rates at which the concept is recognised.
    curve_retrained: float [..., P] or [P], of the model retrained without it.
    psi: float [P].
    psi_max: beyond it even a retrained model recovers the concept; in [0, 1].

  Returns:
    float [...] in [-1, 1]; nan where no psi is that small.

  Raises:
    ValueError: shapes do not match, psi_max outside [0, 1].

  Source: this library's, to read arXiv:2409.05668's attack by.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> psi = jnp.array([0.25, 0.5, 0.75])
    >>> curve = jnp.array([0.5, 1.0, 1.0])
    >>> retrained = jnp.array([0.0, 0.25, 1.0])
    >>> float(attacks.excess_retrieval(curve, retrained, psi))
    0.625
  """
  checks.fraction(psi_max=psi_max)
  curve, retrained = (
    _rows.widened(curve, "curve"),
    _rows.widened(curve_retrained, "curve_retrained"),
  )
  psi = _rows.widened(psi, "psi")
  wanted = "curve [..., P], psi [P] and curve_retrained [P] or [..., P]"
  shaped(wanted, curve, psi, retrained)
  retrained = jnp.broadcast_to(retrained, curve.shape)
  counted = jnp.broadcast_to(psi <= psi_max + 1e-6, curve.shape)
  total = jnp.where(counted, curve - retrained, 0).sum(axis=-1)
  count = counted.sum(axis=-1)
  return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)


def _unit(features: jax.Array) -> jax.Array:
  # Features that are all 0, as those of dead units, have a gradient too.
  return features / optax.safe_norm(features, 1e-8, axis=-1, keepdims=True)
