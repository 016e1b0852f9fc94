"""ROCR: a subject's representation is redirected, by rank-one edits of a few blocks.

Source: ROCR, with the benchmark ORT (2025), arXiv:2506.07795, and its released
code, which builds on AlphaEdit and MEMIT; the target is an unrelated subject, as in
its settings (it can be a refusal or noise there).
Class: heuristic. Model state: frozen. Data access: none of the rows; the subject's
name, as it stands in a few templates, and second moments of ordinary text.
Cost: a forward pass of the first blocks for each block edited; no gradient.

With W k what a perceptron adds, k its neurons at the last token of the name, P the
projector on directions that ordinary text does not use, K the keys k of this
subject and of earlier ones, and r the way to the target that is left to go:

    W <- W + r (P K (ridge I + K' P K)^-1 e_1)'

which is the released solution of (P K K' + ridge I) D = P k r', of the size of the
number of subjects in the place of that of the neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.links import edit
from jaxunlearn.core.per_example import sum_chunks
from jaxunlearn.core.shaped import shaped
from jaxunlearn.core.transform import Transform
from jaxunlearn.core.types import Variables
from jaxunlearn.language.subjects import Subjects
from jaxunlearn.language.types import LanguageModel, Text, check_text

Scalar = float | jax.Array


def rocr(
  lm: LanguageModel,
  projectors: jax.Array,
  layers: Sequence[int],
  *,
  ridge: Scalar = 1.0,
) -> Transform:
  """Redirects the subjects of the request's concept, one after the other.

  Args:
    lm: the model; its perceptrons' last matrices change, of `layers` alone.
    projectors: [n, M, M], see `null_projector`.
    layers: static; the blocks edited, one after the other without a gap.
    ridge: > 0; against kPk: what is reached of the way is kPk / (kPk + ridge) for
      the first subject. May be traced.

  Returns:
    A `Transform` that reads no rows: `Request(concept=Subjects(...))`. Its info is
    float32 [R, n], the share of the way that each edit goes.

  Raises:
    ValueError: layers with gaps or out of range; projectors of another shape; no
      ridge; from the call, a request without subjects.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> name, last = jnp.array([[[1, 4], [1, 4]]]), jnp.array([[1, 1]])
    >>> asked = language.Subjects(name, last, jnp.array([1, 9]), 1)
    >>> request = ju.Request(concept=asked)
    >>> everywhere = jnp.eye(12)[None]  # A projector that spares no direction.
    >>> method = language.rocr(problem.model, everywhere, [1], ridge=1e-6)
    >>> after, share = method.compiled(
    ...   *problem._replace(data=None, request=request).arguments
    ... )
    >>> logits = problem.model.model.predict(after, problem.data["x"])
    >>> logits[:3, 1].argmax(axis=1).tolist()  # It was 12, 13 and 14.
    [17, 13, 14]
  """
  layers = tuple(layers)
  if not layers or layers != tuple(range(layers[0], layers[0] + len(layers))):
    raise ValueError(f"Expected layers without a gap, got {layers}.")
  checks.count(0, layers=layers[0])
  if layers[-1] >= lm.config.num_layers:
    raise ValueError(
      f"Expected layers < {lm.config.num_layers}, got {layers[-1]}."
    )
  size, num = lm.config.mlp_width, len(layers)
  shaped(f"projectors [{num}, {size}, {size}]", projectors)
  checks.positive(ridge=ridge)

  def states(params: Any, tokens: jax.Array) -> Any:
    own = Variables(params)
    hidden = lm.embed(own, tokens)
    return lm.blocks(own, hidden, layers=layers[-1] + 1).states

  def changed(params: Any, layer: jax.Array, change: jax.Array) -> Any:
    blocks = params["blocks"]
    down = blocks["mlp"]["down"]
    kernel = down["kernel"].at[layer].add(change.astype(down["kernel"].dtype))
    mlp = {**blocks["mlp"], "down": {**down, "kernel": kernel}}
    return {**params, "blocks": {**blocks, "mlp": mlp}}

  def redirect(
    variables: Variables, data: Any, request: Any, key: jax.Array
  ) -> tuple[Variables, jax.Array]:
    del data, key
    asked = request.concept
    if not isinstance(asked, Subjects):
      raise ValueError(
        f"Expected Subjects as the concept, got {type(asked).__name__}."
      )
    asked = Subjects(*map(jnp.asarray, asked))
    goal = states(variables.params, asked.target[None]).residual
    z = goal[layers[-1], 0, asked.target_last]

    def one(carry: Any, subject: Any) -> Any:
      params, past = carry
      number, tokens, last = subject
      rows = jnp.arange(last.shape[0])

      def layer(params: Any, i: jax.Array) -> Any:
        seen = states(params, tokens)
        at = lambda values: values[rows, last].astype(jnp.float32)
        own = at(seen.inner[layers[0] + i])[1:].mean(axis=0)
        way = (z - at(seen.residual[layers[-1]])[0]) / (num - i)
        direction, share = edit_direction(projectors[i], own, past[i], ridge)
        change = direction[:, None] * way[None]
        return changed(params, layers[0] + i, change), (own, share)

      params, (keys, share) = jax.lax.scan(layer, params, jnp.arange(num))
      return (params, past.at[:, number].set(keys)), share

    count = asked.tokens.shape[0]
    start = variables.params, jnp.zeros((num, count, size))
    (params, _), shares = jax.lax.scan(
      one, start, (jnp.arange(count), asked.tokens, asked.last)
    )
    return variables._replace(params=params), shares

  return edit(redirect, reads="nothing", name="rocr")


def edit_direction(
  projector: jax.Array, own: jax.Array, past: jax.Array, ridge: Scalar
) -> tuple[jax.Array, jax.Array]:
  """u with W <- W + r u', and the share kPk / (kPk + ridge).

  Args:
    projector: [M, M].
    own: [M], the key of this subject.
    past: [R, M], keys of earlier ones, which are to stay; rows of 0 do nothing.
    ridge: > 0.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language.rocr import edit_direction
    >>> key, past = jnp.array([3.0, 0.0]), jnp.zeros((1, 2))
    >>> direction, share = edit_direction(jnp.eye(2), key, past, ridge=1.0)
    >>> [round(u, 3) for u in direction.tolist()], round(float(share), 3)
    ([0.3, 0.0], 0.9)
  """
  every = jnp.concatenate([own[None], past])
  seen = every @ projector
  gram = seen @ every.T
  first = jnp.zeros(every.shape[0]).at[0].set(1.0)
  small = jnp.linalg.solve(gram + ridge * jnp.eye(every.shape[0]), first)
  return small @ seen, gram[0, 0] / (gram[0, 0] + ridge)


def key_moments(
  lm: LanguageModel,
  variables: Variables,
  x: Text,
  layers: Sequence[int],
  *,
  chunk_size: int = 8,
) -> jax.Array:
  """Mean of k k' over all tokens of ordinary text: float32 [n, M, M].

  Example:
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()  # Perceptrons of 12 neurons.
    >>> lm, variables, x = problem.model, problem.variables, problem.data["x"]
    >>> language.key_moments(lm, variables, x, layers=[0, 1]).shape
    (2, 12, 12)
  """
  check_text(x, lm.config)
  wanted = jnp.asarray(layers)

  def add(rows: Text, weights: jax.Array) -> Any:
    hidden = lm.embed(variables, rows.tokens)
    inner = lm.blocks(variables, hidden, layers=max(layers) + 1).states.inner
    there = jnp.arange(rows.tokens.shape[1])[None] < rows.length[:, None]
    share = there * weights[:, None]
    k = inner[wanted].astype(jnp.float32)
    return jnp.einsum("nbtm,bt,nbtk->nmk", k, share, k), share.sum()

  ones = jnp.ones(x.length.shape[0])
  total, count = sum_chunks(add, x, ones, chunk_size=chunk_size)
  return total / count


def null_projector(
  moment: jax.Array,
  *,
  threshold: Scalar | None = None,
  rank: int | None = None,
  soft: bool = False,
) -> jax.Array:
  """The projector on directions that ordinary text hardly uses, [..., M, M].

  Args:
    moment: [..., M, M], see `key_moments`.
    threshold: of the eigenvalues; published: 2e-2. May be traced.
    rank: static; so many of the smallest, in its place.
    soft: static; each direction counts by threshold / (threshold + eigenvalue) in
      the place of 1 or 0. What a million tokens leave unused is nearly so; of what
      a few thousand do others use most. Not published: with a small ridge it is the
      edit of ROME, arXiv:2202.05262.

  Raises:
    ValueError: both, or neither; a rank with `soft`.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import language
    >>> moment = jnp.diag(jnp.array([2.0, 0.01, 0.5]))
    >>> found = language.null_projector(moment, threshold=0.02)
    >>> found.round().astype(int).tolist()  # The second is hardly used.
    [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
  """
  if (threshold is None) == (rank is None):
    raise ValueError("Expected threshold or rank, got both or neither.")
  if soft and threshold is None:
    raise ValueError("Expected a threshold with soft, got a rank.")
  values, vectors = jnp.linalg.eigh(moment)
  if rank is not None:
    unused = jnp.broadcast_to(jnp.arange(values.shape[-1]) < rank, values.shape)
  elif soft:
    level = jnp.asarray(threshold)
    unused = level / (level + jnp.maximum(values, 0))
  else:
    unused = values < jnp.asarray(threshold)
  return jnp.einsum(
    "...md,...d,...kd->...mk", vectors, unused.astype(vectors.dtype), vectors
  )
