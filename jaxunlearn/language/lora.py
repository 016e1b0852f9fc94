"""Views of a model's params: low-rank adapters, and windows of blocks.

    method = through(lora(rank=8), lambda lm: npo(lm, fit), lm)

Any method runs through them, see `core.views`. Sources: Hu et al. (2021),
arXiv:2106.09685; the Fisher-weighted start FILA, Cha et al. (2024),
arXiv:2408.06621.

An adapter of a kernel W [..., in, out] is {"a" [..., in, r], "b" [..., r, out]}
under the kernel's path; the layer has W + (alpha / r) a b. Kernels of stacked
blocks have adapters stacked alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks, keys
from jaxunlearn.core.types import ALL, Draw, PyTree
from jaxunlearn.core.views import View

Scalar = float | jax.Array

LINEAR = r"blocks/(attention|mlp)/.*/kernel"


def lora(
  *, rank: int, alpha: Scalar | None = None, targets: str = LINEAR
) -> View:
  """Low-rank adapters that begin as the model itself, bit for bit.

  Args:
    rank: static, >= 1.
    alpha: of the scale alpha / rank; 2 rank by default. May be traced.
    targets: regular expression of the paths of kernels [..., in, out].

  Raises:
    ValueError: rank < 1; from the call, one above a kernel's sizes, or targets
      that match none.

  Example:
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> fit = ju.Fit(optax.adam(0.05), num_steps=2, batch_size=2)
    >>> view = language.lora(rank=2)
    >>> method = ju.through(
    ...   view, lambda lm: language.gradient_ascent(lm, fit), problem.model
    ... )
    >>> after, info = method(*problem.arguments)
    >>> toy.likelihoods(problem, after)  # It was 0.92 and 0.93.
    (0.26, 0.58)
  """
  checks.count(1, rank=rank)

  def split(variables, data, request, key):
    chosen = _kernels(variables.params, targets, rank)
    part = {path: _fresh(key, path, w, rank) for path, w in chosen.items()}
    return part, variables.params

  return View(split, joined(_scale(rank, alpha)))


def fila(
  importance: Callable[..., tuple[PyTree, PyTree]],
  *,
  rank: int,
  alpha: Scalar | None = None,
  targets: str = LINEAR,
  epsilon: float = 1e-5,
) -> View:
  """Adapters that begin where forget rows matter more than retain rows.

  With F = I_forget / (epsilon + I_retain), r_o = sqrt(sum over inputs of F) and
  the best rank-r approximation U S V of W diag(r): a b = U S V diag(1 / r), and
  the base becomes W - (alpha / r) a b, so that the model is the same up to
  rounding.

  Args:
    importance: `(variables, data, request) -> (I_forget, I_retain)`, pytrees
      like the params, >= 0.
    rank: static, >= 1.
    alpha: see `lora`.
    targets: see `lora`.
    epsilon: beside I_retain, and beside r.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> ones = jax.tree.map(jnp.ones_like, problem.variables.params)
    >>> view = language.fila(lambda *args: (ones, ones), rank=2)
    >>> part, rest = view.split(*problem.arguments)
    >>> made = problem.variables._replace(params=view.join(part, rest))
    >>> toy.likelihoods(problem, made)  # It begins as the model itself.
    (0.92, 0.93)
  """
  checks.count(1, rank=rank)
  scale = _scale(rank, alpha)
  join = joined(scale)

  def split(variables, data, request, key):
    chosen = _kernels(variables.params, targets, rank)
    forget, retain = (
      _flat(tree) for tree in importance(variables, data, request)
    )
    part = {}
    for path, w in chosen.items():
      ratio = forget[path] / (epsilon + retain[path])
      r = jnp.sqrt(ratio.sum(axis=-2))
      part[path] = weighted_factors(w, r, rank, scale, epsilon)
    minus = {p: {**f, "a": -f["a"]} for p, f in part.items()}
    return part, join(minus, variables.params)

  return View(split, join, Draw(forget=ALL, retain=ALL))


def weighted_factors(
  kernel: jax.Array, weight: jax.Array, rank: int, scale: Any, epsilon: float
) -> dict[str, jax.Array]:
  """The factors of the best approximation of kernel * weight, unweighted again.

  Args:
    kernel: [..., in, out].
    weight: [..., out], >= 0.
    rank: static.
    scale: by which the product of the factors will be multiplied.
    epsilon: beside the weight where it divides.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language.lora import weighted_factors
    >>> kernel = jnp.array([[5.0, 1.0], [5.0, 1.0]])
    >>> factors = weighted_factors(kernel, jnp.array([1.0, 4.0]), 1, 2.0, 1e-5)
    >>> (2.0 * factors["a"] @ factors["b"]).round().tolist()  # Its rank is 1.
    [[5.0, 1.0], [5.0, 1.0]]
  """
  wide = kernel.astype(jnp.float32)
  u, s, v = jnp.linalg.svd(wide * weight[..., None, :], full_matrices=False)
  root = jnp.sqrt(s[..., :rank] / scale)
  return {
    "a": u[..., :rank] * root[..., None, :],
    "b": root[..., :, None]
    * v[..., :rank, :]
    / (weight + epsilon)[..., None, :],
  }


def block_window(start: int, stop: int, targets: str = r"blocks/.*") -> View:
  """The stacked weights of blocks start .. stop - 1 alone.

  Args:
    start: static, >= 0.
    stop: static, > start, at most the number of blocks.
    targets: regular expression of the paths of leaves [layers, ...].

  Raises:
    ValueError: an empty window; from the call, one that ends after the last
      block, or targets that match none.

  Example:
    >>> from jaxunlearn import language, toy
    >>> problem = toy.decoder()
    >>> view = language.block_window(1, 2, targets=r"blocks/mlp/.*")
    >>> part, _ = view.split(*problem.arguments)
    >>> {path.split("/")[2]: leaf.shape for path, leaf in part.items()}
    {'down': (1, 12, 16), 'gate': (1, 16, 12), 'up': (1, 16, 12)}
  """
  checks.count(0, start=start)
  checks.count(start + 1, stop=stop)

  def split(variables, data, request, key):
    chosen = _matching(variables.params, targets)
    layers = min(leaf.shape[0] for leaf in chosen.values())
    if stop > layers:
      raise ValueError(f"Expected stop <= {layers}, got stop={stop}.")
    return {p: leaf[start:stop] for p, leaf in chosen.items()}, variables.params

  def join(part, rest):
    put = lambda leaf, new: leaf.at[start:stop].set(new)
    return _changed(rest, part, put)

  return View(split, join)


def joined(scale: Any) -> Callable[[PyTree, PyTree], PyTree]:
  """`(adapters, params) -> params` with the adapters merged in.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.language.lora import joined
    >>> params = {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}
    >>> a, b = jnp.array([[1.0], [0.0]]), jnp.array([[0.0, 3.0]])
    >>> made = joined(2.0)({"kernel": {"a": a, "b": b}}, params)
    >>> made["kernel"].tolist()
    [[1.0, 6.0], [0.0, 1.0]]
  """

  def put(leaf: jax.Array, factors: Mapping[str, jax.Array]) -> jax.Array:
    change = factors["a"] @ factors["b"]
    return (leaf.astype(change.dtype) + scale * change).astype(leaf.dtype)

  return lambda part, rest: _changed(rest, part, put)


def _scale(rank: int, alpha: Scalar | None) -> Any:
  if alpha is None:
    return 2.0
  checks.positive(alpha=alpha)
  return alpha / rank


def _fresh(
  key: jax.Array, path: str, kernel: jax.Array, rank: int
) -> dict[str, jax.Array]:
  *batch, inputs, outputs = kernel.shape
  shape, limit = (*batch, inputs, rank), inputs**-0.5
  noise = jax.random.uniform(
    keys.derive(key, path), shape, minval=-limit, maxval=limit
  )
  return {"a": noise, "b": jnp.zeros((*batch, rank, outputs))}


def _path(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator="/")


def _flat(params: PyTree) -> dict[str, jax.Array]:
  leaves = jax.tree_util.tree_leaves_with_path(params)
  return {_path(path): leaf for path, leaf in leaves}


def _matching(params: PyTree, targets: str) -> dict[str, jax.Array]:
  chosen = {p: w for p, w in _flat(params).items() if re.fullmatch(targets, p)}
  if not chosen:
    raise ValueError(
      f"Expected targets to match params, got {targets!r} for "
      f"{', '.join(_flat(params))}."
    )
  return chosen


def _kernels(params: PyTree, targets: str, rank: int) -> dict[str, jax.Array]:
  chosen = _matching(params, targets)
  for path, kernel in chosen.items():
    if kernel.ndim < 2 or rank > min(kernel.shape[-2:]):
      raise ValueError(
        f"Expected kernels [..., in, out] of at least rank={rank}, got {path} of "
        f"shape {kernel.shape}."
      )
  return chosen


def _changed(
  params: PyTree, part: Mapping[str, Any], put: Callable[..., jax.Array]
) -> PyTree:
  def change(path: Any, leaf: jax.Array) -> jax.Array:
    name = _path(path)
    return put(leaf, part[name]) if name in part else leaf

  return jax.tree_util.tree_map_with_path(change, params)
