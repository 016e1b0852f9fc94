"""O3: requests in turn, by one adapter that is on for inputs like theirs alone.

Source: O3 (2024), arXiv:2407.10223, and its released code.
Class: a guard with training inside: without its detectors, or with the adapter
taken off, all is back. Model state: gains "o3", in which rows of the requests'
features stay.
Data access: forget rows with their "alternative"; no retain row and none of an
earlier request. Cost: a gradient through the adapter per step; when served, a pass
of the bare blocks over each prompt, and a second one through the adapter.
Differences from the released code: see `detector`; rows of earlier adapters are all
held against the new one, as there (the paper has the last one alone). One adapter
goes on from request to request: what the penalty moves its rows away from is what
it hid earlier requests by. The published weight of 0.1 goes with a rate of 3e-4,
at which rows stay short; at larger rates it outweighs the loss, and what was hidden
comes back.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import adopt, provide
from jaxunlearn.core.per_example import map_chosen
from jaxunlearn.core.phase import phase
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import ALL, Draw, Losses, Slot, Step, Variables
from jaxunlearn.language import detector as detectors
from jaxunlearn.language.gate import last_states
from jaxunlearn.language.lora import LINEAR, lora
from jaxunlearn.language.row_adapters import nested, overlap
from jaxunlearn.language.scores import score_hidden, summed
from jaxunlearn.language.serving import guarded_by, repeated, wrapped
from jaxunlearn.language.types import LanguageModel, Text
from jaxunlearn.models.decoder import Adapters

Scalar = float | jax.Array
NAME = "o3"
_SCALE = 2.0  # As of `lora`.


class O3(NamedTuple):
  """What requests have left so far.

  Attributes:
    factors: of the adapter, by path; see `lora`.
    past: [T, layers, in, r] by path, "a" of each request; 0 of none.
    detectors: see `Detector`, leaves [T, ...].
    served: int32 [], how many requests there were.
  """

  factors: Any
  past: Any
  detectors: detectors.Detector
  served: jax.Array


def o3(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  capacity: int = 4,
  rank: int = 8,
  orthogonality: Scalar = 1e-4,
  targets: str = LINEAR,
  **fields: Unpack[FitFields],
) -> Transform:
  """Serves one request on top of those before it; serve the model by `o3_model`.

  Args:
    lm: the model; its data has a column "alternative".
    fit: how; each step takes `batch_size` forget rows.
    capacity: static; requests that there is room for.
    rank: static; of the adapter.
    orthogonality: >= 0, of the squared products of the adapter's rows with those
      of earlier requests, which grow with the fourth power of their length; 0 is
      plain fine-tuning. Published: 0.1, see above. May be traced.
    targets: see `lora`.
    **fields: the fields of `Fit` by keyword.

  Returns:
    A `Transform`; params come back as they were. In a loop of requests variables
    go round, and from the second on one program serves all.

  Raises:
    ValueError: a number out of its range; from the call, data without
      "alternative"; (concrete) requests beyond `capacity`, or of one row.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> fit = ju.Fit(optax.adam(0.1), num_steps=2, batch_size=2)
    >>> method = language.o3(problem.model, fit, capacity=3, rank=2)
    >>> after, info = method.compiled(*problem.arguments)
    >>> state = after.model_state["o3"]
    >>> int(state.served), state.detectors.member.sum(axis=1).tolist()
    (1, [2, 0, 0])
  """
  fit = as_fit(fit, fields)
  checks.count(1, capacity=capacity, rank=rank)
  checks.non_negative(orthogonality=orthogonality)
  adapter: Slot[Any] = Slot("adapter")
  state: Slot[Any] = Slot("o3")
  view = lora(rank=rank, targets=targets)

  def begin(carry, data, request, key):
    checks.columns(data, "x", "alternative")
    before = carry.variables.model_state.get(NAME)
    if before is not None:
      _check(before, request, capacity)
      return before
    factors, _ = view.split(carry.variables, data, request, key)
    room = lambda leaf: jnp.zeros((capacity, *leaf.shape), leaf.dtype)
    past = {path: room(f["a"]) for path, f in factors.items()}
    shape = (data["x"].length.shape[0], lm.config.num_layers, lm.config.width)
    empty = jax.eval_shape(
      detectors.fit,
      jax.ShapeDtypeStruct(shape, jnp.float32),
      jax.ShapeDtypeStruct(shape[:1], jnp.bool_),
    )
    first = O3(
      factors, past, jax.tree.map(room, empty), jnp.zeros((), jnp.int32)
    )
    _check(first, request, capacity)
    return first

  def objective(factors: Any, step: Step, key: jax.Array) -> Losses:
    del key
    x = step.rows["alternative"]
    on = Adapters(nested(factors), jnp.full(x.length.shape, _SCALE))
    hidden = lm.embed(step.variables, x.tokens)
    hidden = lm.blocks(step.variables, hidden, adapters=on).hidden
    scores = score_hidden(lm, step.variables, hidden, x)
    out = summed(-scores.log_prob, scores.mask)
    apart = orthogonality * overlap(factors, step[state].past)
    assert out.weight is not None
    return out._replace(value=out.value + apart * out.weight)

  def put(carry: Any, data: Any, request: Any, _: Any) -> Variables:
    before, factors = carry[state], carry[adapter]
    asked, look = request.forget, lambda x: _features(lm, carry.variables, x)
    features = map_chosen(look, data["x"], asked, chunk_size=32)
    found = detectors.fit(features, asked > 0)
    write = lambda room, leaf: room.at[before.served].set(leaf)
    past = {p: write(before.past[p], f["a"]) for p, f in factors.items()}
    every = jax.tree.map(write, before.detectors, found)
    after = O3(factors, past, every, before.served + 1)
    return guarded_by(carry.variables, NAME, after)

  draw = Draw(forget=fit.batch_size)
  return chain(
    provide(state, begin, reads="shapes"),
    provide(adapter, lambda carry, *_: carry[state].factors, reads="nothing"),
    phase(objective, fit, draw=draw, on=adapter, name="unlearn"),
    adopt(put, needs=Draw(forget=ALL), reads="rows"),
    name="o3",
  )


def o3_model(
  lm: LanguageModel,
  *,
  sharpness: Scalar = 10.0,
  floor: Scalar = 0.2,
) -> LanguageModel:
  """The model with O3 in front, where its variables come from `o3`.

  Args:
    lm: the model.
    sharpness, floor: see `detector.weight`. May be traced.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> fit = ju.Fit(optax.adam(0.1), num_steps=4, batch_size=2)
    >>> method = language.o3(problem.model, fit, rank=2)
    >>> after, info = method.compiled(*problem.arguments)
    >>> served = problem._replace(model=language.o3_model(problem.model))
    >>> forgotten, _ = toy.likelihoods(served, after)
    >>> forgotten < 0.7, toy.likelihoods(served, language.bare(after))
    (True, (0.92, 0.93))
  """

  def bind(variables: Variables, state: O3, x: Text) -> jax.Array:
    """How much the adapter is on for each row, the most of all requests."""
    features = _features(lm, variables, x)
    one = lambda detector: detectors.weight(
      detector, features, sharpness=sharpness, floor=floor
    )
    every = jax.lax.map(one, state.detectors)
    served = jnp.arange(every.shape[0]) < state.served
    return jnp.where(served[:, None], every, 0).max(axis=0)

  def blocks(
    variables: Variables, state: O3, rows: Any, hidden: Any, **more: Any
  ) -> Any:
    on = Adapters(nested(state.factors), _SCALE * repeated(rows, hidden))
    return lm.blocks(variables, hidden, adapters=on, **more)

  return wrapped(lm, NAME, bind, blocks=blocks)


def _features(lm: LanguageModel, variables: Variables, x: Text) -> jax.Array:
  """[B, layers, D] of the last token of prompts, by the bare model.

  A mean over tokens, as published of an encoder, says more of the question than of
  whom it is about.
  """
  states = last_states(lm, variables, x, lm.config.num_layers)
  return states[1:].swapaxes(0, 1)


def _check(state: O3, request: Any, capacity: int) -> None:
  if checks.is_concrete(state.served) and int(state.served) >= capacity:
    raise ValueError(
      f"Expected at most capacity={capacity} requests, got another."
    )
  if checks.is_concrete(request.forget):
    rows = int((np.asarray(request.forget) > 0).sum())
    if rows < 2:
      raise ValueError(f"Expected a request of two rows or more, got {rows}.")
