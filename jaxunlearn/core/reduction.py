"""A step's losses as one number, over parts of a batch and over devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxunlearn.core.keys import derive
from jaxunlearn.core.sharding import is_spread
from jaxunlearn.core.transform import Env, Term
from jaxunlearn.core.types import ALL, Draw, Losses, PyTree, Step

_SMALL = 2**14  # Numbers in a leaf; smaller ones are looked at together.


def over_devices(counts: list[jax.Array], env: Env) -> list[jax.Array]:
  """The sums of all devices that share a batch."""
  if env.axis_name is None:
    return counts
  return jax.lax.psum(counts, env.axis_name)


def bounds_of(draw: Draw, length: int, env: Env) -> list[tuple[int, int]]:
  """Where each kind of rows begins and ends in this device's batch."""
  devices = 1 if env.axis_name is None else jax.lax.axis_size(env.axis_name)
  # A device holds its share of each mini-batch, and every row of an `ALL`.
  shares = [0 if size == ALL else size // devices for size in draw.sizes]
  rest = length - sum(shares)
  if rest and ALL not in draw.sizes:
    raise ValueError(
      f"Expected a batch of the {sum(shares)} rows that a step draws, got "
      f"{length}."
    )
  every = rest // max(draw.sizes.count(ALL), 1)
  ends, end = [], 0
  for size, share in zip(draw.sizes, shares):
    start, end = end, end + (every if size == ALL else share)
    ends.append((start, end))
  return ends


def sums_of(
  out: Losses, weight: jax.Array, draw: Draw, env: Env
) -> tuple[list[jax.Array], list[jax.Array]]:
  """This device's sums of values, and of weights, over each kind of rows."""
  losses = out.value
  losses = losses.astype(jnp.promote_types(jnp.float32, losses.dtype))
  each = jnp.ones_like(losses) if out.weight is None else out.weight
  each = each.astype(losses.dtype)
  nothing = jnp.zeros((), losses.dtype)
  if draw.sizes == (0, 0, 0):
    return [nothing, nothing, losses.sum()], [nothing, nothing, each.sum()]
  if losses.shape != weight.shape:
    raise ValueError(
      "Expected the objective to return one loss for each of the "
      f"{weight.size} drawn rows, got shape {losses.shape}."
    )
  w = weight.astype(losses.dtype) * each
  sums = jnp.where(w > 0, weight.astype(losses.dtype) * losses, 0.0)
  bounds = bounds_of(draw, weight.size, env)
  return [sums[a:b].sum() for a, b in bounds], [w[a:b].sum() for a, b in bounds]


def term_sums(
  terms: Sequence[Term], variables: PyTree, step: Step, key: jax.Array
) -> tuple[list[jax.Array], list[jax.Array]]:
  """This device's sums of each further term, and of its weights."""
  first, second, _ = step.sizes or (0, 0, 0)
  bounds = {"forget": (0, first), "retain": (first, first + second)}
  found = []
  for i, term in enumerate(terms):
    start, stop = bounds[term.of]
    if start == stop:
      found.append((jnp.zeros(()), jnp.zeros(())))
      continue
    seen = step.cut(start, stop)
    out = term.loss(variables, seen, derive(key, f"term {i}"))
    out = out if isinstance(out, Losses) else Losses(out)
    both = sums_of(out, seen.weight, Draw(mixed=stop - start), Env())
    found.append((both[0][2], both[1][2]))
  return [value for value, _ in found], [count for _, count in found]


def split_rows(
  batch: Step, draw: Draw, parts: int, env: Env
) -> tuple[PyTree, ...]:
  """The batch's fields in `parts` parts with the same share of each kind."""

  def split(leaf: jax.Array) -> jax.Array:
    pieces = [
      leaf[a:b].reshape(parts, (b - a) // parts, *leaf.shape[1:])
      for a, b in bounds_of(draw, leaf.shape[0], env)
    ]
    return jnp.concatenate(pieces, axis=1)

  # Rows and what belongs to each; the rest is the same for all parts.
  parted = [batch.rows, batch.weight, batch.forget, batch.row_id]
  return jax.tree.map(split, (*parted, batch.place, batch.epoch))


def add_up(
  grad_fn: Callable[..., Any],
  count: Callable[[PyTree], list[jax.Array]],
  at: tuple[PyTree, PyTree],
  split: PyTree,
  env: Env,
) -> tuple[tuple[jax.Array, PyTree], PyTree]:
  """Loss, model state and gradient of a batch, one of its parts at a time.

  Args:
    grad_fn: `(model_state, part, counts) -> ((loss, model_state), gradient)`.
    count: the weights of each kind of rows in a part.
    at: what is trained, and the model state.
    split: the parts, leaves [parts, ...].
    env: devices that share the batch.
  """
  trained, model_state = at
  # Of this pass only the weights are used; the compiler drops the rest.
  counts = over_devices([n.sum() for n in jax.lax.map(count, split)], env)

  def add(so_far: Any, part: PyTree) -> tuple[Any, None]:
    loss, grads, model_state = so_far
    (more, model_state), new = grad_fn(model_state, part, counts)
    return (loss + more, optax.tree.add(grads, new), model_state), None

  zeros = jax.tree.map(jnp.zeros_like, trained)
  start = (jnp.zeros_like(counts[0]), zeros, model_state)
  (loss, grads, model_state), _ = jax.lax.scan(add, start, split)
  return (loss, model_state), grads


def averaged(
  found: tuple[jax.Array, PyTree, PyTree], env: Env
) -> tuple[jax.Array, PyTree, PyTree]:
  """Loss, gradient and model state of all devices that share a batch."""
  if env.axis_name is None:
    return found
  loss, grads = jax.lax.psum(found[:2], env.axis_name)
  model_state = jax.tree.map(
    lambda s: (
      jax.lax.pmean(s, env.axis_name)
      if jnp.issubdtype(s.dtype, jnp.inexact)
      else s
    ),
    found[2],
  )
  return loss, grads, model_state


def mask_updates(updates: PyTree, weight_mask: PyTree) -> PyTree:
  """Scales updates entry by entry; `weight_mask` may be a tree prefix."""
  return jax.tree.map(
    lambda mask, subtree: jax.tree.map(
      lambda u: jnp.where(mask != 0, u * jnp.asarray(mask, u.dtype), 0),
      subtree,
    ),
    weight_mask,
    updates,
  )


def mask_change(before: PyTree, after: PyTree, weight_mask: PyTree) -> PyTree:
  """Takes `after` where the mask is one, `before`, bit for bit, where zero."""

  def mix(mask, old, new):
    mask = jnp.asarray(mask)
    between = old + jnp.asarray(mask, old.dtype) * (new - old)
    return jnp.where(mask == 0, old, jnp.where(mask == 1, new, between))

  return jax.tree.map(
    lambda mask, old, new: jax.tree.map(lambda o, n: mix(mask, o, n), old, new),
    weight_mask,
    before,
    after,
  )


def all_finite(tree: PyTree) -> jax.Array:
  """Whether every float entry of a pytree is finite; bool []."""
  leaves = jax.tree.leaves(tree)
  floats = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.inexact)]
  found = [jnp.isfinite(group).all() for group in _few(floats)]
  return jnp.stack(found).all() if found else jnp.array(True)


def _few(leaves: Sequence[jax.Array]) -> list[jax.Array]:
  """The leaves, small ones of a dtype in one array: fewer kernels to compile.

  On a mesh they stay apart, where putting them together would gather them.
  """
  if is_spread():
    return list(leaves)
  groups = [leaf for leaf in leaves if leaf.size >= _SMALL]
  small = [leaf for leaf in leaves if leaf.size < _SMALL]
  for dtype in dict.fromkeys(leaf.dtype for leaf in small):
    same = [leaf.reshape(-1) for leaf in small if leaf.dtype == dtype]
    groups.append(jnp.concatenate(same))
  return groups


def vary(tree: PyTree, env: Env) -> PyTree:
  """Marks replicated params as varying over the axis.

  `shard_map` would otherwise add up their gradient over devices by itself,
  before the explicit `psum`.
  """
  if env.axis_name is None:
    return tree

  def mark(leaf: jax.Array) -> jax.Array:
    try:
      return jax.lax.pcast(leaf, env.axis_name, to="varying")
    except ValueError:  # It varies already.
      return leaf

  return jax.tree.map(mark, tree)


def share_moved(before: PyTree, after: PyTree) -> jax.Array:
  """The share of the numbers that differ."""
  pairs = zip(_few(jax.tree.leaves(after)), _few(jax.tree.leaves(before)))
  changed = [(a != b).sum() for a, b in pairs]
  size = sum(leaf.size for leaf in jax.tree.leaves(before))
  total = sum(changed, start=jnp.zeros((), jnp.int32))
  return total / jnp.float32(max(size, 1))
