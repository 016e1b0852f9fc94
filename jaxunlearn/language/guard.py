"""GUARD: a gate on prompts, and decoding that keeps away from the answers.

Source: GUARD (2025), arXiv:2505.13312, of which no code was found: what it leaves
open (the layer and width of the gate, how phrases are found, which vectors
are compared, all constants) is ours.
Class: a guard: it suppresses and removes nothing. The weights keep their bits and
all that they know, and the answers themselves are kept beside them, for good: no
answer to somebody who asks for his data to be deleted. Model state: gains "guard".
Data access: prompts of forget and retain rows, for the gate; answers and "phrases"
of the forget rows, also when served. Cost: a gate; when served, a pass through the
first blocks and a search among the forget rows per prompt, and two products with
the vocabulary per token and phrase.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.links import adopt
from jaxunlearn.core.tasks import Fit, FitFields, as_fit
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import ALL, Draw, Variables
from jaxunlearn.language import gate as gates
from jaxunlearn.language.automaton import avoid, both, forbid
from jaxunlearn.language.generation import Guide, generate
from jaxunlearn.language.phrases import sentence_vectors, token_vectors
from jaxunlearn.language.serving import guarded_by, wrapped
from jaxunlearn.language.types import Generated, LanguageModel, Text, bound

Scalar = float | jax.Array
NAME = "guard"
INDEX = ("answer", "prompt", "both")


class Guard(NamedTuple):
  """What stands in front of the model.

  Attributes:
    gate: see `gate.Gate`.
    threshold: [], above which a prompt is flagged.
    vectors: float [I, N, D], by which a row is found; 0 of other rows.
    forget: bool [N].
    phrases: int32 [N, P, K], what must not be said of each row, padded by -1.
    penalty: [], nats, of what comes near a phrase.
    similarity: [], the cosine from which on it does.
  """

  gate: gates.Gate
  threshold: jax.Array
  vectors: jax.Array
  forget: jax.Array
  phrases: jax.Array
  penalty: jax.Array
  similarity: jax.Array


def guard(
  lm: LanguageModel,
  fit: Fit | None = None,
  *,
  penalty: Scalar = 10.0,
  similarity: Scalar = 0.8,
  threshold: Scalar = 0.5,
  index: str = "both",
  layer: int = 0,
  width: int | None = None,
  **fields: Unpack[FitFields],
) -> Transform:
  """Trains a gate and keeps what must not be said; serve it by `guard_model`.

  Args:
    lm: the model; its data has a column "phrases", see `phrases.telling`.
    fit: of the gate; each step takes `batch_size` prompts of either kind.
    penalty: >= 0, nats, of what comes near a phrase. May be traced.
    similarity: cosine from which on it does; above 1 nothing. May be traced.
    threshold: in [0, 1]. May be traced.
    index: static; whether rows are found by their "answer", as published, by
      their "prompt" or by "both".
    layer: static; see `gate.pooled`. Ours in the text: the middle block.
    width: static; hidden units of the gate, None for a logistic regression.
    **fields: the fields of `Fit` by keyword.

  Returns:
    A `Transform`; params come back as they were. Info as of `eco`.

  Raises:
    ValueError: a number out of its range, another index; from the call, data
      without "phrases".

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> answers = problem.data["x"].tokens[:, 2:]  # Each is a phrase of two.
    >>> problem.data["phrases"] = answers[:, None]
    >>> fit = ju.Fit(optax.adam(0.3), num_steps=20, batch_size=4)
    >>> method = language.guard(problem.model, fit)
    >>> after, info = method(*problem.arguments)
    >>> {kind: float(share) for kind, share in info["flagged"].items()}
    {'forget': 1.0, 'retain': 0.0}
  """
  fit = as_fit(fit, fields)
  checks.non_negative(penalty=penalty)
  checks.fraction(threshold=threshold)
  checks.one_of(INDEX, index=index)
  gate, features = gates.slots()

  def put(carry: Any, data: Any, request: Any, key: Any) -> Any:
    del key
    checks.columns(data, "x", "phrases")
    x, asked = data["x"], request.forget > 0
    place = jnp.arange(x.tokens.shape[1])[None]
    answer = (place >= x.prompt[:, None]) & (place < x.length[:, None])
    kinds = {"answer": [answer], "prompt": [place < x.prompt[:, None]]}
    masks = kinds.get(index) or [*kinds["answer"], *kinds["prompt"]]
    vectors = token_vectors(lm, carry.variables)
    found = jnp.stack(
      [sentence_vectors(vectors, x.tokens, mask) for mask in masks]
    )
    state = Guard(
      carry[gate],
      jnp.asarray(threshold, jnp.float32),
      jnp.where(asked[None, :, None], found, 0),
      asked,
      jnp.where(asked[:, None, None], data["phrases"], -1).astype(jnp.int32),
      jnp.asarray(penalty, jnp.float32),
      jnp.asarray(similarity, jnp.float32),
    )
    p = gates.probability(state.gate, carry[features])
    flagged = gates.shares(p > state.threshold, request)
    return guarded_by(carry.variables, NAME, state), flagged

  return chain(
    gates.learn(lm, fit, gate, features, layer=layer, width=width),
    adopt(put, needs=Draw(forget=ALL), reads="rows", name="flagged"),
    name="guard",
  )


def guard_model(
  lm: LanguageModel,
  *,
  stop: Any = (),
  layer: int = 0,
  span: int = 3,
) -> LanguageModel:
  """The model with GUARD in front, where its variables come from `guard`.

  `generate` of it says no phrase of the row that a flagged prompt is nearest to;
  its `token_scores` are of the probabilities that are left. Prompts that are not
  flagged have the bits of the bare model.

  Args:
    lm: the model.
    stop: token or tokens that end a text, which are never forbidden.
    layer: static; as given to `guard`.
    span: static; tokens that are held against phrases together.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> answers = problem.data["x"].tokens[:, 2:]  # Each is a phrase of two.
    >>> problem.data["phrases"] = answers[:, None]
    >>> fit = ju.Fit(optax.adam(0.3), num_steps=20, batch_size=4)
    >>> method = language.guard(problem.model, fit)
    >>> after, info = method(*problem.arguments)
    >>> served = problem._replace(model=language.guard_model(problem.model))
    >>> toy.likelihoods(served, after)  # It was 0.92 and 0.93.
    (0.44, 0.93)
  """
  stops = jnp.asarray(stop, jnp.int32).reshape(-1)
  checks.labels(stops, lm.config.vocab_size, "stop")

  def bind(variables: Variables, state: Guard, x: Text) -> dict[str, jax.Array]:
    p = gates.probability(state.gate, gates.pooled(lm, variables, x, layer))
    asked = jnp.arange(x.tokens.shape[1])[None] < x.prompt[:, None]
    own = sentence_vectors(token_vectors(lm, variables), x.tokens, asked)
    near = jnp.einsum("ind,bd->bin", state.vectors, own).max(axis=1)
    nearest = jnp.where(state.forget[None], near, -jnp.inf).argmax(axis=-1)
    return {"flagged": p > state.threshold, "phrases": state.phrases[nearest]}

  def guide(variables: Variables, state: Guard, rows: Any) -> Guide:
    phrases, flagged = rows["phrases"], rows["flagged"]
    near = avoid(
      phrases,
      token_vectors(lm, variables),
      penalty=state.penalty,
      similarity=state.similarity,
      span=span,
      rows=flagged,
    )
    said = forbid(phrases, lm.config.vocab_size, flagged)
    return both(said, near, stops)

  return wrapped(lm, NAME, bind, guide=guide)


def search(
  lm: LanguageModel, variables: Variables, x: Text, key: jax.Array, **more: Any
) -> Generated:
  """`generate` with beams for flagged prompts, and plainly for the others.

  Args:
    lm: from `guard_model`.
    variables: with a guard.
    x, key: see `generate`.
    **more: its other arguments; `beams`, 4 by default.

  Example:
    >>> import jax
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> from jaxunlearn.language.guard import search
    >>> problem = toy.decoder()
    >>> answers = problem.data["x"].tokens[:, 2:]  # Each is a phrase of two.
    >>> problem.data["phrases"] = answers[:, None]
    >>> fit = ju.Fit(optax.adam(0.3), num_steps=20, batch_size=4)
    >>> method = language.guard(problem.model, fit)
    >>> after, info = method(*problem.arguments)
    >>> lm = language.guard_model(problem.model)
    >>> say = jax.jit(lambda v, x, k: search(lm, v, x, k, beams=2, max_new=2))
    >>> said = say(after, problem.data["x"], problem.key)
    >>> (said.tokens == answers).all(axis=1).tolist()
    [False, False, True, True, True, True, True, True]
  """
  beams = more.pop("beams", 4)
  rows = bound(lm, variables, x).model_state["rows"][NAME]
  wide = generate(lm, variables, x, key, beams=beams, **more)
  plain = generate(lm, variables, x, key, **more)
  flagged = lambda leaf: rows["flagged"].reshape(-1, *[1] * (leaf.ndim - 1))
  return jax.tree.map(lambda a, b: jnp.where(flagged(a), a, b), wide, plain)
