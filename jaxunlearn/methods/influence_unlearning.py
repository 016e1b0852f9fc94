"""Influence unlearning: one Newton-like step from all rows to the retain set.

Source: Koh and Liang (2017), arXiv:1703.04730, as the baseline IU of Jia et al.
(2023), arXiv:2304.04934, and SalUn, arXiv:2310.12508. Those invert the Hessian by
WoodFisher, arXiv:2004.14340.
Class: heuristic (exact for least squares with the curvature and no damping). A
one-shot edit. Data access: all rows with labels. Model state: not touched,
everything in evaluation mode. Cost: two gradients over all rows, and for each
iteration of the solver a forward and a backward pass over the retain set;
"released": one gradient a sample.
Difference from the sources: their recursion is not WoodFisher's inverse (the
vector it subtracts stays a multiple of the first sample's gradient). It is here
as `variant="released"`; the default solves the damped system.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

from jaxunlearn.core import checks, per_example, sampling
from jaxunlearn.core.combinators import edit
from jaxunlearn.core.types import ALL, Draw, Model, PyTree, Transform


class InfluenceInfo(NamedTuple):
  """How well the system was solved.

  Attributes:
    residual: float32 [], |H step - v| / |v|; 0 for an empty request, nan for
      the variant "released".
  """

  residual: jax.Array


def influence_unlearning(
  model: Model,
  *,
  scale: float | jax.Array = 1.0,
  damping: float | jax.Array = 1e-3,
  max_iterations: int = 50,
  tolerance: float = 1e-5,
  chunk_size: int = 256,
  variant: str = "solve",
  num_samples: int = 1000,
) -> Transform:
  """Adds `scale * H^-1 v` to the params.

  v = gradient of the mean loss over all rows - that over the retain set, which
  at an optimum is the sum of the forget rows' gradients over the number of
  retain rows. H is the Gauss-Newton matrix of the mean retain loss (for a
  softmax the Fisher information) plus `damping` on its diagonal.

  Args:
    model: its loss must be convex in the outputs.
    scale: 1 is the step that the theory asks for; 0 changes nothing. May be
      traced.
    damping: >= 0; larger steps away less. May be traced.
    max_iterations: static; of conjugate gradients.
    tolerance: relative residual at which they stop.
    chunk_size: static; rows at a time.
    variant: "solve", or "released": the published recursion over
      `num_samples + 2` retain rows, which takes no damping.
    num_samples: static; its N. Published: 1000.

  Returns:
    A `Transform` of no steps, info `InfluenceInfo`. An empty request changes
    nothing.

  Raises:
    ValueError: damping < 0, an unknown variant, a count < 1.
  """
  checks.one_of(("solve", "released"), variant=variant)
  checks.non_negative(damping=damping)
  checks.positive(
    max_iterations=max_iterations,
    tolerance=tolerance,
    chunk_size=chunk_size,
    num_samples=num_samples,
  )

  def gradient(variables, data, weights):
    def chunk(rows, weight):
      def total(params):
        value = _losses(model, variables, params, rows)
        return jnp.where(weight > 0, weight * value, 0.0).sum()

      return jax.grad(total)(variables.params)

    return per_example.sum_chunks(chunk, data, weights, chunk_size=chunk_size)

  def apply(variables, data, forget_mask, key):
    forget = forget_mask.astype(jnp.float32)
    retain = 1.0 - forget
    forget_count, retain_count = forget.sum(), jnp.maximum(retain.sum(), 1.0)
    count = jnp.maximum(forget_count + retain.sum(), 1.0)
    share = forget_count / (count * retain_count)
    v = jax.tree.map(
      lambda f, r: f / count - share * r,
      gradient(variables, data, forget),
      gradient(variables, data, retain),
    )
    if variant == "released":
      step = _released(model, variables, data, retain, v, num_samples, key)
      residual = jnp.full((), jnp.nan)
    else:

      def product(direction):
        total = per_example.sum_chunks(
          lambda rows, weight: _curvature(
            model, variables, direction, rows, weight
          ),
          data,
          retain,
          chunk_size=chunk_size,
        )
        return jax.tree.map(
          lambda t, d: t / retain_count + damping * d, total, direction
        )

      step, _ = cg(product, v, tol=tolerance, maxiter=max_iterations)
      left = jax.tree.map(jnp.subtract, product(step), v)
      size = _norm(v)
      residual = _norm(left) / jnp.where(size > 0, size, 1.0)
    params = jax.tree.map(
      lambda p, s: p + (scale * s).astype(p.dtype), variables.params, step
    )
    return variables._replace(params=params), InfluenceInfo(residual)

  needs = Draw(forget=ALL, retain=ALL)
  return edit(apply, needs=needs, name="influence_unlearning")


def _losses(model, variables, params, rows):
  outputs = model.predict(variables._replace(params=params), rows["x"])
  return model.loss(outputs, rows)


def _curvature(model, variables, direction, rows, weight):
  """The Gauss-Newton matrix of the weighted sum of losses, times a vector."""
  direction = jax.tree.map(
    lambda d, p: d.astype(p.dtype), direction, variables.params
  )

  def outputs_of(params):
    return model.predict(variables._replace(params=params), rows["x"])

  def slope(outputs):
    def total(o):
      value = model.loss(o, rows)
      return jnp.where(weight > 0, weight * value, 0.0).sum()

    return jax.grad(total)(outputs)

  outputs, pushed = jax.jvp(outputs_of, (variables.params,), (direction,))
  _, curved = jax.jvp(slope, (outputs,), (pushed,))
  _, pull = jax.vjp(outputs_of, variables.params)
  return pull(curved)[0]


def _released(model, variables, data, retain, v, num_samples, key) -> PyTree:
  """The recursion of the published code, on retain rows in random order."""
  pool = sampling.make_pool(retain, key)
  # It stops once its index, from 0, is beyond N.
  positions = jnp.arange(num_samples + 2, dtype=jnp.uint32)
  row_id, _ = sampling.draw_rows(pool, positions)

  def sample(row):
    one = jax.tree.map(lambda leaf: leaf[row][None], data)
    loss = lambda params: _losses(model, variables, params, one)[0]
    return jax.grad(loss)(variables.params)

  def body(carry, row):
    v, u = carry
    g = sample(row)
    s = _dot(u, g)
    factor = _dot(v, g) / (num_samples + s)
    v = jax.tree.map(lambda a, b: a - factor * b, v, u)
    u = jax.tree.map(lambda b: b * (1.0 - s / (num_samples + s)), u)
    return (v, u), None

  first = jax.tree.map(lambda a, g: g.astype(a.dtype), v, sample(row_id[0]))
  return jax.lax.scan(body, (v, first), row_id[1:])[0][0]


def _dot(a: PyTree, b: PyTree) -> jax.Array:
  products = jax.tree.map(
    lambda x, y: jnp.vdot(x, y.astype(x.dtype)).astype(jnp.float32), a, b
  )
  return sum(jax.tree.leaves(products), start=jnp.zeros(()))


def _norm(a: PyTree) -> jax.Array:
  return jnp.sqrt(_dot(a, a))
