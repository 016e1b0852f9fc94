"""A classifier that learns to tell two models' images apart.

Its features and its confidence are what the scores of
`attacks.concept_retrieval` are taken in. It is trained anew for each pair of
models and each prompt.

Source: Sharma et al. (2024), arXiv:2409.05668, and its released notebook.
Class: heuristic. Data access: none, images that the models make.
Cost: (2 + num_negatives) batch_size rows a step.
Differences from the released code: the probe computes in evaluation mode
throughout, its split is stratified, a positive is never the anchor itself; its
architecture, optimiser and number of steps are the caller's (there a pretrained
ResNet-18, SGD 1e-3 with momentum 0.9, 10 epochs).
"""

from __future__ import annotations

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.attacks.concept_retrieval import ORIGINAL, UNLEARNED
from jaxunlearn.core import checks
from jaxunlearn.core.phase import phase
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.core.tasks import Fit, FitFields, Model, as_fit
from jaxunlearn.core.types import Variables
from jaxunlearn.losses.classification import cross_entropy
from jaxunlearn.metrics import _rows

PROBE = Fit(optax.adam(1e-3), 300, 32)


class ConceptProbe(NamedTuple):
  """A classifier that tells images of the original from those of the unlearned.

  Attributes:
    variables: of the probe's model.
    accuracy: float32 [], on the images held out; nan without any. 0.5 where the
      two sets come from one law.
    loss: float32 [num_steps].
  """

  variables: Variables
  accuracy: jax.Array
  loss: jax.Array


def fit_concept_probe(
  model: Model,
  original_images: jax.Array,
  unlearned_images: jax.Array,
  key: jax.Array,
  *,
  layer: str = "features",
  fit: Fit | None = None,
  margin: float | jax.Array = 1.0,
  num_negatives: int = 3,
  held_out: float = 0.2,
  variables: Variables | None = None,
  **fields: Unpack[FitFields],
) -> ConceptProbe:
  """Trains the probe: cross entropy and a triplet loss, equally weighted.

  The images must not be the ones that are scored, nor begin with their noise.

  Args:
    model: logits [B, 2], label 0 = unlearned, 1 = original, and `features`.
    original_images: float [N, ...].
    unlearned_images: float [M, ...], rows of the same shape.
    key: decides initial params, split and draws. May be vmapped, as may the
      images.
    layer: static; the name in `model.features` of the embedding, flattened.
    fit: of its training; Adam with rate 1e-3, 300 steps of 32 anchors by
      default.
    margin: of the triplet loss, >= 0; may be traced.
    num_negatives: static; images of the other label that an anchor is compared
      with.
    held_out: static; share of each label's images that accuracy is taken on, in
      [0, 1).
    variables: None, or where to start: a pretrained probe.
    **fields: of `Fit`, in the place of the fit's.

  Returns:
    `ConceptProbe`.

  Raises:
    ValueError: fewer than 2 images of a label to train on, rows of different
      shapes, values that are not finite (outside jit), a model without that
      layer or with another number of outputs, counts not positive.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> from jaxunlearn.adapters.functions import from_functions
    >>> probe = from_functions(
    ...   lambda key, x: jnp.zeros((1, 2)), lambda w, x: x @ w,
    ...   features=lambda variables, x: {"features": x})
    >>> original, unlearned = jnp.full((10, 1), 3.0), jnp.full((10, 1), -3.0)
    >>> found = attacks.fit_concept_probe(
    ...   probe, original, unlearned, jax.random.key(0), num_steps=5,
    ...   batch_size=4)
    >>> float(found.accuracy), found.loss.shape
    (1.0, (5,))
  """
  fit = as_fit(PROBE if fit is None else fit, fields)
  batch_size = fit.batch_size
  checks.counts(batch_size=batch_size, num_negatives=num_negatives)
  checks.non_negative(margin=margin)
  if not 0 <= held_out < 1:
    raise ValueError(f"Expected held_out in [0, 1), got {held_out}.")
  sides = _sides(original_images, unlearned_images)
  init_key, split_key, fit_key = jax.random.split(key, 3)
  sides = [
    jax.random.permutation(jax.random.fold_in(split_key, label), side)
    for label, side in enumerate(sides)
  ]
  held = [int(held_out * len(side)) for side in sides]
  counts = [len(side) - h for side, h in zip(sides, held)]
  if min(counts) < 2:
    raise ValueError(
      "Expected at least 2 images of each label to train the probe on, got "
      f"{counts[ORIGINAL]} original and {counts[UNLEARNED]} unlearned."
    )
  train = jnp.concatenate([s[:n] for s, n in zip(sides, counts)])
  if variables is None:
    variables = model.init(init_key, jnp.zeros_like(train[:1]))
  _check_probe(model, variables, train[:1], layer)

  def objective(current, batch, step_key):
    del batch
    anchor, positive, negatives, labels = _triplets(
      step_key, counts, batch_size, num_negatives
    )
    ids = jnp.concatenate([anchor, positive, negatives.reshape(-1)])
    features = _features(model, current, train[ids], layer)
    near = features[batch_size : 2 * batch_size]
    far = features[2 * batch_size :].reshape(batch_size, num_negatives, -1)
    losses = hard_triplet_loss(features[:batch_size], near, far, margin)
    logits = model.predict(current, train[anchor])
    return losses + cross_entropy(logits, labels)

  train_probe = phase(objective, fit.optimizer, fit.num_steps, name="probe")
  nobody = jnp.zeros(train.shape[0], bool)
  fitted, info = train_probe(variables, {"x": train}, nobody, fit_key)
  rest = jnp.concatenate([s[n:] for s, n in zip(sides, counts)])
  if rest.shape[0] == 0:
    return ConceptProbe(fitted, jnp.float32(jnp.nan), info.loss)
  wanted = jnp.repeat(
    jnp.arange(2), jnp.array(held), total_repeat_length=sum(held)
  )
  hits = model.predict(fitted, rest).argmax(axis=-1) == wanted
  return ConceptProbe(fitted, hits.astype(jnp.float32).mean(), info.loss)


def probe_outputs(
  model: Model,
  variables: Variables,
  images: jax.Array,
  *,
  layer: str = "features",
  num_batch_axes: int = 1,
  chunk_size: int = 256,
) -> tuple[jax.Array, jax.Array]:
  """A probe's features [..., D] and logits [..., 2] of images [..., H, W, C].

  Args:
    model: the probe.
    variables: of `ConceptProbe`.
    images: leading axes, such as psi and key, are kept.
    layer: see `fit_concept_probe`.
    num_batch_axes: static; how many leading axes there are.
    chunk_size: static; images at a time.

  Raises:
    ValueError: a count that is not positive, no image, a layer that does not
      exist.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import attacks
    >>> from jaxunlearn.adapters.functions import from_functions
    >>> probe = from_functions(
    ...   lambda key, x: jnp.ones((1, 2)), lambda w, x: x @ w,
    ...   features=lambda variables, x: {"features": 10 * x})
    >>> images = jnp.array([[[1.0], [2.0]]])  # One psi, two keys, a pixel.
    >>> features, logits = attacks.probe_outputs(
    ...   probe, ju.Variables(jnp.ones((1, 2))), images, num_batch_axes=2)
    >>> features.tolist(), logits.tolist()
    ([[[10.0], [20.0]]], [[[1.0, 1.0], [2.0, 2.0]]])
  """
  checks.counts(num_batch_axes=num_batch_axes, chunk_size=chunk_size)
  images = arrays("images [...]", images)
  if images.ndim <= num_batch_axes or images.size == 0:
    raise ValueError(
      f"Expected images with {num_batch_axes} leading axes, none empty, got "
      f"shape {images.shape}."
    )
  lead = images.shape[:num_batch_axes]
  flat = images.reshape(-1, *images.shape[num_batch_axes:])
  _check_probe(model, variables, flat[:1], layer)

  def one(image):
    x = image[None]
    features = _features(model, variables, x, layer)
    return features[0], model.predict(variables, x)[0]

  features, logits = jax.lax.map(one, flat, batch_size=chunk_size)
  return features.reshape(*lead, -1), logits.reshape(*lead, -1)


def hard_triplet_loss(
  anchor: jax.Array,
  positive: jax.Array,
  negatives: jax.Array,
  margin: float | jax.Array = 1.0,
) -> jax.Array:
  """max(0, ||a - p|| - min_k ||a - n_k|| + margin) of each anchor.

  Args:
    anchor: float [B, D].
    positive: float [B, D], of the anchor's label.
    negatives: float [B, K, D], of others.
    margin: >= 0; may be traced.

  Returns:
    [B], in at least float32; the gradient of equal vectors is 0.

  Raises:
    ValueError: shapes do not match.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> anchor, positive = jnp.array([[0.0, 0.0]]), jnp.array([[3.0, 4.0]])
    >>> negatives = jnp.array([[[6.0, 8.0], [0.0, 5.5]]])
    >>> attacks.hard_triplet_loss(anchor, positive, negatives).tolist()
    [0.5]
  """
  anchor, positive, negatives = map(
    _rows.widened, (anchor, positive, negatives)
  )
  _rows.same_shape(anchor, positive, "anchor", "positive")
  shaped("anchor [B, D] and negatives [B, K, D]", anchor, negatives)
  near = _distance(anchor, positive)
  far = _distance(anchor[:, None], negatives).min(axis=1)
  return jnp.maximum(near - far + margin, 0)


def _sides(original: jax.Array, unlearned: jax.Array) -> list[jax.Array]:
  """The two sets of images, in the order of their labels."""
  original = arrays("original [...]", original)
  unlearned = arrays("unlearned [...]", unlearned)
  wanted = "original_images [N, ..., C] and unlearned_images [M, ..., C]"
  shaped(wanted, original, unlearned)
  checks.finite(original, "original_images")
  checks.finite(unlearned, "unlearned_images")
  return [unlearned, original]


def _check_probe(
  model: Model, variables: Variables, x: jax.Array, layer: str
) -> None:
  if model.features is None:
    raise ValueError(
      "Expected a probe model with features, got model.features=None."
    )
  known = jax.eval_shape(model.features, variables, x)
  if layer not in known:
    raise ValueError(f"Expected layer among {sorted(known)}, got {layer!r}.")
  shape = jax.eval_shape(model.predict, variables, x).shape
  if shape != (1, 2):
    raise ValueError(
      f"Expected a probe with logits [B, 2], got {shape} for B = 1."
    )


def _triplets(
  key: jax.Array, counts: list[int], batch_size: int, num_negatives: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """Row ids of anchors, positives [B] and negatives [B, K], and labels [B]."""
  side_key, anchor_key, positive_key, negative_key = jax.random.split(key, 4)
  sizes, offsets = jnp.array(counts), jnp.array([0, counts[0]])
  labels = jax.random.randint(side_key, (batch_size,), 0, 2)
  mine = sizes[labels]
  first = jax.random.randint(anchor_key, (batch_size,), 0, mine)
  # A step of 1 .. n - 1 around the circle: any image but the anchor.
  step = jax.random.randint(positive_key, (batch_size,), 1, mine)
  shape = (batch_size, num_negatives)
  others = jax.random.randint(
    negative_key, shape, 0, sizes[1 - labels][:, None]
  )
  return (
    offsets[labels] + first,
    offsets[labels] + (first + step) % mine,
    offsets[1 - labels][:, None] + others,
    labels,
  )


def _features(
  model: Model, variables: Variables, x: jax.Array, layer: str
) -> jax.Array:
  found = model.features(variables, x)[layer]  # type: ignore[misc]
  return _rows.widened(found.reshape(x.shape[0], -1))


def _distance(a: jax.Array, b: jax.Array) -> jax.Array:
  # The root of 0 has an infinite slope.
  return jnp.sqrt(jnp.square(a - b).sum(axis=-1) + 1e-12)
