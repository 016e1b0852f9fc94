"""What a generator still makes: counts by a classifier, quality, diversity."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.metrics.regression import wasserstein1


def unlearned_share(before: jax.Array, after: jax.Array) -> jax.Array:
  """PUL, (n_old - n_new) / n_old of the negatives on the same latents.

  Source: arXiv:2309.14054, as a share instead of in percent.

  Args:
    before: bool [N], whether the original's sample of a latent is a negative.
    after: bool [N], the same of the unlearned generator's.

  Returns:
    float32 []: 1 where none is left, 0 where as many are; below 0 where there
    are more. nan where there was none before and values are traced.

  Raises:
    ValueError: shapes or dtypes that do not fit; no negative before.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import gan
    >>> before = jnp.array([True, True, True, True, False])
    >>> after = jnp.array([True, False, False, False, False])
    >>> float(gan.unlearned_share(before, after))
    0.75
  """
  checks.request(before, before, "before")
  checks.request(jnp.asarray(before), after, "after")
  old, new = (jnp.asarray(m).sum().astype(jnp.float32) for m in (before, after))
  if checks.is_concrete(old) and old == 0:
    raise ValueError("Expected before to have a negative, got none.")
  return (old - new) / jnp.where(old > 0, old, jnp.nan)


def degree_of_unlearning(
  unlearned: jax.Array, original: jax.Array, plain: jax.Array
) -> jax.Array:
  """1 - W1(unlearned, plain) / W1(original, plain) of scores of a concept.

  Higher is better: 1 where edited samples of the unlearned generator score as
  plain ones, 0 where they score as before; below 0 where they are farther off.

  Source: arXiv:2504.01218 has the distance W1(unlearned, original); how it is
  normalised could not be read, and this way is ours.

  Args:
    unlearned: float [N], scores of the unlearned generator on edited latents.
    original: float [M], of the original one on edited latents.
    plain: float [K], of the original one on latents that are not edited.

  Returns:
    float32 []; nan where the edit has no effect on scores.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import gan
    >>> plain = jnp.array([0.0, 1.0])
    >>> unlearned, original = plain + 1, plain + 4
    >>> float(gan.degree_of_unlearning(unlearned, original, plain))
    0.75
  """
  whole = wasserstein1(original, plain)
  left = wasserstein1(unlearned, plain)
  return 1 - left / jnp.where(whole > 0, whole, jnp.nan)


def recall(
  features: jax.Array, references: jax.Array, *, neighbours: int = 3
) -> jax.Array:
  """The share of real rows that lie among the samples: diversity.

  A real row counts where it is no farther from some sample than that sample's
  k-th nearest other sample.

  Source: Kynkaanniemi et al. (2019), arXiv:1904.06991.

  Args:
    features: float [N, D], of samples, N > neighbours.
    references: float [M, D], of real rows.
    neighbours: static; k.

  Returns:
    float32 [] in [0, 1], higher is better; it grows with N. nan where a feature
    is nan.

  Raises:
    ValueError: shapes that do not fit; too few samples.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import gan
    >>> features = jnp.array([[0.0], [1.0], [2.0], [3.0]])
    >>> references = jnp.array([[0.5], [2.2], [9.0]])
    >>> round(float(gan.recall(features, references, neighbours=1)), 3)
    0.667
  """
  shapes = jnp.shape(features), jnp.shape(references)
  if len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][1] != shapes[1][1]:
    raise ValueError(
      f"Expected features [N, D] and references [M, D], got {shapes[0]} and "
      f"{shapes[1]}."
    )
  if not 0 < neighbours < shapes[0][0]:
    raise ValueError(
      f"Expected neighbours in 1 .. {shapes[0][0] - 1}, got {neighbours}."
    )
  x, y = (jnp.asarray(a, jnp.float32) for a in (features, references))
  # The nearest of all is the sample itself.
  radius = -jax.lax.top_k(-_squared(x, x), neighbours + 1)[0][:, -1]
  inside = (_squared(y, x) <= radius[None]).any(axis=1).mean()
  known = jnp.isfinite(x).all() & jnp.isfinite(y).all()
  return jnp.where(known, inside, jnp.nan)


def _squared(a: jax.Array, b: jax.Array) -> jax.Array:
  """Squared distances [N, M]; by differences, as products lose small ones."""
  return jax.lax.map(lambda row: jnp.square(b - row[None]).sum(axis=1), a)
