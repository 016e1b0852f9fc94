"""Links without steps: edits of the weights, and what later links read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxunlearn.core import checks, per_example
from jaxunlearn.core.reduction import mask_change
from jaxunlearn.core.transform import Carry, Env, Transform
from jaxunlearn.core.types import ALL, Draw, PyTree, Request, Slot, Variables

_READS = ("rows", "shapes", "nothing")


def edit(
  fn: Callable[[Variables, PyTree, Request, jax.Array], Any],
  *,
  needs: Draw | None = None,
  reads: str = "rows",
  name: str = "edit",
) -> Transform:
  """A one-shot change of the model.

  Args:
    fn: `(variables, data, request, key) -> variables`, or `-> (variables,
      info)`.
    needs: the data that `fn` reads; nothing by default.
    reads: "rows" if what it returns depends on data or request; "shapes" if on
      the shapes of the data only; "nothing". Says where it can run: with rows
      spread over devices, or without data at hand.
    name: the key of its info in a chain.

  Returns:
    A `Transform` of no steps.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> halve = ju.edit(
    ...   lambda variables, data, request, key: variables._replace(
    ...     params=jax.tree.map(lambda p: p / 2, variables.params)),
    ...   reads="nothing")
    >>> weights = {"w": jnp.array([6.0, 8.0])}
    >>> made, _ = halve(weights, None, ju.Request(), jax.random.key(0))
    >>> made["w"].tolist()
    [3.0, 4.0]
  """
  checks.functions(fn=fn)
  checks.one_of(_READS, reads=reads)

  def run(carry, data, request, key, env):
    _check_reads(name, reads, data, env)
    before = carry.variables
    out = fn(before, data, request, key)
    info = None
    if isinstance(out, tuple) and not isinstance(out, Variables):
      out, info = out
    if not isinstance(out, Variables):
      raise ValueError(
        f"Expected the edit {name!r} to return Variables, got "
        f"{type(out).__name__}."
      )
    params = out.params
    for weight_mask in env.weight_masks:
      params = mask_change(before.params, params, weight_mask)
    return carry._replace(variables=out._replace(params=params)), info

  return _one_shot(name, run, needs, reads)


def provide(
  slot: Slot,
  fn: Callable[[Carry, PyTree, Request, jax.Array], PyTree],
  *,
  needs: Draw | None = None,
  reads: str = "rows",
) -> Transform:
  """Computes something that later links of the chain find in a slot.

  Args:
    slot: where it is left: a teacher, noise, a network.
    fn: `(carry, data, request, key) -> pytree`.
    needs: the data that `fn` reads; nothing by default.
    reads: as of `edit`.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxunlearn as ju
    >>> mean = ju.Slot("mean of the retained rows")
    >>> def find(carry, data, request, key):
    ...   return data["x"].mean(where=request.retain)
    >>> towards = ju.phase(
    ...   lambda v, step, key: (v.params - step[mean])[None] ** 2,
    ...   optax.sgd(0.5), 1)
    >>> data = {"x": jnp.array([9.0, 2.0, 4.0])}
    >>> forget = jnp.array([True, False, False])
    >>> both = ju.chain(ju.provide(mean, find), towards)
    >>> float(both(jnp.float32(0), data, forget, jax.random.key(0))[0])
    3.0
  """
  checks.one_of(_READS, reads=reads)

  def run(carry, data, request, key, env):
    _check_reads(slot.label, reads, data, env)
    return carry.put(slot, fn(carry, data, request, key)), None

  return _one_shot(slot.label, run, needs, reads)


def per_row(
  slot: Slot[jax.Array],
  fn: Callable[[Variables, PyTree], jax.Array],
  *,
  chunk_size: int = 256,
  of: str = "all",
) -> Transform:
  """Computes something of the original model once for every row.

  Its outputs, or the losses of a reference: objectives then read
  `step[slot][step.row_id]`, and need no second forward pass per step.

  Args:
    slot: where it is left, leaves [N, ...].
    fn: `(variables, rows) -> pytree`, leaves [B, ...].
    chunk_size: static; rows at a time.
    of: static; "all" rows, or those to "forget" only: the others are not read,
      cost nothing and get 0.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxunlearn as ju
    >>> before = ju.Slot("outputs before")
    >>> outputs = lambda variables, rows: variables.params * rows["x"]
    >>> def objective(variables, step, key):  # Half of what was said before.
    ...   wanted = step[before][step.row_id] / 2
    ...   return (outputs(variables, step.rows) - wanted) ** 2
    >>> halve = ju.chain(
    ...   ju.per_row(before, outputs),
    ...   ju.phase(objective, optax.sgd(0.1), 30, draw=ju.Draw(mixed=ju.ALL)))
    >>> data, forget = {"x": jnp.array([1.0, 2.0])}, jnp.array([True, False])
    >>> made, _ = halve(jnp.float32(8), data, forget, jax.random.key(0))
    >>> round(float(made), 3)
    4.0
  """
  checks.one_of(("all", "forget"), of=of)

  def compute(carry, data, request, key):
    del key
    of_rows = lambda rows: fn(carry.original, rows)
    if of == "all":
      return per_example.map_chunks(of_rows, data, chunk_size=chunk_size)
    return per_example.map_chosen(
      of_rows, data, request.forget, chunk_size=chunk_size
    )

  needs = Draw(mixed=ALL) if of == "all" else Draw(forget=ALL)
  return provide(slot, compute, needs=needs)


def adopt(
  fn: Callable[[Carry, PyTree, Request, jax.Array], Any],
  *,
  needs: Draw | None = None,
  reads: str = "nothing",
  name: str = "adopt",
) -> Transform:
  """Makes the model out of what earlier links left.

  Args:
    fn: `(carry, data, request, key) -> variables`, or `-> (variables, info)`.
    needs: the data that `fn` reads; nothing by default.
    reads: as of `edit`.
    name: the key of its info in a chain.
  """
  checks.one_of(_READS, reads=reads)

  def run(carry, data, request, key, env):
    _check_reads(name, reads, data, env)
    out, info = fn(carry, data, request, key), None
    if not isinstance(out, Variables):
      out, info = out
    params = out.params
    for weight_mask in env.weight_masks:
      params = mask_change(carry.variables.params, params, weight_mask)
    return carry._replace(variables=out._replace(params=params)), info

  return _one_shot(name, run, needs, reads)


def restore() -> Transform:
  """Goes back to the original model; slots keep what was learned meanwhile.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> spoil = ju.edit(
    ...   lambda v, *_: v._replace(params=v.params * 100), reads="nothing")
    >>> there_and_back = ju.chain(spoil, ju.core.restore())
    >>> call = jnp.float32(2), None, ju.Request(), jax.random.key(0)
    >>> float(spoil(*call)[0]), float(there_and_back(*call)[0])
    (200.0, 2.0)
  """

  def run(carry, data, request, key, env):
    return carry._replace(variables=carry.original), None

  return _one_shot("restore", run, None, "nothing")


def ema(slot: Slot[PyTree], decay: float | jax.Array) -> Transform:
  """Moves the running average of the params in a slot on by one update.

  Args:
    slot: a pytree like the params; begin it by `provide`.
    decay: in [0, 1], the share that stays. May be traced.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> from jaxunlearn.core.links import adopt
    >>> average = ju.Slot("average")
    >>> begin = ju.provide(
    ...   average, lambda carry, *_: carry.variables.params, reads="nothing")
    >>> add = ju.edit(
    ...   lambda v, *_: v._replace(params=v.params + 8), reads="nothing")
    >>> use = adopt(lambda c, *_: c.variables._replace(params=c[average]))
    >>> walk = ju.chain(begin, add, ju.core.ema(average, decay=0.75), use)
    >>> float(walk(jnp.float32(0), None, ju.Request(), jax.random.key(0))[0])
    2.0
  """
  checks.fraction(decay=decay)

  def run(carry, data, request, key, env):
    now = carry.variables.params
    average = optax.incremental_update(now, carry[slot], 1 - decay)
    return carry.put(slot, average), None

  return _one_shot("ema", run, None, "nothing")


def _one_shot(
  name: str, run: Callable[..., Any], needs: Draw | None, reads: str
) -> Transform:
  """A link of no steps."""
  draw = Draw() if needs is None else needs
  this = Transform(name, run, 0, draw, lambda key: [(this, key)], reads)
  return this


def _check_reads(name: str, reads: str, data: PyTree, env: Env) -> None:
  """Where a one-shot link has what it reads."""
  if reads == "rows" and env.axis_name is not None and env.sharded_rows:
    raise ValueError(
      f"Expected all rows on every device (sharded_rows=False) for {name!r}, "
      "which reads them at once, got rows spread over devices."
    )
  if reads != "nothing" and data is None:
    raise ValueError(
      f"Expected data for {name!r}, which reads its {reads}, got data=None."
    )
