"""Membership scores of text from a language model's logits, and PrivLeak.

Sequences are padded: logits [..., T, V], targets [..., T] and a token mask. The
targets are aligned, logits[t] predicts targets[t]; for a causal model pass
`logits[:, :-1]` and `tokens[:, 1:]`. Masked positions are never read, so that
padding changes nothing, and HIGH scores speak for membership (the toolbox of
open-unlearning has the opposite sign).

Class: heuristic. Data access: the texts in question, for `privleak` the
retrained model's AUC too. Cost: a forward pass and a sort of T numbers;
`gradient_norm_score` a backward pass for each text.

Sources: min-k%, Shi et al. (2023), arXiv:2310.16789; min-k%++, Zhang et al.
(2024), arXiv:2404.02936; loss against zlib and against a reference model,
Carlini et al. (2020), arXiv:2012.07805; PrivLeak, MUSE, Shi et al. (2024),
arXiv:2407.06460; FIUBench, Ma et al. (2024), arXiv:2411.03554. Where the released codes differ (the number of tokens, a floor
under the variance), an argument says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.core.types import PyTree
from jaxunlearn.losses.classification import cross_entropy
from jaxunlearn.metrics import _rows

# Shares of the least likely tokens, and how much each counts.
FIUBENCH_WEIGHTS = ((0.1, 0.3), (0.2, 0.3), (0.3, 0.2), (0.4, 0.1), (0.5, 0.1))

# k * T is a count: 0.3 * 10 may be a hair under 3.
_SLACK = 1 + 4 * float(np.finfo(np.float32).eps)


def token_log_probs(
  logits: jax.Array, targets: jax.Array, token_mask: jax.Array | None = None
) -> jax.Array:
  """log p of each token.

  Args:
    logits: float [..., T, V]; logits[t] predicts targets[t].
    targets: int [..., T]; anything where masked.
    token_mask: bool [..., T], True = counts; all by default.

  Returns:
    [..., T], nats, <= 0, in at least float32; 0 where masked.

  Raises:
    ValueError: shapes or dtypes do not match; a counted target out of range.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> logits = jnp.log(jnp.array([[0.5, 0.5], [0.1, 0.9]]))
    >>> print(attacks.token_log_probs(logits, jnp.array([0, 1])).round(3))
    [-0.693 -0.105]
  """
  logits, targets, mask = _tokens(logits, targets, token_mask)
  return jnp.where(mask, -cross_entropy(logits, targets), 0)


def normalised_token_log_probs(
  logits: jax.Array,
  targets: jax.Array,
  token_mask: jax.Array | None = None,
  *,
  variance_floor: Any = 1e-6,
) -> jax.Array:
  """(log p - mu) / sigma, the mean and spread of log p under the model itself.

  How likely a token is beside what the model expects of its own samples there.

  Args:
    logits, targets, token_mask: see `token_log_probs`.
    variance_floor: sigma^2 is at least this, as in open-unlearning: a uniform
      prediction has none. 0 is min-k%++'s own code, nan there. May be traced.

  Returns:
    [..., T]; 0 where masked.

  Raises:
    ValueError: as `token_log_probs`; variance_floor < 0.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> logits = jnp.log(jnp.array([[0.2, 0.8], [0.2, 0.8]]))
    >>> scores = attacks.normalised_token_log_probs(logits, jnp.array([0, 1]))
    >>> print(scores.round(3))
    [-2.   0.5]
  """
  checks.non_negative(variance_floor=variance_floor)
  logits, targets, mask = _tokens(logits, targets, token_mask)
  log_p = jax.nn.log_softmax(logits)
  p = jnp.exp(log_p)
  finite = jnp.where(p > 0, log_p, 0)
  mean = (p * finite).sum(axis=-1)
  # Of centred values: the difference of squares has no digits in float32.
  variance = (p * (finite - mean[..., None]) ** 2).sum(axis=-1)
  sigma = jnp.sqrt(jnp.maximum(variance, variance_floor))
  return jnp.where(mask, (-cross_entropy(logits, targets) - mean) / sigma, 0)


def mean_log_prob(
  logits: jax.Array, targets: jax.Array, token_mask: jax.Array | None = None
) -> jax.Array:
  """The loss attack: mean log p over counted tokens, [...]; nan for none.

  Args and raises: see `token_log_probs`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> logits = jnp.log(jnp.array([[0.5, 0.5], [0.125, 0.875]]))
    >>> score = attacks.mean_log_prob(logits, jnp.array([0, 0]))
    >>> round(float(score / jnp.log(2.0)), 3)  # In bits.
    -2.0
  """
  _, _, mask = _tokens(logits, targets, token_mask)
  values = token_log_probs(logits, targets, token_mask)
  return lowest_mean(values, mask, k=1.0)


def reference_score(
  logits: jax.Array,
  reference_logits: jax.Array,
  targets: jax.Array,
  token_mask: jax.Array | None = None,
) -> jax.Array:
  """Mean log p of the model minus that of a reference model, [...].

  How much more likely a text is than a model finds it that never saw it.

  Args:
    logits: float [..., T, V].
    reference_logits: float [..., T, V'], of the same tokens.
    targets, token_mask: see `token_log_probs`.

  Raises:
    ValueError: as `token_log_probs`, for either model.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> logits = jnp.log(jnp.array([[0.2, 0.8]]))
    >>> reference = jnp.log(jnp.array([[0.6, 0.4]]))
    >>> score = attacks.reference_score(logits, reference, jnp.array([1]))
    >>> round(float(jnp.exp(score)), 3)
    2.0
  """
  return mean_log_prob(logits, targets, token_mask) - mean_log_prob(
    reference_logits, targets, token_mask
  )


def zlib_score(scores: Any, texts: Sequence[str]) -> np.ndarray:
  """Mean log p over the compressed size of the text; on the host.

  Args:
    scores: float [B], see `mean_log_prob`.
    texts: B strings; their UTF-8 bytes are compressed.

  Returns:
    float [B], nats a token and byte, <= 0.

  Raises:
    ValueError: not one text for each score.

  Example:
    >>> import numpy as np
    >>> from jaxunlearn import attacks
    >>> scores = attacks.zlib_score(np.array([-2.2]), ["abc"])
    >>> round(float(scores[0]), 2)  # Eleven bytes, most of them a header.
    -0.2
  """
  import zlib

  scores = np.asarray(scores)
  if isinstance(texts, str):
    raise ValueError("Expected texts to be a list of texts, got one text.")
  shaped(f"scores [{len(texts)}]", scores)
  sizes = [len(zlib.compress(text.encode("utf-8"))) for text in texts]
  return scores / np.asarray(sizes, scores.dtype)


def lowest_mean(
  values: jax.Array,
  mask: jax.Array | None = None,
  *,
  k: Any,
  at_least_one: bool = True,
) -> jax.Array:
  """Mean of the floor(k * n) lowest of the n values that count.

  Args:
    values: float [..., T].
    mask: bool [..., T]; all by default.
    k: share in (0, 1]; may be traced.
    at_least_one: take one value where k * n < 1, as MUSE and open-unlearning
      do; False is the min-k code, which then has no answer.

  Returns:
    [...]; nan where nothing counts, or where a counted value is nan.

  Raises:
    ValueError: shapes do not match, mask is no bool, k outside (0, 1].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> log_probs = jnp.array([-1.0, -4.0, -2.0, -3.0])
    >>> float(attacks.lowest_mean(log_probs, k=0.5))
    -3.5
  """
  if checks.is_concrete(k) and not 0 < float(k) <= 1:
    raise ValueError(f"Expected k in (0, 1], got k={k}.")
  values = _rows.widened(values, "values")
  mask = _mask_of(mask, values.shape, "mask")
  num = mask.sum(axis=-1)
  count = jnp.floor(k * num.astype(jnp.float32) * _SLACK)
  count = jnp.maximum(count, 1.0 if at_least_one else 0.0)
  count = jnp.where(num > 0, jnp.minimum(count, num), 0)
  # A counted nan must not hide behind the padding.
  unknown = (jnp.isnan(values) & mask).any(axis=-1)
  ordered = jnp.sort(jnp.where(mask, values, jnp.inf), axis=-1)
  taken = jax.lax.broadcasted_iota(
    jnp.int32, ordered.shape, ordered.ndim - 1
  ) < count[..., None].astype(jnp.int32)
  total = jnp.where(taken, ordered, 0).sum(axis=-1)
  mean = total / jnp.where(count > 0, count, 1)
  return jnp.where(unknown | (count <= 0), jnp.nan, mean)


def min_k(
  logits: jax.Array,
  targets: jax.Array,
  token_mask: jax.Array | None = None,
  *,
  k: Any = 0.2,
  at_least_one: bool = True,
) -> jax.Array:
  """Min-k%: mean log p of the k least likely tokens of a text.

  A text that was trained on has few tokens that surprise the model.

  Args:
    logits, targets, token_mask: see `token_log_probs`.
    k: share of tokens in (0, 1]; MUSE uses 0.4. May be traced.
    at_least_one: see `lowest_mean`.

  Returns:
    [...], nats, <= 0; nan for a text without tokens.

  Raises:
    ValueError: as `token_log_probs` and `lowest_mean`.

  Source: arXiv:2310.16789.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> logits = jnp.log(jnp.array([[0.5, 0.5], [0.1, 0.9], [0.3, 0.7]]))
    >>> score = attacks.min_k(logits, jnp.array([0, 0, 0]), k=0.4)
    >>> round(float(jnp.exp(score)), 3)
    0.1
  """
  _, _, mask = _tokens(logits, targets, token_mask)
  values = token_log_probs(logits, targets, token_mask)
  return lowest_mean(values, mask, k=k, at_least_one=at_least_one)


def min_k_plus_plus(
  logits: jax.Array,
  targets: jax.Array,
  token_mask: jax.Array | None = None,
  *,
  k: Any = 0.2,
  at_least_one: bool = True,
  variance_floor: Any = 1e-6,
) -> jax.Array:
  """Min-k%++: `min_k` on `normalised_token_log_probs`.

  Args:
    logits, targets, token_mask: see `token_log_probs`.
    k: share of tokens in (0, 1]; may be traced.
    at_least_one: see `lowest_mean`.
    variance_floor: see `normalised_token_log_probs`.

  Returns:
    [...]; nan for a text without tokens.

  Raises:
    ValueError: as both.

  Source: arXiv:2404.02936.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> logits = jnp.log(jnp.array([[0.2, 0.8], [0.2, 0.8]]))
    >>> score = attacks.min_k_plus_plus(logits, jnp.array([0, 1]), k=0.5)
    >>> round(float(score), 3)
    -2.0
  """
  _, _, mask = _tokens(logits, targets, token_mask)
  values = normalised_token_log_probs(
    logits, targets, token_mask, variance_floor=variance_floor
  )
  return lowest_mean(values, mask, k=k, at_least_one=at_least_one)


def weighted_lowest(
  log_prob: jax.Array, mask: jax.Array | None = None
) -> jax.Array:
  """FIUBench's membership score, [...] in [0, 1].

  sum of w exp(`lowest_mean` of a share of log p) over `FIUBENCH_WEIGHTS`. Of a
  short text at least one token counts, where the code has nan and drops it.

  Args:
    log_prob: float [..., T], of each token.
    mask: bool [..., T]; all by default.

  Source: arXiv:2411.03554.
  """
  low = lambda k: jnp.exp(lowest_mean(log_prob, mask, k=k))
  return sum(  # type: ignore[return-value]
    weight * low(k) for k, weight in FIUBENCH_WEIGHTS
  )


def gradient_norm_score(
  loss_fn: Callable[[PyTree, PyTree], jax.Array],
  params: PyTree,
  data: PyTree,
  *,
  chunk_size: int,
  order: Any = 2,
) -> jax.Array:
  """Minus the mean over tensors of the norm of a row's gradient.

  Training makes the gradients of its own rows small. For any model, not only
  of language.

  Args:
    loss_fn: `(params, row) -> []`, the loss of one row, leaves without the row
      axis.
    params: pytree of float arrays.
    data: pytree of arrays [B, ...].
    chunk_size: static; rows at a time. Memory holds that many gradients.
    order: static; p of the norm, >= 1 or inf.

  Returns:
    [B], <= 0, float32 or wider.

  Raises:
    ValueError: chunk_size < 1, order < 1, no parameters, rows of different
      number.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> loss = lambda params, row: params["w"] * row["x"]
    >>> scores = attacks.gradient_norm_score(
    ...   loss, {"w": jnp.array(1.0)}, {"x": jnp.array([3.0, -4.0])},
    ...   chunk_size=2)
    >>> scores.tolist()
    [-3.0, -4.0]
  """
  checks.counts(chunk_size=chunk_size)
  if not order >= 1:
    raise ValueError(f"Expected order >= 1, got order={order}.")
  if not jax.tree.leaves(params):
    raise ValueError("Expected params to hold arrays, got an empty pytree.")
  num_rows = checks.num_rows(data)

  def score(row):
    gradient = jax.grad(loss_fn)(params, row)
    norms = [
      jnp.linalg.norm(_rows.widened(leaf, "leaf").ravel(), ord=order)
      for leaf in jax.tree.leaves(gradient)
    ]
    return -sum(norms) / len(norms)

  data = jax.tree.map(jnp.asarray, data)
  return jax.lax.map(score, data, batch_size=min(chunk_size, max(num_rows, 1)))


def privleak(auc_unlearned: Any, auc_retrained: Any) -> jax.Array:
  """PrivLeak: how far an AUC is from the retrained model's, in percent.

  100 (AUC_u - AUC_r) / AUC_r with AUC the chance that a held-out text scores
  higher than a forget text, `metrics.separation_auc(holdout, forget)` of
  `min_k(..., k=0.4)`.

  Args:
    auc_unlearned: float, any shape, in [0, 1].
    auc_retrained: float, in (0, 1].

  Returns:
    Percent, >= -100. 0 is like the retrained model, the aim; negative, forget
    texts are still known (-100, each better than every held-out one); positive,
    they have become conspicuous. nan where AUC_r is 0 (traced).

  Raises:
    ValueError: an AUC outside [0, 1], or auc_retrained 0; arrays of different
      shapes.

  Source: arXiv:2407.06460.

  Example:
    >>> from jaxunlearn import attacks
    >>> float(attacks.privleak(0.25, 0.5))
    -50.0
  """
  _rows.one_shape(auc_unlearned=auc_unlearned, auc_retrained=auc_retrained)
  for name, value in (
    ("auc_unlearned", auc_unlearned),
    ("auc_retrained", auc_retrained),
  ):
    if checks.is_concrete(value):
      area = np.asarray(value)
      if ((area < 0) | (area > 1)).any():
        raise ValueError(f"Expected {name} in [0, 1], got {value}.")
      if name == "auc_retrained" and (area == 0).any():
        raise ValueError("Expected auc_retrained > 0, got 0.")
  unlearned, retrained = map(_rows.widened, (auc_unlearned, auc_retrained))
  change = unlearned - retrained
  safe = jnp.where(retrained > 0, retrained, 1)
  return jnp.where(retrained > 0, 100 * change / safe, jnp.nan)


def _tokens(logits, targets, token_mask):
  """Widened logits, targets with 0 where masked, and the mask."""
  shaped("logits [..., T, V] and targets [..., T]", logits, targets)
  logits, targets = _rows.widened(logits, "logits"), jnp.asarray(targets)
  mask = _mask_of(token_mask, targets.shape, "token_mask")
  targets = jnp.where(mask, targets, 0)
  checks.labels(targets, logits.shape[-1], "targets")
  return logits, targets, mask


def _mask_of(mask, shape, name):
  mask = jnp.ones(shape, bool) if mask is None else mask
  mask = arrays(f"{name} bool {list(shape)}", mask)
  return mask
