"""Scores of generated images: what is still drawn.

A benchmark image has a label in each of two domains, its object and its style;
a model that forgot one object should fail on it (UA), draw the other objects
(IRA) and all styles (CRA). What an image shows is said by a classifier, so that
functions here take its answers, labels or logits.

Source: Zhang et al. (2024), arXiv:2402.11846 (UnlearnCanvas), and its released
code. It publishes no minimum of its three scores and no formula for pairs; these
are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.metrics import _rows


class CanvasScores(NamedTuple):
  """UnlearnCanvas's three scores and two ways to read them as one.

  Attributes:
    ua: unlearning accuracy, float32 [] in [0, 1], the share of images of the
      target's prompts that do not show it.
    ira: in-domain retain accuracy, the share of images of other labels of the
      target's domain that show theirs.
    cra: cross-domain retain accuracy, the share of images that show their label
      of the other domains.
    worst: the smallest of the three. Noise has a perfect `ua`, so never read
      that alone.
    harmonic: the harmonic mean of the three; 0 if one of them is.

  Higher is better for all. The original model has `ua` near 0, the model
  retrained without the target the standard that should be met.
  """

  ua: jax.Array
  ira: jax.Array
  cra: jax.Array
  worst: jax.Array
  harmonic: jax.Array


class PairScores(NamedTuple):
  """Accuracies after a pair of labels, one of each domain, was forgotten.

  An image counts where it shows all its labels.

  Attributes:
    pair: on the forgotten pair, float32 [] in [0, 1]; lower is better.
    shared: by domain, on images that share the target of this domain only, as
      the same style with other objects; higher is better.
    rest: on all other images; higher is better.
  """

  pair: jax.Array
  shared: dict[str, jax.Array]
  rest: jax.Array


def canvas_scores(
  answers: Mapping[str, jax.Array],
  prompted: Mapping[str, jax.Array],
  target: int | jax.Array,
  *,
  domain: str,
  num_classes: Mapping[str, int] | None = None,
  weights: jax.Array | None = None,
  include_target: bool = False,
) -> CanvasScores:
  """UA, IRA and CRA of generated images.

  Means are over images; UnlearnCanvas averages each label first, which is the
  same where every prompt has as many images.

  Args:
    answers: by domain ("object", "style"), a classifier's labels int [N] or its
      logits float [N, C] of the images.
    prompted: by domain, the labels int [N] that the prompts name.
    target: the forgotten label; may be traced, so that `vmap` serves all.
    domain: static; the domain of `target`. All others make up `cra`.
    num_classes: by domain, C; only where answers are labels.
    weights: bool or float [N] >= 0; None is 1. Images of weight 0 are not read.
    include_target: static; whether images of the target's prompts count for
      `cra`: True in the released code, False in its description.

  Returns:
    `CanvasScores`; nan where no image counts for a score, or one that does has
    logits that are nan, and for `worst` and `harmonic` then too.

  Raises:
    ValueError: a target or label out of range, a target that is no integer
      scalar, a domain that does not exist or stands alone, fewer than two labels
      in a domain, shapes that do not match.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> prompted = {
    ...   "object": jnp.array([0, 0, 1, 1]), "style": jnp.array([0, 1, 0, 1])}
    >>> answers = {
    ...   "object": jnp.array([1, 0, 1, 1]), "style": jnp.array([0, 1, 0, 0])}
    >>> found = metrics.canvas_scores(
    ...   answers, prompted, 0, domain="object",
    ...   num_classes={"object": 2, "style": 2})
    >>> float(found.ua), float(found.ira), float(found.cra), float(found.worst)
    (0.5, 1.0, 0.5, 0.5)
  """
  hits = _hits(answers, prompted, num_classes)
  if domain not in hits:
    raise ValueError(f"Expected domain of {sorted(hits)}, got {domain!r}.")
  others = [found for name, found in hits.items() if name != domain]
  if not others:
    raise ValueError(f"Expected answers in two domains, got {domain!r} alone.")
  _check_target(target, answers[domain], num_classes, domain)
  own = hits[domain]
  weights = _rows.weights_of(weights, own)
  of_target = jnp.asarray(prompted[domain]) == target
  on = jnp.where(of_target, weights, 0)
  off = jnp.where(of_target, 0, weights)
  ua = 1 - _rows.weighted_mean(own, on)
  ira = _rows.weighted_mean(own, off)
  crossed = jnp.stack(others).mean(axis=0)
  cra = _rows.weighted_mean(crossed, weights if include_target else off)
  three = jnp.stack([ua, ira, cra])
  return CanvasScores(ua, ira, cra, three.min(), _harmonic_mean(three))


def pair_groups(
  prompted: Mapping[str, jax.Array], target: Mapping[str, int | jax.Array]
) -> dict[str, jax.Array]:
  """Which images belong to a pair, share one label with it, or none.

  Args:
    prompted: by domain, labels int [N]; two domains.
    target: by domain, the label of the pair; may be traced.

  Returns:
    bool [N] by "pair", each domain's name and "rest"; every image is in one.

  Raises:
    ValueError: other domains in the two, or not two of them; labels of several
      axes, of different lengths, or that are no integers.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> prompted = {
    ...   "object": jnp.array([0, 0, 1, 1]), "style": jnp.array([0, 1, 0, 1])}
    >>> groups = metrics.pair_groups(prompted, {"object": 0, "style": 1})
    >>> {name: group.nonzero()[0].tolist() for name, group in groups.items()}
    {'pair': [1], 'object': [0], 'style': [3], 'rest': [2]}
  """
  names = sorted(prompted)
  if len(names) != 2 or sorted(target) != names:
    raise ValueError(
      f"Expected prompted and target of two and the same domains, got {names} "
      f"and {sorted(target)}."
    )
  length = jnp.size(prompted[names[0]])
  for name in names:
    checks.labels(prompted[name], None, f"labels of {name}", length=length)
  same = {name: jnp.asarray(prompted[name]) == target[name] for name in names}
  first, second = names
  return {
    "pair": same[first] & same[second],
    first: same[first] & ~same[second],
    second: same[second] & ~same[first],
    "rest": ~same[first] & ~same[second],
  }


def pair_scores(
  answers: Mapping[str, jax.Array],
  prompted: Mapping[str, jax.Array],
  target: Mapping[str, int | jax.Array],
  *,
  num_classes: Mapping[str, int] | None = None,
  weights: jax.Array | None = None,
) -> PairScores:
  """What is drawn after one style of one object was forgotten.

  Args:
    answers: see `canvas_scores`.
    prompted: see there.
    target: by domain, the label of the pair; may be traced.
    num_classes: see `canvas_scores`.
    weights: see there.

  Returns:
    `PairScores`; nan where a group has no image, or one with logits that are
    nan.

  Raises:
    ValueError: as `canvas_scores` and `pair_groups`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> prompted = {
    ...   "object": jnp.array([0, 0, 1, 1]), "style": jnp.array([0, 1, 0, 1])}
    >>> answers = {
    ...   "object": jnp.array([0, 1, 1, 1]), "style": jnp.array([0, 1, 0, 0])}
    >>> found = metrics.pair_scores(
    ...   answers, prompted, {"object": 0, "style": 1},
    ...   num_classes={"object": 2, "style": 2})
    >>> float(found.pair), float(found.shared["object"]), float(found.rest)
    (0.0, 1.0, 1.0)
  """
  hits = _hits(answers, prompted, num_classes)
  groups = pair_groups(prompted, target)
  for name in hits:
    _check_target(target[name], answers[name], num_classes, name)
  first, second = (hits[name] for name in sorted(hits))
  weights = _rows.weights_of(weights, first)
  rates = {
    name: _rows.weighted_mean(first * second, jnp.where(group, weights, 0))
    for name, group in groups.items()
  }
  shared = {name: rates[name] for name in sorted(hits)}
  return PairScores(rates["pair"], shared, rates["rest"])


def class_accuracy(
  answers: jax.Array,
  labels: jax.Array,
  *,
  num_classes: int | None = None,
  weights: jax.Array | None = None,
) -> jax.Array:
  """How often images of each label show it: class accuracy of generations.

  Args:
    answers: a classifier's labels int [N] or logits float [N, C].
    labels: int [N], what was prompted.
    num_classes: static; C, only where answers are labels.
    weights: see `canvas_scores`.

  Returns:
    float32 [C] in [0, 1]; nan for labels without an image, or with one whose
    logits are nan.

  Raises:
    ValueError: labels out of range, shapes that do not match.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import metrics
    >>> answers, labels = jnp.array([0, 1, 1, 1]), jnp.array([0, 0, 1, 1])
    >>> metrics.class_accuracy(answers, labels, num_classes=2).tolist()
    [0.5, 1.0]
  """
  count = _count(answers, num_classes, "answers")
  hits = _shown(answers, labels, count, "answers")
  weights = _rows.weights_of(weights, hits)
  one = lambda c: _rows.weighted_mean(
    hits, jnp.where(jnp.asarray(labels) == c, weights, 0)
  )
  return jax.vmap(one)(jnp.arange(count))


def _harmonic_mean(values: jax.Array) -> jax.Array:
  """0 where one of them is; nan where one is nan."""
  none = (values == 0).any()
  inverse = (1 / jnp.where(values == 0, 1, values)).mean()
  return jnp.where(none & ~jnp.isnan(values).any(), 0, 1 / inverse)


def _hits(
  answers: Mapping[str, jax.Array],
  prompted: Mapping[str, jax.Array],
  num_classes: Mapping[str, int] | None,
) -> dict[str, jax.Array]:
  """By domain, 1 where the image shows its label, float32 [N]."""
  if not answers or set(answers) != set(prompted):
    raise ValueError(
      "Expected answers and prompted of the same domains, got "
      f"{sorted(answers)} and {sorted(prompted)}."
    )
  found = {}
  for name in sorted(answers):
    count = _count(answers[name], (num_classes or {}).get(name), name)
    if count < 2:
      raise ValueError(
        f"Expected at least 2 labels in the domain {name!r}, got {count}."
      )
    found[name] = _shown(answers[name], prompted[name], count, name)
  lengths = {name: len(hits) for name, hits in found.items()}
  if len(set(lengths.values())) > 1:
    raise ValueError(f"Expected as many images a domain, got {lengths}.")
  return found


def _count(answers: jax.Array, given: int | None, name: str) -> int:
  """C, of logits or as given."""
  shaped(f"answers of {name} [...]", answers)
  shape = jnp.shape(answers)
  if len(shape) == 2:
    if given is not None and given != shape[1]:
      raise ValueError(
        f"Expected logits of {name} [N, {given}], got shape {shape}."
      )
    return shape[1]
  if given is None:
    raise ValueError(
      f"Expected num_classes for {name}, whose answers are no logits [N, C] but "
      f"of shape {shape}."
    )
  return given


def _shown(
  answers: jax.Array, labels: jax.Array, count: int, name: str
) -> jax.Array:
  """1.0 where the answer is the label, nan where logits are nan or +inf."""
  answers = arrays("answers [...]", answers)
  labels = arrays("labels [...]", labels)
  is_nan = jnp.zeros(answers.shape[:1], bool)
  if answers.ndim == 2:
    if not jnp.issubdtype(answers.dtype, jnp.floating):
      raise ValueError(
        f"Expected logits of {name} of a float dtype, got {answers.dtype}."
      )
    is_nan = ~(answers < jnp.inf).all(axis=-1)
    answers = answers.argmax(axis=-1)
  shaped(f"answers [N] and labels of {name} [N]", answers, labels)
  checks.labels(answers, count, f"answers of {name}")
  checks.labels(labels, count, f"labels of {name}")
  return jnp.where(is_nan, jnp.nan, (answers == labels).astype(jnp.float32))


def _check_target(
  target: int | jax.Array,
  answers: jax.Array,
  num_classes: Mapping[str, int] | None,
  name: str,
) -> None:
  count = _count(answers, (num_classes or {}).get(name), name)
  shape, dtype = jnp.shape(target), jnp.asarray(target).dtype
  if shape != () or not jnp.issubdtype(dtype, jnp.integer):
    raise ValueError(
      f"Expected target to be an integer (vmap over several), got {dtype} "
      f"{shape}."
    )
  if checks.is_concrete(target) and not 0 <= int(target) < count:
    raise ValueError(
      f"Expected target in 0 .. {count - 1} of the domain {name!r}, got "
      f"{target}."
    )
