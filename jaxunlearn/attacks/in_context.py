"""Facts that are told again in the prompt: what forgetting cannot take away.

A model that never knew a fact can use it once it stands in the context. So the
retrained model is the measure: what a context gives it is no leak, what it gives
the unlearned model beyond that was still there.

Class: heuristic. Data access: the facts. Cost: a forward pass for each context.
Source: the claim is Shumailov et al. (2024), arXiv:2407.00106, which has neither
algorithm nor numbers; levels, controls and gaps are ours. A model must be able
to learn in context: look at the gain of the retrained one first.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import shaped

LEVELS = ("closed", "direct", "neighbour", "format", "false")


class Facts(NamedTuple):
  """Facts in tokens, all as long.

  Attributes:
    sentence: int32 [F, S], what is told; has the answer in it.
    query: int32 [F, Q], what is asked; the answer is the token after it.
    answer: int32 [F].
    kind: int32 [F], facts whose answers may stand for each other.
    subject: None, or int32 [F], the token of the sentence that says whom it is
      about; level "format" needs it.
  """

  sentence: jax.Array
  query: jax.Array
  answer: jax.Array
  kind: jax.Array
  subject: jax.Array | None = None


class Asked(NamedTuple):
  """Prompts to put to every model alike.

  Attributes:
    tokens: int32 [F, C, T], context and query.
    answer: int32 [F, C], the token that counts; for "false" the one told.
  """

  tokens: jax.Array
  answer: jax.Array


class Gaps(NamedTuple):
  """Means over the requested facts of scores in [0, 1], such as p or accuracy.

  Attributes:
    recovery: of the unlearned model with the context.
    information_gain: what the context gives the retrained model.
    residual: recovery minus the retrained model's score: above 0, something was
      left that the context awakes; below, told facts are refused.
  """

  recovery: jax.Array
  information_gain: jax.Array
  residual: jax.Array


def in_context(
  facts: Facts,
  level: str,
  key: jax.Array,
  *,
  request: jax.Array,
  distractors: int = 0,
  num_contexts: int = 10,
) -> Asked:
  """Prompts of one level; the same key gives all models the same ones.

  Args:
    facts: what there is to know.
    level: static; "closed", the query alone; "direct", after the fact itself;
      "neighbour", after another fact, and "format", after its sentence with
      another subject and another answer of its kind, two controls; "false", after
      the fact with another answer of its kind.
    key: typed PRNG key.
    request: bool [F], facts to forget: they are told to nobody but their own
      queries.
    distractors: static; other facts beside it, in random order.
    num_contexts: static; C.

  Returns:
    `Asked`, T = Q, or (distractors + 1) * S + Q. Facts beside have the answer
    nowhere.

  Raises:
    ValueError: an unknown level, shapes that do not fit, a sentence without its
      answer, "format" without subjects; (concrete) an empty request, too few
      facts to tell beside one, or no other answer of a kind.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> facts = attacks.Facts(
    ...   sentence=jnp.array([[1, 8], [2, 9]]), query=jnp.array([[1], [2]]),
    ...   answer=jnp.array([8, 9]), kind=jnp.array([0, 0]))
    >>> asked = attacks.in_context(
    ...   facts, "direct", jax.random.key(0), request=jnp.array([True, False]),
    ...   num_contexts=1)
    >>> asked.tokens.tolist(), asked.answer.tolist()
    ([[[1, 8, 1]], [[2, 9, 2]]], [[8], [9]])
  """
  checks.one_of(LEVELS, level=level)
  checks.typed_key(key)
  checks.count(0, distractors=distractors)
  checks.count(1, num_contexts=num_contexts)
  _check(facts, request)
  sentence, query, answer, kind, subject = facts
  if level == "format" and subject is None:
    raise ValueError('Expected facts with a subject for "format", got none.')
  num = answer.shape[0]
  keep = lambda x: jnp.repeat(x[:, None], num_contexts, axis=1)
  if level == "closed":
    return Asked(keep(query), keep(answer))
  has_answer = (sentence[None] == answer[:, None, None]).any(axis=-1)
  beside = ~has_answer & ~request[None]  # [F, F], those that may be told.
  many = distractors + (level == "neighbour")
  others = (answer[:, None] != answer[None]) & (kind[:, None] == kind[None])
  if subject is not None and level == "format":
    others &= subject[:, None] != subject[None]
  if checks.is_concrete(beside):
    least = int(beside.sum(axis=1).min())
    if least < many:
      raise ValueError(
        f"Expected {many} other facts to tell beside each, got {least}."
      )
    if level in ("false", "format") and not bool(others.any(axis=1).all()):
      raise ValueError(
        "Expected another answer of each fact's kind, got none for fact "
        f"{int(others.any(axis=1).argmin())}."
      )

  def one(key: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
    of_facts, of_answer, of_order = jax.random.split(key, 3)
    chance = jax.random.uniform(of_facts, (num,))
    chosen = jax.lax.top_k(jnp.where(beside[i], chance, -1.0), many)[1]
    told, said = sentence[chosen], answer[i]
    if level != "neighbour":
      own = sentence[i]
      if level in ("false", "format"):
        chance = jax.random.uniform(of_answer, (num,))
        other = jnp.where(others[i], chance, -1.0)
        lie = answer[other.argmax()]
        own = jnp.where(own == answer[i], lie, own)
        if level == "false":
          said = lie
        elif subject is not None:
          # The least likely of them: not whose answer it is.
          who = subject[jnp.where(others[i], chance, 2.0).argmin()]
          own = jnp.where(own == subject[i], who, own)
      told = jnp.concatenate([told, own[None]])
    told = jax.random.permutation(of_order, told)
    return jnp.concatenate([told.reshape(-1), query[i]]), said

  each = jax.random.split(key, (num, num_contexts))
  number = jnp.arange(num)
  tokens, said = jax.vmap(jax.vmap(one, (0, None)))(each, number)
  return Asked(tokens, said)


def told_in_context(
  told: jax.Array,
  query: jax.Array,
  answer: jax.Array,
  key: jax.Array,
  *,
  num_contexts: int = 10,
) -> Asked:
  """Prompts after sentences of one's own, in random order.

  For what only the data can say: retained facts from which the answer follows
  (axioms), a new name that they define and that is asked about (an alias), or the
  removed fact before a question that builds on it.

  Args:
    told: int32 [F, K, S].
    query: int32 [F, Q].
    answer: int32 [F].
    key: typed PRNG key.
    num_contexts: static; C.

  Returns:
    `Asked`, T = K * S + Q.

  Raises:
    ValueError: shapes that do not fit.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> told = jnp.array([[[5, 6]]])  # A sentence about the only fact.
    >>> asked = attacks.told_in_context(
    ...   told, jnp.array([[1]]), jnp.array([8]), jax.random.key(0),
    ...   num_contexts=2)
    >>> asked.tokens.tolist()
    [[[5, 6, 1], [5, 6, 1]]]
  """
  checks.typed_key(key)
  checks.count(1, num_contexts=num_contexts)
  wanted = "told [F, K, S], query [F, Q] and answer [F]"
  shaped(wanted, told, query, answer)

  def one(key: jax.Array, told: jax.Array, query: jax.Array) -> jax.Array:
    return jnp.concatenate([jax.random.permutation(key, told).ravel(), query])

  each = jax.random.split(key, (answer.shape[0], num_contexts))
  of_fact = jax.vmap(one, (0, None, None))
  tokens = jax.vmap(of_fact)(each, told, query)
  return Asked(tokens, jnp.repeat(answer[:, None], num_contexts, axis=1))


def context_price(recovery: jax.Array, tokens: jax.Array) -> jax.Array:
  """Fewest tokens of context after which at least half comes back.

  Args:
    recovery: [..., L], of each level, see `Gaps`.
    tokens: int [L], of a context of each level.

  Returns:
    float32 [...]; inf where no level does.

  Raises:
    ValueError: not as many numbers of tokens as levels.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> recovery = jnp.array([0.1, 0.6, 0.9])
    >>> float(attacks.context_price(recovery, jnp.array([5, 10, 40])))
    10.0
  """
  if jnp.shape(tokens) != jnp.shape(recovery)[-1:]:
    raise ValueError(
      f"Expected tokens of shape {jnp.shape(recovery)[-1:]}, one for each level, "
      f"got {jnp.shape(tokens)}."
    )
  price = jnp.broadcast_to(
    jnp.asarray(tokens, jnp.float32), jnp.shape(recovery)
  )
  return jnp.where(recovery >= 0.5, price, jnp.inf).min(axis=-1)


def in_context_gaps(
  unlearned: jax.Array,
  retrained: jax.Array,
  retrained_closed: jax.Array,
  request: jax.Array,
) -> Gaps:
  """What a level says of the requested facts.

  `unlearned` of "false" minus that of "direct" is a gap of its own: told truths
  that are obeyed less than told falsehoods give away what was forgotten.

  Args:
    unlearned: float [F, C], scores of the model in question at this level.
    retrained: float [F, C], of the retrained model with the same prompts.
    retrained_closed: float [F, C'], of it at level "closed".
    request: bool [F].

  Returns:
    `Gaps` of scalars; nan for an empty request.

  Raises:
    ValueError: shapes that do not fit, a request that is not bool.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import attacks
    >>> unlearned = jnp.array([[1.0, 0.5], [0.0, 0.0]])
    >>> retrained, closed = jnp.full((2, 2), 0.5), jnp.full((2, 1), 0.25)
    >>> request = jnp.array([True, False])
    >>> found = attacks.in_context_gaps(unlearned, retrained, closed, request)
    >>> float(found.recovery), float(found.residual)
    (0.75, 0.25)
  """
  checks.hard_request(request, "request")
  for name, scores in (
    ("unlearned", unlearned),
    ("retrained", retrained),
    ("retrained_closed", retrained_closed),
  ):
    # A request [F, 1] would broadcast against means [F].
    if jnp.ndim(scores) != 2 or jnp.shape(scores)[:1] != jnp.shape(request):
      raise ValueError(
        f"Expected {name} [F, C] and request [F], got {jnp.shape(scores)} and "
        f"{jnp.shape(request)}."
      )
  num = request.sum()

  def mean(scores: jax.Array) -> jax.Array:
    total = jnp.where(request, scores.mean(axis=1), 0).sum()
    return jnp.where(num > 0, total / jnp.maximum(num, 1), jnp.nan)

  ours, theirs = mean(unlearned), mean(retrained)
  return Gaps(ours, theirs - mean(retrained_closed), ours - theirs)


def _check(facts: Facts, request: jax.Array) -> None:
  num = facts.answer.shape[0]
  shapes = [leaf.shape for leaf in facts if leaf is not None]
  fits = all(shape[:1] == (num,) for shape in shapes)
  if not fits or [len(shape) for shape in shapes[:4]] != [2, 2, 1, 1]:
    raise ValueError(
      "Expected sentence [F, S], query [F, Q], answer [F] and kind [F], got "
      f"shapes {', '.join(map(str, shapes))}."
    )
  shaped(f"request bool [{num}]", request)
  if checks.is_concrete(request) and not np.asarray(request).any():
    raise ValueError("Expected request to ask for a fact, got an empty one.")
  told = (facts.sentence == facts.answer[:, None]).any(axis=1)
  if checks.is_concrete(told) and not bool(told.all()):
    raise ValueError(
      "Expected every sentence to have its answer, got fact "
      f"{int(told.argmin())} without."
    )
