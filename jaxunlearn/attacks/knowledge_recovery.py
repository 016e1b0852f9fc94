"""What an attack brings back of what was forgotten.

Source: recovery by fine-tuning as in Łucki et al. (2024), arXiv:2409.18025, with
any transform as the attacker: fine-tuning of a few forget rows or of unrelated
ones, or a method of the library.

Class: heuristic audit; little recovery under one attack is no proof.
Model state: whatever the attack does to it. Data access: that of the attack, and
what `evaluate` reads. Cost: the attack once for each rate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.training import map_many
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import PyTree, Variables
from jaxunlearn.metrics import _rows

Evaluate = Callable[[Any], jax.Array]


class Recovered(NamedTuple):
  """What an attack brought back.

  Attributes:
    recovery: float32 [], see `recovery`; the largest over the rates.
    best: int32 [], the rate that it came from; 0 without rates.
    before: float32 [], the metric before the attack.
    after: float32 [], or [R] for R rates, the metric after it.
  """

  recovery: jax.Array
  best: jax.Array
  before: jax.Array
  after: jax.Array


def recovery(
  before: float | jax.Array,
  after: float | jax.Array,
  original: float | jax.Array,
  *,
  min_gap: float | jax.Array = 0.0,
) -> jax.Array:
  """(after - before) / (original - before): what an attack brought back.

  Better: that of the retrained model under the same attack. The same for
  metrics of which more and of which less is better. With the metric of the
  quantised model as `after` it is the recovery by quantisation.

  Args:
    before: [...], the metric of the unlearned model.
    after: [...], its metric after the attack.
    original: [...], the metric of the original model.
    min_gap: >= 0; of a smaller or equal |original - before| there is nothing to
      recover, and the quotient would be noise.

  Returns:
    float32 [...]; 0 nothing, 1 everything, above 1 more than the original knew;
    nan where there is nothing to recover.

  Raises:
    ValueError: min_gap < 0, arrays of different shapes.

  Example:
    >>> from jaxunlearn import attacks
    >>> unlearned, attacked, original = 0.25, 0.5, 0.75
    >>> float(attacks.recovery(unlearned, attacked, original))
    0.5
  """
  checks.non_negative(min_gap=min_gap)
  before, after, original = (
    _rows.widened(jnp.asarray(x)) for x in (before, after, original)
  )
  _rows.one_shape(before=before, after=after, original=original)
  gap = original - before
  lost = jnp.abs(gap) > min_gap
  return jnp.where(lost, (after - before) / jnp.where(lost, gap, 1), jnp.nan)


def recover(
  attack: Transform | Callable[[jax.Array], Transform],
  evaluate: Evaluate,
  variables: Variables,
  data: PyTree,
  attack_mask: jax.Array,
  key: jax.Array,
  *,
  original: float | jax.Array,
  rates: jax.Array | None = None,
  min_gap: float | jax.Array = 0.0,
  strategy: str | int = "vmap",
) -> Recovered:
  """Attacks a model with a transform and says how much came back.

  Args:
    attack: any `Transform`: `relearning` trains on the rows of the mask, a
      `finetune` on all others (unrelated rows, if the mask is the request).
      With `rates`, a function from a rate to such a transform.
    evaluate: `variables -> []`, see `relearn`.
    variables: the unlearned model.
    data: pytree of arrays [N, ...].
    attack_mask: bool [N], what the attack takes for its forget mask.
    key: PRNG key, the same for all rates.
    original: [], the metric of the original model.
    rates: float [R], R >= 1, the grid over which the attacker takes the best.
    min_gap: see `recovery`.
    strategy: static; how the rates are mapped, see `map_many`.

  Returns:
    `Recovered`. A rate at which the metric became nan does not count; nan if
    all are, or if there is nothing to recover.

  Raises:
    ValueError: min_gap < 0, rates that are no vector, an attack of the wrong
      kind, a metric that is no scalar; as the attack itself raises.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> from jaxunlearn import attacks, toy
    >>> problem = toy.classifier()
    >>> fresh = problem.model.init(problem.key, problem.data["x"])
    >>> attack = attacks.relearning(
    ...   problem.model, num_steps=20, batch_size=8, optimizer=optax.adam(0.1))
    >>> found = attacks.recover(
    ...   attack, lambda v: jnp.asarray(toy.accuracies(problem, v)[0]), fresh,
    ...   problem.data, problem.request, problem.key, original=1.0)
    >>> float(found.recovery)
    1.0
  """
  if isinstance(attack, Transform) == (rates is not None):
    wanted = "a Transform without" if rates is None else "rate -> Transform for"
    raise ValueError(
      f"Expected attack to be {wanted} rates, got {type(attack).__name__}."
    )

  def attacked(transform: Any) -> jax.Array:
    return scalar(evaluate(transform(variables, data, attack_mask, key)[0]))

  before = scalar(evaluate(variables))
  if rates is None:
    after = attacked(attack)
  else:
    shaped("rates [R > 0]", rates)
    rates = _rows.widened(rates, "rates")
    make: Any = attack
    after = map_many(lambda r: attacked(make(r)), rates, strategy=strategy)
  both = jnp.broadcast_arrays(before, after, original)
  shares = recovery(*both, min_gap=min_gap)
  shares = jnp.atleast_1d(shares)
  best = jnp.argmax(jnp.where(jnp.isnan(shares), -jnp.inf, shares))
  return Recovered(shares[best], best.astype(jnp.int32), before, after)


def scalar(value: Any) -> jax.Array:
  """A metric in at least float32, checked to be a single number."""
  value = _rows.widened(value, "value")
  if value.shape:
    raise ValueError(
      f"Expected evaluate to return a scalar, got shape {value.shape}."
    )
  return value
