"""ECO: embeddings of prompts that ask for what was forgotten are corrupted.

Source: Liu et al. (2024), arXiv:2406.07933, and its released code.
Class: a guard: it suppresses and removes nothing. The weights keep their bits and
all that they know; who has them, or words a prompt as the gate does not expect,
has it all. Model state: gains "eco".
Data access: prompts of forget and retain rows, for the gate. Cost: training of a
gate of D numbers; when served, a mean of embeddings, or a pass through the first
blocks, per prompt.
Differences from the released code: the gate reads the model's own states in the
place of a RoBERTa; names are tokens that the caller marks, where it has a tagger;
the gate judges the prompt, also when an answer is given with it.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import adopt, provide
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Slot, Variables
from jaxunlearn.language import gate as gates
from jaxunlearn.language.corruption import (
  CHANGES,
  ENTRIES,
  corrupt,
  corrupted_places,
)
from jaxunlearn.language.serving import guarded_by, repeated, wrapped
from jaxunlearn.language.types import LanguageModel, Text

Scalar = float | jax.Array
NAME = "eco"


class Eco(NamedTuple):
  """What stands in front of the model.

  Attributes:
    gate: see `gate.Gate`.
    threshold: [], above which a prompt is flagged.
    dims: int32 [], entries of each embedding that are corrupted.
    strength: [], standard deviation of noise.
    noise: uint32 [..], of the key: the same prompt, the same noise.
    names: bool [V], tokens that are names; none by default.
  """

  gate: gates.Gate
  threshold: jax.Array
  dims: jax.Array
  strength: jax.Array
  noise: jax.Array
  names: jax.Array


def eco(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  dims: int | jax.Array | None = None,
  strength: Scalar = 1.0,
  threshold: Scalar = 0.99,
  names: jax.Array | None = None,
  layer: int = 0,
  width: int | None = None,
  **fields: Unpack[FitFields],
) -> Transform:
  """Trains a gate and puts it in front; serve it by `eco_model`.

  Args:
    lm: the model.
    fit: of the gate; each step takes `batch_size` prompts of either kind.
    dims: entries of an embedding that are corrupted, 0 .. D; all by default. May
      be traced.
    strength: >= 0; of noise. May be traced.
    threshold: in [0, 1]; published: .99 and above. May be traced.
    names: None, or bool [V], the tokens of which names are made; see
      `corrupted_places`.
    layer: static; see `gate.pooled`.
    width: static; hidden units of the gate, None for a logistic regression.
    **fields: the fields of `Fit` by keyword.

  Returns:
    A `Transform`; params come back as they were. Its info has "flagged", see
    `gate.shares`.

  Raises:
    ValueError: dims > D or < 0, strength < 0, a threshold outside [0, 1].

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> fit = ju.Fit(optax.adam(0.3), num_steps=20, batch_size=4)
    >>> method = language.eco(problem.model, fit, threshold=0.5)
    >>> after, info = method(*problem.arguments)
    >>> {kind: float(share) for kind, share in info["flagged"].items()}
    {'forget': 1.0, 'retain': 0.0}
  """
  fit = as_fit(fit, fields)
  size = lm.config.width
  dims = size if dims is None else dims
  checks.non_negative(dims=dims, strength=strength)
  checks.fraction(threshold=threshold)
  if checks.is_concrete(dims) and int(dims) > size:
    raise ValueError(f"Expected dims <= {size}, got dims={int(dims)}.")
  gate, features = gates.slots()
  noise: Slot[jax.Array] = Slot("noise")
  marked = jnp.zeros(lm.config.vocab_size, bool) if names is None else names
  draw = lambda carry, data, request, key: jax.random.key_data(key)

  def put(carry: Any, data: Any, request: Any, key: Any) -> Any:
    del data, key
    state = Eco(
      carry[gate],
      jnp.asarray(threshold, jnp.float32),
      jnp.asarray(dims, jnp.int32),
      jnp.asarray(strength, jnp.float32),
      carry[noise],
      jnp.asarray(marked),
    )
    p = gates.probability(carry[gate], carry[features])
    found = gates.shares(p > state.threshold, request)
    return guarded_by(carry.variables, NAME, state), found

  return chain(
    gates.learn(lm, fit, gate, features, layer=layer, width=width),
    provide(noise, draw, reads="nothing"),
    adopt(put, name="flagged"),
    name="eco",
  )


def eco_model(
  lm: LanguageModel,
  *,
  change: str = "zero",
  entries: str = "top",
  layer: int = 0,
) -> LanguageModel:
  """The model with ECO in front, where its variables come from `eco`.

  Flags are arrays: one program serves all prompts. Rows that are not flagged have
  the bits of the bare model. While generating, the prompt alone is corrupted.

  Args:
    lm: the model.
    change: static; what becomes of the entries: "zero", "flip" their sign, or
      "noise" on them.
    entries: static; the "top" ones, largest in each token's embedding; the
      "first"; or "random" ones, the same for all tokens.
    layer: static; as given to `eco`.

  Raises:
    ValueError: another change or other entries.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> names = jnp.isin(jnp.arange(28), problem.data["x"].tokens[:2, 1])
    >>> fit = ju.Fit(optax.adam(0.3), num_steps=20, batch_size=4)
    >>> method = language.eco(problem.model, fit, threshold=0.5, names=names)
    >>> after, info = method(*problem.arguments)
    >>> served = problem._replace(model=language.eco_model(problem.model))
    >>> toy.likelihoods(served, after)  # It was 0.92 and 0.93.
    (0.47, 0.93)
  """
  checks.one_of(CHANGES, change=change)
  checks.one_of(ENTRIES, entries=entries)

  def bind(variables: Variables, state: Eco, x: Text) -> dict[str, jax.Array]:
    z = gates.pooled(lm, variables, x, layer)
    p = gates.probability(state.gate, z)
    flagged = p > state.threshold
    places = corrupted_places(x, state.names)
    return {"flagged": flagged, "places": places & flagged[:, None]}

  def embed(state: Eco, rows: Any, tokens: Any, hidden: jax.Array) -> jax.Array:
    places = repeated(rows["places"], hidden)
    if hidden.shape[1] != places.shape[1]:
      return hidden  # What is said after the prompt.
    key = jax.random.wrap_key_data(state.noise)
    settings = (state.dims, state.strength, key)
    new = corrupt(hidden, *settings, change=change, entries=entries)
    return jnp.where(places[..., None], new, hidden)

  return wrapped(lm, NAME, bind, embed=embed)
