"""Two gradients that disagree: what the one may keep beside the other.

Source: Yu et al. (2020), "Gradient Surgery for Multi-Task Learning",
arXiv:2001.06782, one-sided: only the gradient that unlearns is cut. The variant
"released" is what the code of DoCo (arXiv:2405.15304) computes.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.types import PyTree

_MODES = ("exact", "released")
_SCOPES = ("tensor", "global")


def gradient_surgery(
  unlearn: PyTree,
  preserve: PyTree,
  strength: float | jax.Array = 1.0,
  *,
  mode: str = "exact",
  per: str = "tensor",
) -> PyTree:
  """Takes from one gradient what fights another.

  Where <u, p> < 0 the gradient u becomes

      u - strength <u, p> / |p|^2 p

  which with strength 1 is orthogonal to p; elsewhere it stays as it is.

  Args:
    unlearn: u, a pytree of float arrays.
    preserve: p, of the same structure and shapes.
    strength: >= 0; 0 changes nothing. May be traced.
    mode: static; "exact", or "released", which divides by |u| once more: the
      same for |u| = 1, too much for shorter gradients, which then go down the
      loss of p too.
    per: static; "tensor" treats each leaf by itself, "global" all as one vector.

  Returns:
    A pytree like `unlearn`, dtypes kept. Products are summed in float32 at
    least; a p of zeros changes nothing.

  Raises:
    ValueError: other structures or shapes, an unknown mode or scope, a negative
      strength.

  Example:
    >>> gradient_surgery(jnp.array([1.0, -1.0]), jnp.array([0.0, 2.0])).tolist()
    [1.0, 0.0]
  """
  checks.one_of(_MODES, mode=mode)
  checks.non_negative(strength=strength)
  uu, up, pp = _products(unlearn, preserve, per)

  def cut(u: Any, p: Any, uu: Any, up: Any, pp: Any) -> jax.Array:
    scale = pp if mode == "exact" else pp * jnp.sqrt(uu)
    fights = (up < 0) & (scale > 0)
    share = jnp.where(fights, strength * up / jnp.where(fights, scale, 1), 0)
    wide = jnp.promote_types(jnp.float32, u.dtype)
    return (u.astype(wide) - share * p.astype(wide)).astype(u.dtype)

  return jax.tree.map(cut, unlearn, preserve, uu, up, pp)


def conflicts(
  unlearn: PyTree, preserve: PyTree, *, per: str = "tensor"
) -> PyTree:
  """Where two gradients disagree, <u, p> < 0; bool [] a leaf.

  Arguments and errors are those of `gradient_surgery`; with "global" all leaves
  say the same.

  Example:
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.diffusion import surgery
    >>> unlearn = {"a": jnp.array([1.0, -1.0]), "b": jnp.array([1.0])}
    >>> preserve = {"a": jnp.array([0.0, 2.0]), "b": jnp.array([1.0])}
    >>> found = surgery.conflicts(unlearn, preserve)
    >>> {name: bool(fights) for name, fights in found.items()}
    {'a': True, 'b': False}
  """
  _, up, _ = _products(unlearn, preserve, per)
  return jax.tree.map(lambda product: product < 0, up)


def with_gradient(
  loss: jax.Array, params: PyTree, gradient: PyTree
) -> jax.Array:
  """A loss whose gradient is a given one, for objectives that make their own.

  The objective of a phase that takes its gradients apart, cuts them and puts
  them together returns this.

  Args:
    loss: float [...], what is reported.
    params: what the phase differentiates by.
    gradient: like `params`, what it gets; for an array of losses, what it gets
      from each.

  Returns:
    `loss`, with the derivative `gradient` by `params` and by nothing else.

  Raises:
    ValueError: a gradient of another structure or other shapes.

  Source: none; a device of this library.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn.diffusion import surgery
    >>> five = jnp.array([5.0])
    >>> loss = lambda p: surgery.with_gradient((p**2).sum(), p, five)
    >>> loss, gradient = jax.value_and_grad(loss)(jnp.array([3.0]))
    >>> float(loss), gradient.tolist()
    (9.0, [5.0])
  """
  checks.same_structure(gradient, params, "gradient")
  loss, gradient = jax.lax.stop_gradient((loss, gradient))
  return _lend(params, loss, gradient)


@jax.custom_vjp
def _lend(params: PyTree, loss: jax.Array, gradient: PyTree) -> jax.Array:
  del params, gradient
  return loss


def _lend_forward(params, loss, gradient):
  return loss, (params, gradient)


def _lend_backward(kept, cotangent):
  params, gradient = kept
  total = cotangent.sum()
  lent = jax.tree.map(
    lambda p, g: (total * g.astype(total.dtype)).astype(p.dtype),
    params,
    gradient,
  )
  return lent, None, None


_lend.defvjp(_lend_forward, _lend_backward)


def _products(
  unlearn: PyTree, preserve: PyTree, per: str
) -> tuple[PyTree, PyTree, PyTree]:
  """<u, u>, <u, p> and <p, p> at every leaf."""
  checks.one_of(_SCOPES, per=per)
  checks.same_structure(preserve, unlearn, "preserve")

  def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    wide = jnp.promote_types(jnp.float32, a.dtype)
    return (a.astype(wide) * b.astype(wide)).sum()

  def products(a: PyTree, b: PyTree) -> PyTree:
    each = jax.tree.map(dot, a, b)
    if per == "tensor":
      return each
    total = sum(jax.tree.leaves(each))
    return jax.tree.map(lambda _: total, each)

  return (
    products(unlearn, unlearn),
    products(unlearn, preserve),
    products(preserve, preserve),
  )
