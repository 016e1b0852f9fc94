"""What a language model still says of texts that it was to forget.

All take arrays of counted tokens: `log_prob` and `is_top`, [..., T], of each token
its log probability (nats) and whether it was the model's first choice (bool, or
float 0 and 1, nan where that is not known), and a `mask` [..., T] of those that count (the answer and its end). Where
nothing counts the answer is nan; nan stays nan. Membership scores of the same
arrays are in `attacks.language`.

Sources: TOFU, Maini et al. (2024), arXiv:2401.06121, and its released code for
probability, truth ratio, utility and forget quality; open-unlearning, Dorna et
al. (2025), arXiv:2506.12618, for exact memorisation and extraction strength.
ROUGE-L, Lin (2004), is in `rouge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays, shaped
from jaxunlearn.metrics import _rows
from jaxunlearn.metrics.rouge import common_length as common_length
from jaxunlearn.metrics.rouge import rouge_l_f1 as rouge_l_f1
from jaxunlearn.metrics.rouge import rouge_l_of_texts as rouge_l_of_texts
from jaxunlearn.metrics.rouge import rouge_l_recall as rouge_l_recall

_LN10 = float(np.log(10))
_EXACT = 10_000  # Rows up to which the test counts paths, as scipy does.


class SameRatios(NamedTuple):
  """Whether two models' truth ratios are distributed alike.

  Attributes:
    log10_p: of the two-sided Kolmogorov-Smirnov test, <= 0; TOFU's forget quality
      is 10 to this. Above log10 0.05 they are usually called alike.
    distance: largest difference of the two distribution functions, in [0, 1].
    rows: n, which the p-value hangs on as much as on the distance.
  """

  log10_p: float
  distance: float
  rows: int


def mean_log_prob(log_prob: jax.Array, mask: jax.Array) -> jax.Array:
  """Mean log p of the tokens that count, [...], <= 0."""
  log_prob, mask = _counted(log_prob, mask)
  count = mask.sum(axis=-1)
  total = jnp.where(mask, log_prob, 0).sum(axis=-1)
  return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan)


def probability(log_prob: jax.Array, mask: jax.Array) -> jax.Array:
  """p(answer)^(1 / its tokens), [...] in [0, 1]."""
  return jnp.exp(mean_log_prob(log_prob, mask))


def choice_probability(right: jax.Array, wrong: jax.Array) -> jax.Array:
  """That of the right answer among itself and some wrong ones.

  Args:
    right: `mean_log_prob` of the right answer, [...].
    wrong: of the wrong ones, [..., K].

  Returns:
    P / (P + sum of those of the wrong ones), [...] in [0, 1].
  """
  right, wrong = _answers(right, wrong)
  everything = jnp.concatenate([right[..., None], wrong], axis=-1)
  return jax.nn.softmax(everything, axis=-1)[..., 0]


def is_chosen(right: jax.Array, wrong: jax.Array) -> jax.Array:
  """Whether the right answer is likelier than every wrong one, as MC1 has it.

  Args:
    right: a score of the right answer, [...].
    wrong: of the wrong ones, [..., K].

  Returns:
    bool [...]; a tie is wrong, and so is nan.
  """
  right, wrong = _answers(right, wrong)
  return (right[..., None] > wrong).all(axis=-1)


def log_truth_ratio(
  right: jax.Array, wrong: jax.Array, *, mean: str = "geometric"
) -> jax.Array:
  """log of the probability of wrong answers over that of the right one.

  Args:
    right: `mean_log_prob` of the right answer in other words, [...].
    wrong: of the wrong answers, [..., K].
    mean: static; of the wrong answers' probabilities: "geometric", as the
      released code's, or "arithmetic", as the paper's formula.

  Returns:
    [...]; below 0 the model prefers what is true. In logarithms, since after
    unlearning the ratio itself may be beyond any float.

  Raises:
    ValueError: another mean; no wrong answers, or shapes that do not match.
  """
  checks.one_of(("geometric", "arithmetic"), mean=mean)
  right, wrong = _answers(right, wrong)
  if mean == "geometric":
    return wrong.mean(axis=-1) - right
  return jax.nn.logsumexp(wrong, axis=-1) - np.log(wrong.shape[-1]) - right


def indifference(log_ratio: jax.Array) -> jax.Array:
  """min(R, 1/R) of truth ratios R: 1 where nothing is preferred; [...].

  TOFU's truth ratio on the forget set is the mean of these.
  """
  return jnp.exp(-jnp.abs(log_ratio))


def preference(log_ratio: jax.Array) -> jax.Array:
  """max(0, 1 - R) of truth ratios R: 1 where only the truth is likely; [...].

  TOFU's truth ratio on all other sets is the mean of these.
  """
  return -jnp.expm1(jnp.minimum(log_ratio, 0))


def exact_memorisation(is_top: jax.Array, mask: jax.Array) -> jax.Array:
  """Share of counted tokens that were the first choice, [...]."""
  is_top, mask = _counted(is_top, mask)
  count = mask.sum(axis=-1)
  hits = jnp.where(mask, is_top, 0).sum(axis=-1)
  return jnp.where(count > 0, hits / jnp.maximum(count, 1), jnp.nan)


def extraction_strength(
  is_top: jax.Array, mask: jax.Array, *, reference_code: bool = False
) -> jax.Array:
  """Share of the answer that follows by itself from what comes before it.

  The longest end of the answer of which every token is the first choice.

  Args:
    is_top: whether each token was the model's first choice.
    mask: which count.
    reference_code: static; open-unlearning's code never says 0 but 1/n, as if
      the last token always followed.

  Returns:
    [...] in [0, 1].
  """
  is_top, mask = _counted(is_top, mask)
  count = mask.sum(axis=-1)
  # From the end; what does not count stops nothing.
  follows = jnp.where(mask, is_top, 1)[..., ::-1]
  trailing = jnp.cumprod(follows, axis=-1) * mask[..., ::-1]
  length = trailing.sum(axis=-1)
  if reference_code:
    length = jnp.maximum(length, 1)
  return jnp.where(count > 0, length / jnp.maximum(count, 1), jnp.nan)


def first_under(values: jax.Array, threshold: float | jax.Array) -> jax.Array:
  """The checkpoint that MUSE reports: the first that has forgotten enough.

  Args:
    values: float [E], what is still known, in the order of rising strength.
    threshold: the retrained model's.

  Returns:
    int32 [], the first at or under the threshold; the last where none is.
  """
  under = jnp.asarray(values) <= threshold
  last = under.shape[0] - 1
  return jnp.where(under.any(), under.argmax(), last).astype(jnp.int32)


def ngram_entropy(
  tokens: jax.Array,
  length: jax.Array,
  *,
  weights: Sequence[float] = (0.0, 2 / 3, 4 / 3),
) -> jax.Array:
  """Fluency: how evenly the pairs and triples of a text's tokens are spread.

  The mean of two entropies in bits, of pairs (weighed 2/3) and of triples (4/3),
  as RWKU (arXiv:2406.10890) has it. Low where a model repeats itself; high where
  it rambles, so nearest to the original is best.

  Args:
    tokens: int [B, S]; length: int [B], of them that count.
    weights: static; of single tokens, pairs, triples, and so on.

  Returns:
    float32 [B], bits; a text too short for an n-gram has none of it, 0.
  """
  tokens = arrays("tokens [...]", tokens)
  length = arrays("length [...]", length)
  size = tokens.shape[1]
  place = jnp.arange(size)[None]
  total = jnp.zeros(tokens.shape[0])
  # Of places that have the same n tokens, so that nothing is hashed.
  same = jnp.ones((tokens.shape[0], size, size), bool)
  for n, weight in enumerate(weights):
    ahead = jnp.roll(tokens, -n, axis=1)
    same = same & (ahead[:, :, None] == ahead[:, None, :])
    there = place < (length - n)[:, None]
    many = jnp.maximum(there.sum(axis=1), 1)
    often = (same & there[:, None, :]).sum(axis=2)
    share = jnp.where(there, often / many[:, None], 1)
    total -= weight * jnp.log2(share).sum(axis=1) / many
  return total / max(1, sum(weight > 0 for weight in weights))


def model_utility(values: Any) -> jax.Array:
  """Harmonic mean over the last axis; 0 where one of them is 0.

  TOFU takes nine: probability, ROUGE-L recall and `preference`, each on the
  retain set, real authors and world facts.

  Args:
    values: [..., K], in [0, 1].
  """
  values = _rows.widened(values, "values")
  safe = jnp.where(values > 0, values, 1)
  mean = values.shape[-1] / (1 / safe).sum(axis=-1)
  unknown = jnp.isnan(values).any(axis=-1)
  mean = jnp.where((values <= 0).any(axis=-1), 0.0, mean)
  return jnp.where(unknown, jnp.nan, mean)


def forget_quality(ours: Any, theirs: Any) -> SameRatios:
  """TOFU's forget quality: a test of two models' truth ratios; on the host.

  Hold it beside that of a second retrained model against the first, its floor,
  and beside what is left of other texts: a destroyed model may pass.

  Args:
    ours: float [n], ratios of the forget rows or any increasing function of
      them, such as `log_truth_ratio`; of the unlearned model.
    theirs: float [m], of the retrained model.

  Returns:
    See `SameRatios`; p is nan where a ratio is nan.

  Raises:
    ValueError: not one axis, or nothing in it.
  """
  shaped("truth ratios [n > 0] and others [m > 0]", ours, theirs)
  ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
  if np.isnan(ours).any() or np.isnan(theirs).any():
    return SameRatios(float("nan"), float("nan"), len(ours))
  from scipy import stats

  exact = max(len(ours), len(theirs)) <= _EXACT
  test = stats.ks_2samp(ours, theirs, method="exact" if exact else "asymp")
  if test.pvalue > 1e-290:
    log10_p = float(np.log10(test.pvalue))
  else:  # Beyond float64: the first term of the limit's series.
    log10_p = float(_log_limit(test.statistic, len(ours), len(theirs)) / _LN10)
  return SameRatios(min(log10_p, 0.0), float(test.statistic), len(ours))


def ratio_distance(ours: jax.Array, theirs: jax.Array) -> jax.Array:
  """Largest difference of two distribution functions, traced; [n], [m] -> []."""
  ours, theirs = (
    jnp.sort(_rows.widened(ours, "ours")),
    jnp.sort(_rows.widened(theirs, "theirs")),
  )
  everything = jnp.concatenate([ours, theirs])

  def share(values: jax.Array) -> jax.Array:
    place = jnp.searchsorted(values, everything, side="right")
    return place / values.shape[0]

  found = jnp.abs(share(ours) - share(theirs)).max()
  return jnp.where(jnp.isnan(everything).any(), jnp.nan, found)


def _log_limit(distance: float, n: int, m: int) -> float:
  return float(np.log(2) - 2 * distance**2 * n * m / (n + m))


def _counted(values: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
  shaped("values [..., T] and mask bool [..., T]", values, mask)
  values, mask = _rows.widened(values, "values"), jnp.asarray(mask)
  return values, mask


def _answers(right: jax.Array, wrong: jax.Array) -> tuple[jax.Array, jax.Array]:
  shaped("right answers [...] and wrong ones [..., K > 0]", right, wrong)
  right, wrong = _rows.widened(right, "right"), _rows.widened(wrong, "wrong")
  return right, wrong
