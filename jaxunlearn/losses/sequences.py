"""Losses of unlearning on sequences of tokens.

Two kinds. Of whole sequences, [B], from sums of log-probabilities: `npo`,
`simnpo`, `dpo`, `kto_sigmoid`, `flat`. Of single tokens, [...], from
logits [..., V] and labels [...]: `inverted_hinge`, `undial`, `ceu`,
`dual_masked_kl`, `logit_spread`, and the weights `wga_weight`, `satimp_weight`;
masks and means stay outside (`Losses(sum over tokens, number of tokens)` is an
exact token mean).
`states_apart` is of activations. All in at least float32; nothing forms a ratio of
probabilities of sequences, which would underflow.

Sources: NPO, Zhang et al. (2024), arXiv:2404.05868; SimNPO, Fan et al. (2024),
arXiv:2410.07163; DPO, Rafailov et al. (2023), arXiv:2305.18290; KTO, Ethayarajh et
al. (2024), arXiv:2402.01306; the inverted hinge of LoKU, Cha et al. (2024),
arXiv:2408.06621; FLAT, Wang et al. (2024), arXiv:2410.11143; RMU, Li et al. (2024),
arXiv:2403.03218; UNDIAL, Dong et al. (2024), arXiv:2402.10052; WGA, Wang et al.
(2025), arXiv:2502.19301; SatImp, Yang et al. (2025), arXiv:2505.11953; CE-U, Yang
(2025), arXiv:2503.01224; PDU, Entesari et al. (2025), arXiv:2506.05314; SIU, Li et
al. (2024), arXiv:2405.12523.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays
from jaxunlearn.losses.classification import cross_entropy

Scalar = float | jax.Array


def npo(score: jax.Array, reference: jax.Array, beta: Scalar) -> jax.Array:
  """(2 / beta) softplus(beta (score - reference)): negative preference.

  Its slope in the score is 2 sigmoid(beta (score - reference)): 1 at the
  reference, as of gradient ascent, and 0 once the text is forgotten.

  Args:
    score: [...], sum over the answer's tokens of log p, <= 0.
    reference: [...], the same of the reference model.
    beta: > 0; towards 0 it becomes ascent on the score. May be traced.

  Returns:
    [...], nats, >= 0; (2 / beta) log 2 at the reference.

  Example:
    >>> f"{float(npo(jnp.zeros(()), jnp.zeros(()), 2.0)):.4f}"
    '0.6931'
  """
  checks.positive(beta=beta)
  gap = _wide(score) - _wide(reference)
  return 2 / beta * jax.nn.softplus(beta * gap)


def simnpo(
  score: jax.Array, length: jax.Array, beta: Scalar, margin: Scalar = 0.0
) -> jax.Array:
  """(2 / beta) softplus(beta (score / length + margin)): NPO without reference.

  Args:
    score: [...], see `npo`.
    length: [...], how many tokens were summed; of none the score counts as 0.
    beta: > 0. May be traced.
    margin: delta, nats a token. May be traced.

  Returns:
    [...], nats, >= 0.
  """
  checks.positive(beta=beta)
  mean = _wide(score) / jnp.maximum(length, 1)
  return 2 / beta * jax.nn.softplus(beta * (mean + margin))


def dpo(
  score: jax.Array,
  reference: jax.Array,
  preferred: jax.Array,
  preferred_reference: jax.Array,
  beta: Scalar,
) -> jax.Array:
  """Prefers another answer: (2 / beta) softplus(beta (its gain over it)).

  Of the gains of both answers over the reference the forgotten one's is to be
  smaller. The factor is 2 / beta, as in the code of NPO, where DPO has 1.

  Args:
    score: [...], of the answer to be forgotten, see `npo`.
    reference: [...], the same of the reference model.
    preferred: [...], of the answer in its place.
    preferred_reference: [...], the same of the reference model.
    beta: > 0. May be traced.

  Returns:
    [...], nats, >= 0.
  """
  gain = _wide(preferred) - _wide(preferred_reference)
  return npo(_wide(score) - gain, reference, beta)


def kto_sigmoid(
  score: jax.Array, reference: jax.Array, baseline: Scalar, beta: Scalar
) -> jax.Array:
  """1 - (2 / beta) sigmoid(baseline - beta (score - reference)).

  Args:
    score: [...], of the answer to be forgotten, see `npo`.
    reference: [...], the same of the reference model.
    baseline: [], the mean gain of other answers over the reference; held
      constant.
    beta: > 0. May be traced.

  Returns:
    [...], in (1 - 2 / beta, 1).
  """
  checks.positive(beta=beta)
  gap = _wide(score) - _wide(reference)
  at = jax.lax.stop_gradient(baseline) - beta * gap
  return 1 - 2 / beta * jax.nn.sigmoid(at)


def inverted_hinge(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """1 + p(label) - max p(other): the hinge with its sign reversed.

  Lowers the true token and raises its strongest rival only, and stops when the
  rival has all of the probability.

  Args:
    logits: float [..., V], V >= 2.
    labels: int [...].

  Returns:
    [...], in [0, 2]; 1 where both are alike.
  """
  p = jax.nn.softmax(_wide(logits))
  true = _at(p, labels)
  # Probabilities are at most 1, so that the label never is its own rival.
  rival = (p - 2 * _one_hot(labels, p)).max(axis=-1)
  return 1 + true - rival


def undial(
  logits: jax.Array,
  teacher_logits: jax.Array,
  labels: jax.Array,
  strength: Scalar,
) -> jax.Array:
  """Cross-entropy to a teacher whose logit of the true token is lowered.

  Args:
    logits: float [..., V].
    teacher_logits: float [..., V]; held constant.
    labels: int [...].
    strength: what is taken from the teacher's logit, >= 0. May be traced.

  Returns:
    [...], nats, >= 0.
  """
  teacher = _wide(teacher_logits)
  lowered = teacher - strength * _one_hot(labels, teacher)
  target = jax.lax.stop_gradient(jax.nn.softmax(lowered))
  return -(target * jax.nn.log_softmax(_wide(logits))).sum(axis=-1)


def ceu(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """Cross-entropy to the model's own distribution without the true token.

  The target is held constant and gives the label probability exactly 0.

  Args:
    logits: float [..., V], V >= 2.
    labels: int [...].

  Returns:
    [...], nats, >= 0.
  """
  wide = _wide(logits)
  without = jnp.where(_one_hot(labels, wide) > 0, -jnp.inf, wide)
  target = jax.lax.stop_gradient(jax.nn.softmax(without))
  return -(target * jax.nn.log_softmax(wide)).sum(axis=-1)


def dual_masked_kl(
  logits: jax.Array, original_logits: jax.Array, vocab_mask: jax.Array
) -> jax.Array:
  """KL(original || model) over the tokens that a mask leaves (SIU).

  sum over w of K(w) p_o(w) log(p_o(w) / p(w)). What is left is not made a
  distribution again, so that it may be negative. The other of the two masks is
  over positions, and stays outside.

  Args:
    logits: float [..., V].
    original_logits: float [..., V]; held constant.
    vocab_mask: K, [V] or [..., V], 0 for the tokens of a name, else 1. May be
      traced.

  Returns:
    [...], nats; the plain divergence where K is 1.
  """
  before = jax.lax.stop_gradient(jax.nn.log_softmax(_wide(original_logits)))
  gap = before - jax.nn.log_softmax(_wide(logits))
  p = jnp.exp(before)
  # Of a token that is impossible or masked: 0, not 0 times infinity.
  share = jnp.broadcast_to(vocab_mask, p.shape) * p
  return jnp.where(share > 0, share * gap, 0).sum(axis=-1)


def logit_spread(logits: jax.Array) -> jax.Array:
  """(max - mean)^2 of the logits [..., V]: PDU's forget loss; 0 if uniform."""
  wide = _wide(logits)
  return jnp.square(wide.max(axis=-1) - wide.mean(axis=-1))


def wga_weight(log_prob: jax.Array, beta: Scalar) -> jax.Array:
  """p^beta, the weight of a token in weighted ascent (WGA); held constant.

  Args:
    log_prob: [...], log p of the tokens.
    beta: >= 0; 0 is plain ascent. May be traced.
  """
  return jnp.exp(beta * jax.lax.stop_gradient(_wide(log_prob)))


def satimp_weight(
  log_prob: jax.Array, saturation: Scalar, importance: Scalar
) -> jax.Array:
  """p^saturation (1 - p)^importance, SatImp's token weight; held constant.

  Args:
    log_prob: [...], log p of the tokens.
    saturation: beta_1 >= 0. May be traced.
    importance: beta_2 >= 0. May be traced.
  """
  p = jnp.exp(jax.lax.stop_gradient(_wide(log_prob)))
  return p**saturation * jnp.maximum(1 - p, 0) ** importance


def states_apart(states: jax.Array, target: jax.Array) -> jax.Array:
  """Mean over the width of the squared distance (RMU), [...].

  Args:
    states: float [..., D], activations.
    target: float [..., D], broadcastable; held constant.
  """
  gap = _wide(states) - jax.lax.stop_gradient(_wide(target))
  return jnp.square(gap).mean(axis=-1)


def answer_probability(log_prob: jax.Array, mask: jax.Array) -> jax.Array:
  """The mean PROBABILITY of the tokens that count, [...]; 0 of none.

  Args:
    log_prob: [..., T].
    mask: bool or weights [..., T].
  """
  weight = mask.astype(jnp.float32)
  p = jnp.where(weight > 0, jnp.exp(_wide(log_prob)), 0)
  return (weight * p).sum(axis=-1) / jnp.maximum(weight.sum(axis=-1), 1)


# By divergence: how a loss rewards the template, and punishes the answer. With
# f* the conjugate and g the activation, -g(P) and f*(g(P)).
_LOG_2 = 0.6931471805599453
_DIVERGENCES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
  "kl": (lambda p: -p, lambda p: jnp.exp(p - 1)),
  "reverse_kl": (lambda p: jnp.exp(-p), lambda p: p - 1),
  "jeffrey": (lambda p: -p, lambda p: p + p**2 / 4 + p**3 / 16),
  "squared_hellinger": (lambda p: jnp.exp(-p) - 1, lambda p: jnp.exp(p) - 1),
  "pearson": (lambda p: -p, lambda p: p**2 / 4 + p),
  "neyman": (lambda p: jnp.exp(-p) - 1, lambda p: 2 - 2 * jnp.exp(-p / 2)),
  "jensen_shannon": (
    lambda p: jax.nn.softplus(-p) - _LOG_2,
    lambda p: p + jax.nn.softplus(-p) - _LOG_2,
  ),
  "total_variation": (
    lambda p: -jnp.tanh(p) / 2,
    lambda p: jnp.tanh(p) / 2,
  ),
}
DIVERGENCES = tuple(_DIVERGENCES)


def flat(
  template: jax.Array, answer: jax.Array, divergence: str = "total_variation"
) -> jax.Array:
  """-g(P of the template) + f*(g(P of the answer)), FLAT.

  Minus a lower bound of the divergence of the two. Falls in the first, rises in
  the second and is least at (1, 0), for each divergence; the released code has
  signs of g for reverse KL, squared Hellinger and Neyman that turn this round.

  Args:
    template: [...], the mean probability of the tokens of the answer to be
      given, see `answer_probability`.
    answer: [...], of the one to be forgotten.
    divergence: one of `DIVERGENCES`; "jeffrey" is a series to third order.

  Returns:
    [...], bounded.

  Raises:
    ValueError: an unknown divergence.
  """
  checks.one_of(DIVERGENCES, divergence=divergence)
  reward, punish = _DIVERGENCES[divergence]
  return reward(_wide(template)) + punish(_wide(answer))


def _wide(x: Any) -> jax.Array:
  x = arrays("x [...]", x)
  return x.astype(jnp.promote_types(jnp.float32, x.dtype))


def _one_hot(labels: jax.Array, like: jax.Array) -> jax.Array:
  return jax.nn.one_hot(labels, like.shape[-1], dtype=like.dtype)


def _at(values: jax.Array, labels: jax.Array) -> jax.Array:
  return jnp.take_along_axis(values, labels[..., None], axis=-1)[..., 0]


def token_log_prob(logits: jax.Array, labels: jax.Array) -> jax.Array:
  """log softmax(logits)[label], [...], <= 0; see `cross_entropy`."""
  return -cross_entropy(logits, labels)
