"""Flat forgetting: gradients of the forget term that look around the weights.

    by_forget_gradient(npo(lm, fit), sam(0.01))

Source: Fan et al. (2025), arXiv:2502.05374; SAM, Foret et al. (2020),
arXiv:2010.01412. Each is a `forget_gradient` of `by_forget_gradient`, for any method
of any room; retain rows are never smoothed. Norms are global, of the averaged
gradient of all devices, over whatever the phase trains: through a view its part.
Cost: the gradients of the forget rows that are named below, in the place of one.

Differences from the released code: there the penalties take a norm as a plain number
and so have no gradient; SAM has no guard against a gradient of 0.
Half-precision weights are moved in float32 but read in their own dtype, where a
small radius is lost.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core import checks, keys
from jaxunlearn.core.tasks import Fit, with_extra_arguments
from jaxunlearn.core.transform import ForgetGradient
from jaxunlearn.core.types import PyTree

Scalar = float | jax.Array
_TINY = 1e-12


def sam(radius: Scalar = 0.01) -> ForgetGradient:
  """The gradient at the worst weights within a radius; 2 gradients.

  Args:
    radius: rho >= 0; 0 is the plain gradient. May be traced.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import language
    >>> loss = jax.value_and_grad(lambda w: w**2)
    >>> flat = language.sam(radius=0.1)
    >>> value, gradient = flat(loss, jnp.array(3.0), jax.random.key(0))
    >>> float(value), round(float(gradient), 3)  # The slope at 3.1.
    (9.0, 6.2)
  """
  checks.non_negative(radius=radius)

  def forget_gradient(value_and_grad, trained, key):
    value, grads = value_and_grad(trained)
    _, there = value_and_grad(_moved(trained, _unit(grads), radius))
    return value, there

  return forget_gradient


def randomized_smoothing(
  sigma: Scalar = 1e-4, num_samples: int = 3
) -> ForgetGradient:
  """The mean gradient at weights with noise; num_samples gradients.

  Args:
    sigma: >= 0, of the noise, the same for all weights. May be traced.
    num_samples: static, >= 1; one after the other.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import language
    >>> loss = jax.value_and_grad(jnp.abs)
    >>> flat = language.randomized_smoothing(sigma=1.0, num_samples=200)
    >>> _, gradient = flat(loss, jnp.array(0.1), jax.random.key(0))
    >>> abs(round(float(gradient)))  # Without noise it is 1.
    0
  """
  checks.non_negative(sigma=sigma)
  checks.count(1, num_samples=num_samples)

  def forget_gradient(value_and_grad, trained, key):
    leaves, tree = jax.tree.flatten(trained)

    def add(mean: Any, sample: Any) -> tuple[Any, None]:
      sample_key, number = sample
      each = jax.random.split(sample_key, len(leaves))
      noise = [
        jax.random.normal(k, p.shape, p.dtype) for k, p in zip(each, leaves)
      ]
      noisy = _moved(trained, jax.tree.unflatten(tree, noise), sigma)
      found = value_and_grad(noisy)
      # Of equal samples the mean has their bits.
      return jax.tree.map(lambda m, x: m + (x - m) / number, mean, found), None

    drawn = jax.random.split(keys.derive(key, "smoothing"), num_samples)
    number = jnp.arange(1.0, num_samples + 1)
    zero = jnp.zeros((), jnp.result_type(*leaves))
    start = zero, jax.tree.map(jnp.zeros_like, trained)
    return jax.lax.scan(add, start, (drawn, number))[0]

  return forget_gradient


def gradient_penalty(weight: Scalar = 10.0) -> ForgetGradient:
  """Of loss + weight * |gradient|; a gradient and its derivative.

  Args:
    weight: >= 0; 0 is the plain gradient. May be traced.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import language
    >>> loss = jax.value_and_grad(lambda w: w**2)
    >>> flat = language.gradient_penalty(weight=10.0)
    >>> value, gradient = flat(loss, jnp.array(3.0), jax.random.key(0))
    >>> float(value), round(float(gradient), 3)  # 9 + 10 * 6, and 6 + 10 * 2.
    (69.0, 26.0)
  """
  checks.non_negative(weight=weight)

  def forget_gradient(value_and_grad, trained, key):
    gradient = lambda p: value_and_grad(p)[1]
    value, grads = value_and_grad(trained)
    _, along = jax.jvp(gradient, (trained,), (_unit(grads),))
    value = value + weight * optax.tree.norm(grads)
    return value, _moved(grads, along, weight)

  return forget_gradient


def curvature_penalty(
  weight: Scalar = 10.0, distance: Scalar = 0.01
) -> ForgetGradient:
  """Of loss + weight * |how the gradient changes along itself|; 2 of each.

  With v the gradient's direction, held constant, the change is that from the
  weights to weights + distance * v.

  Args:
    weight: >= 0; 0 is the plain gradient. May be traced.
    distance: mu > 0. May be traced.

  Example:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from jaxunlearn import language
    >>> loss = jax.value_and_grad(lambda w: w**3 / 6)
    >>> flat = language.curvature_penalty(weight=10.0, distance=1.0)
    >>> value, gradient = flat(loss, jnp.array(3.0), jax.random.key(0))
    >>> float(value), float(gradient)  # 4.5 + 10 * 3.5 and 4.5 + 10 * 1.
    (39.5, 14.5)
  """
  checks.non_negative(weight=weight)
  checks.positive(distance=distance)

  def forget_gradient(value_and_grad, trained, key):
    gradient = lambda p: value_and_grad(p)[1]
    value, grads = value_and_grad(trained)
    there = _moved(trained, _unit(grads), distance)
    change = optax.tree.sub(gradient(there), grads)
    along = _unit(change)
    _, far = jax.jvp(gradient, (there,), (along,))
    _, near = jax.jvp(gradient, (trained,), (along,))
    value = value + weight * optax.tree.norm(change)
    return value, _moved(grads, optax.tree.sub(far, near), weight)

  return forget_gradient


def averaged(fit: Fit, *, start: int = 100, every: int = 5) -> Fit:
  """A fit that ends at the mean of the weights along its way.

  After step `start` and every so many steps the weights are added to a mean,
  which the last step goes to; what the optimiser does until then is the same.
  For methods of one phase.

  Args:
    fit: how.
    start: static, >= 1; above num_steps nothing changes.
    every: static, >= 1.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> import optax
    >>> from jaxunlearn import language
    >>> fit = language.averaged(ju.Fit(optax.sgd(1.0), 3), start=1, every=1)
    >>> w = jnp.array(0.0)
    >>> state = fit.optimizer.init(w)
    >>> for _ in range(3):  # To 1, 2 and 3, and then to their mean.
    ...   updates, state = fit.optimizer.update(jnp.array(-1.0), state, w)
    ...   w = optax.apply_updates(w, updates)
    >>> print(round(float(w), 3))
    2.0
  """
  checks.count(1, start=start, every=every)
  inner = with_extra_arguments(fit.optimizer)

  def init(params: PyTree) -> Any:
    zeros = jax.tree.map(jnp.zeros_like, params)
    none = jnp.zeros((), jnp.int32)
    return inner.init(params), zeros, none, none

  def update(grads: PyTree, state: Any, params: PyTree, **extra: Any) -> Any:
    inside, mean, step, taken = state
    updates, inside = inner.update(grads, inside, params, **extra)
    now = optax.apply_updates(params, updates)
    step = step + 1
    is_taken = (step >= start) & ((step - start) % every == 0)
    taken = taken + is_taken
    share = jnp.where(is_taken, 1 / jnp.maximum(taken, 1), 0.0)
    mean = jax.tree.map(lambda m, p: m + share * (p - m), mean, now)
    is_last = (step == fit.num_steps) & (taken > 0)
    updates = jax.tree.map(
      lambda u, m, p: jnp.where(is_last, m - p, u), updates, mean, params
    )
    return updates, (inside, mean, step, taken)

  optimizer: Any = optax.GradientTransformationExtraArgs(init, update)
  return fit._replace(optimizer=optimizer)


def _unit(tree: PyTree) -> PyTree:
  """The tree over its global norm; 0 stays 0."""
  norm = optax.tree.norm(tree) + _TINY
  return jax.tree.map(lambda g: g / norm, tree)


def _moved(tree: PyTree, along: PyTree, far: Scalar) -> PyTree:
  return jax.tree.map(
    lambda p, d: p + jnp.asarray(far, p.dtype) * d, tree, along
  )
