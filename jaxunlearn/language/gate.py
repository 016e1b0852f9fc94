"""A gate: how likely a prompt asks for what is to be forgotten.

A small classifier of a prompt's mean state, which the guards ECO and GUARD ask
before they do anything. It judges the prompt alone, in the words that it has: what
it was not trained on it may miss, and then nothing is guarded.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import per_row, provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.tasks import Fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Draw, Request, Slot, Step, Variables
from jaxunlearn.language.types import LanguageModel, Text, check_text

_TINY = 1e-6


class Gate(NamedTuple):
  """A classifier of prompts.

  Attributes:
    centre: [D], mean of the features of the rows that it was trained on.
    scale: [D], their standard deviation.
    dense: ((kernel, bias), ...), a layer or two with a ReLU between.
  """

  centre: jax.Array
  scale: jax.Array
  dense: Any


def pooled(
  lm: LanguageModel, variables: Variables, x: Text, layer: int = 0
) -> jax.Array:
  """The mean state of each prompt's tokens, [B, D] float32.

  Args:
    lm: the model.
    variables: its values.
    x: texts [B, L]; what follows a prompt is not looked at.
    layer: static; 0, the tokens' embeddings; l, the stream after l blocks.

  Raises:
    ValueError: a layer that is not there; (concrete) a row without a prompt.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.language import gate
    >>> problem = toy.decoder()
    >>> gate.pooled(problem.model, problem.variables, problem.data["x"]).shape
    (8, 16)
  """
  return pooled_states(lm, variables, x, layer)[-1]


def pooled_states(
  lm: LanguageModel, variables: Variables, x: Text, layers: int
) -> jax.Array:
  """`pooled` of the embeddings and after each of the first blocks.

  Returns:
    [layers + 1, B, D] float32.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.language import gate
    >>> problem = toy.decoder()
    >>> x = problem.data["x"]
    >>> gate.pooled_states(problem.model, problem.variables, x, layers=2).shape
    (3, 8, 16)
  """
  states, there = _states(lm, variables, x, layers)
  total = jnp.where(there[None, :, :, None], states, 0).sum(axis=2)
  return total / jnp.maximum(there.sum(axis=1), 1)[None, :, None]


def last_states(
  lm: LanguageModel, variables: Variables, x: Text, layers: int
) -> jax.Array:
  """The state of each prompt's last token, which has seen all others, by layer.

  Returns:
    [layers + 1, B, D] float32.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.language import gate
    >>> problem = toy.decoder()
    >>> x = problem.data["x"]
    >>> gate.last_states(problem.model, problem.variables, x, layers=2).shape
    (3, 8, 16)
  """
  states, _ = _states(lm, variables, x, layers)
  last = jnp.maximum(x.prompt - 1, 0)[None, :, None, None]
  return jnp.take_along_axis(states, last, axis=2)[:, :, 0]


def _states(
  lm: LanguageModel, variables: Variables, x: Text, layers: int
) -> tuple[jax.Array, jax.Array]:
  """Of all tokens [layers + 1, B, T, D] float32, and which are a prompt's [B, T]."""
  checks.count(0, layers=layers)
  if layers > lm.config.num_layers:
    raise ValueError(
      f"Expected a layer <= {lm.config.num_layers}, got {layers}."
    )
  if checks.is_concrete(x.prompt) and not (np.asarray(x.prompt) > 0).all():
    raise ValueError("Expected a prompt of a token or more, got one of none.")
  there = jnp.arange(x.tokens.shape[1])[None] < x.prompt[:, None]
  hidden = lm.embed(variables, jnp.where(there, x.tokens, 0))
  states = hidden[None]
  if layers:
    out = lm.blocks(variables, hidden, mask=there, layers=layers).states
    states = jnp.concatenate([states, out.residual])
  return states.astype(jnp.float32), there


def probability(gate: Gate, features: jax.Array) -> jax.Array:
  """That a prompt asks for what is to be forgotten, of features [B, D].

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language.gate import Gate, probability
    >>> layer = (jnp.array([[1.0], [0.0]]), jnp.zeros(1))
    >>> gate = Gate(jnp.zeros(2), jnp.ones(2), (layer,))
    >>> features = jnp.array([[0.0, 7.0], [2.0, 0.0]])
    >>> [round(p, 3) for p in probability(gate, features).tolist()]
    [0.5, 0.881]
  """
  return jax.nn.sigmoid(logit(gate, features))


def logit(gate: Gate, features: jax.Array) -> jax.Array:
  z = (features - gate.centre[None]) / gate.scale[None]
  for number, (kernel, bias) in enumerate(gate.dense):
    z = z if number == 0 else jax.nn.relu(z)
    z = z @ kernel + bias[None]
  return z[..., 0]


def calibrated(p: jax.Array, false_alarms: float) -> jax.Array:
  """The threshold above which a new prompt to be left alone rarely comes, [].

  The conformal quantile of prompts that the gate was not trained on: of others
  like them the stated share is flagged at most, on average. With fewer than
  1 / false_alarms - 1 of them it is 1, and nothing is flagged.

  Args:
    p: [N], of validation prompts that are to be left alone, see `probability`.
    false_alarms: in [0, 1].

  Raises:
    ValueError: a share outside [0, 1], or no prompts.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language.gate import calibrated
    >>> p = jnp.linspace(0.0, 0.9, 19)
    >>> float(calibrated(p, 0.1)) == float(p[17])  # One of 19 is above.
    True
    >>> float(calibrated(p, 0.01))  # Too few to tell.
    1.0
  """
  checks.fraction(false_alarms=false_alarms)
  checks.count(1, prompts=p.shape[0])
  rank = math.ceil((p.shape[0] + 1) * (1 - false_alarms) - 1e-9)
  if rank > p.shape[0]:
    return jnp.ones(())
  return jnp.sort(p)[max(rank - 1, 0)]


def slots() -> tuple[Slot[Gate], Slot[jax.Array]]:
  """Where `learn` leaves a gate, and the features of all rows [N, D].

  Example:
    >>> from jaxunlearn.language.gate import slots
    >>> slots()
    (gate, prompt features)
  """
  return Slot("gate"), Slot("prompt features")


def shares(flagged: jax.Array, request: Request) -> dict[str, jax.Array]:
  """Which share of forget and of retain rows is flagged; [] each.

  Misses are what the first lacks to 1, false alarms the second; nan of no rows.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> from jaxunlearn.language.gate import shares
    >>> forget = jnp.array([True, True, False, False, False])
    >>> flagged = jnp.array([True, False, True, False, False])
    >>> found = shares(flagged, ju.Request(forget, ~forget))
    >>> {name: round(float(share), 2) for name, share in found.items()}
    {'forget': 0.5, 'retain': 0.33}
  """
  share = lambda w: (flagged * w).sum() / w.sum()
  wide = lambda mask: mask.astype(jnp.float32)
  return {
    "forget": share(wide(request.forget)),
    "retain": share(wide(request.retain)),
  }


def learn(
  lm: LanguageModel,
  fit: Fit,
  slot: Slot[Gate],
  features: Slot[jax.Array],
  *,
  layer: int,
  width: int | None,
) -> Transform:
  """A chain that leaves a gate in a slot, trained on forget and retain prompts.

  The mean of either kind counts as much as that of the other: cross-entropy with
  the weights N / n of ECO's and GUARD's classifiers.

  Args:
    lm: the model, which stays as it is.
    fit: how; each step takes `batch_size` prompts of either kind.
    slot: where.
    features: where the features of all rows are left, see `slots`.
    layer: static; see `pooled`.
    width: static; None is a logistic regression, else hidden units.

  Raises:
    ValueError: from the call, (concrete) prompts of one kind alone.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.language import gate
    >>> problem = toy.decoder()
    >>> fit = ju.Fit(optax.adam(0.3), num_steps=20, batch_size=4)
    >>> one, z = gate.slots()
    >>> link = gate.learn(problem.model, fit, one, z, layer=0, width=None)
    >>> share = lambda carry: gate.probability(carry[one], carry[z])
    >>> asks = ju.core.record("p", share)
    >>> _, info = ju.chain(link, asks)(*problem.arguments)
    >>> [round(p) for p in info["p"].tolist()]  # Two are asked for.
    [1, 1, 0, 0, 0, 0, 0, 0]
  """
  checks.count(0, layer=layer)
  if width is not None:
    checks.count(1, width=width)
  dense: Slot[Any] = Slot("gate layers")

  def look(variables: Variables, rows: Any) -> jax.Array:
    check_text(rows["x"], lm.config)
    return pooled(lm, variables, rows["x"], layer)

  def start(carry, data, request, key):
    del data
    # Of one kind alone nothing is told apart.
    for kind in ("forget", "retain"):
      checks.weights(getattr(request, kind), f"request.{kind}")
    sizes = [carry[features].shape[-1], *([] if width is None else [width]), 1]
    each = jax.random.split(key, len(sizes) - 1)
    kernels = [
      jax.random.normal(k, (i, o)) * i**-0.5
      for k, i, o in zip(each, sizes, sizes[1:])
    ]
    return tuple((w, jnp.zeros(w.shape[1])) for w in kernels)

  def whole(carry, data, request, key):
    """The layers with the scale of the rows that may be seen."""
    del data, key
    seen = ((request.forget > 0) | (request.retain > 0))[:, None]
    z, count = carry[features], jnp.maximum(seen.sum(), 1)
    centre = jnp.where(seen, z, 0).sum(axis=0) / count
    spread = jnp.where(seen, (z - centre[None]) ** 2, 0).sum(axis=0) / count
    return Gate(centre, jnp.sqrt(spread) + _TINY, carry[dense])

  def objective(layers: Any, step: Step, key: jax.Array) -> jax.Array:
    del key
    gate = step[slot]._replace(dense=layers)
    found = logit(gate, step[features][step.row_id])
    assert step.sizes is not None  # Of a phase.
    asks = jnp.arange(found.shape[0]) < step.sizes[0]
    return jax.nn.softplus(jnp.where(asks, -found, found))

  draw = Draw(fit.batch_size, fit.batch_size)
  return chain(
    per_row(features, look, chunk_size=32),
    provide(dense, start),
    provide(slot, whole),
    phase(objective, fit, draw=draw, on=dense, name="gate"),
    provide(slot, lambda carry, *_: carry[slot]._replace(dense=carry[dense])),
    name="gate",
  )
