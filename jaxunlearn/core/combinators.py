"""Transforms out of transforms: chain, repeat, masked; and one-shot edits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.phase import mask_change
from jaxunlearn.core.types import (
  ALL,
  Carry,
  Draw,
  Env,
  PyTree,
  Transform,
  Variables,
)

_READS = ("rows", "shapes", "nothing")


def edit(
  fn: Callable[[Variables, PyTree, jax.Array, jax.Array], Any],
  *,
  needs: Draw | None = None,
  reads: str = "rows",
  name: str = "edit",
) -> Transform:
  """A one-shot change of the model.

  Args:
    fn: `(variables, data, forget_mask, key) -> variables`, or `-> (variables,
      info)`.
    needs: the data that `fn` reads; nothing by default.
    reads: "rows" if what it returns depends on data or request; "shapes" if on
      the shapes of the data only; "nothing". Says where it can run: with rows
      spread over devices, or without data at hand.
    name: the key of its info in a chain.

  Returns:
    A `Transform` of no steps.
  """
  checks.one_of(_READS, reads=reads)

  def run(carry, data, forget_mask, key, env):
    _check_reads(name, reads, data, env)
    before = carry.variables
    out = fn(before, data, forget_mask, key)
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
  name: str,
  fn: Callable[[Carry, PyTree, jax.Array, jax.Array], PyTree],
  *,
  needs: Draw | None = None,
  reads: str = "rows",
) -> Transform:
  """Computes something that later links of the chain find by name.

  Args:
    name: its name in `Context.extra`: a teacher, noise, an optimiser's state.
    fn: `(carry, data, forget_mask, key) -> pytree`.
    needs: the data that `fn` reads; nothing by default.
    reads: as of `edit`.
  """
  checks.one_of(_READS, reads=reads)

  def run(carry, data, forget_mask, key, env):
    _check_reads(name, reads, data, env)
    value = fn(carry, data, forget_mask, key)
    return carry._replace(extra={**carry.extra, name: value}), None

  return _one_shot(name, run, needs, reads)


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


def chain(*links: Transform, name: str = "chain") -> Transform:
  """One transform after the other.

  Args:
    *links: what to run, in order. What a link provides, later ones see.
    name: the key of its info in an outer chain.

  Returns:
    A `Transform` whose info is a dict from link name to the link's info; links
    without info are left out, a name that comes again gets a number.
  """
  names: list[str] = []
  for link in links:
    unique, number = link.name, 1
    while unique in names:
      number += 1
      unique = f"{link.name}_{number}"
    names.append(unique)

  def run(carry, data, forget_mask, key, env):
    infos = {}
    for link, link_name, link_key in zip(
      links, names, jax.random.split(key, len(links))
    ):
      carry, info = link.run(carry, data, forget_mask, link_key, env)
      if info is not None:
        infos[link_name] = info
    return carry, infos

  def expand(key):
    keys = jax.random.split(key, len(links))
    return [pair for link, k in zip(links, keys) for pair in link.expand(k)]

  steps = sum(link.num_steps for link in links)
  return Transform(
    name, run, steps, largest_draw(link.needs for link in links), expand
  )


def repeat(
  transform: Transform,
  times: int,
  *,
  choose: Callable[..., jax.Array] | None = None,
  name: str = "",
) -> Transform:
  """The same transform several times, as one `lax.scan`.

  Args:
    transform: what to repeat. What it provides for itself is dropped at the end
      of each round; entries that existed before it are carried from round to
      round.
    times: static, >= 0.
    choose: None keeps the last round. Or `(stack, data, forget_mask, key) ->
      int32 []`, the round to go back to; `stack` holds the variables before the
      first round and after each, leaves [times + 1, ...].
    name: the key of its info in a chain; the transform's own by default.

  Returns:
    A `Transform` whose info is that of `transform` with a leading axis [times].
  """
  checks.non_negative(times=times)

  def run(carry, data, forget_mask, key, env):
    original, outer = carry.original, carry.extra

    def body(moving, round_key):
      variables, extra = moving
      inner = Carry(variables, original, {**outer, **extra})
      inner, info = transform.run(inner, data, forget_mask, round_key, env)
      kept = inner.variables if choose is not None else None
      return (inner.variables, {k: inner.extra[k] for k in outer}), (info, kept)

    (variables, extra), (info, kept) = jax.lax.scan(
      body, (carry.variables, dict(outer)), jax.random.split(key, times)
    )
    if choose is not None:
      stack = jax.tree.map(
        lambda first, rest: jnp.concatenate([first[None], rest]),
        carry.variables,
        kept,
      )
      choose_key = jax.random.fold_in(key, times)
      best = choose(stack, data, forget_mask, choose_key)
      variables = jax.tree.map(lambda leaf: leaf[best], stack)
    return Carry(variables, original, extra), info

  def expand(key):
    if choose is not None:
      raise ValueError("Expected no choice among rounds in a host loop.")
    return [
      pair for k in jax.random.split(key, times) for pair in transform.expand(k)
    ]

  return Transform(
    name or transform.name,
    run,
    times * transform.num_steps,
    transform.needs,
    expand,
  )


def masked(
  transform: Transform,
  weight_mask: PyTree | Callable[..., PyTree],
  *,
  needs: Draw | None = None,
) -> Transform:
  """Lets a transform change only some weights.

  The mask multiplies the updates after momentum and weight decay, so a weight
  outside it keeps its bits. Model state is not masked.

  Args:
    transform: any transform.
    weight_mask: pytree like `params`, or a prefix of it, of bool or of weights
      in [0, 1], True = may change. Or a function `(variables, data,
      forget_mask, key) -> pytree`, called once on the original model.
    needs: the data that such a function reads.
  """
  computed = callable(weight_mask)

  def inside(env: Env, mask: PyTree) -> Env:
    return env._replace(weight_masks=(*env.weight_masks, mask))

  def run(carry, data, forget_mask, key, env):
    mask = weight_mask
    if computed:
      # Apart from every key that the transform itself makes of this one.
      mask_key = jax.random.fold_in(key, 0x6D61736B)
      mask = weight_mask(carry.original, data, forget_mask, mask_key)
    checks.weight_mask(mask, carry.original.params)
    return transform.run(carry, data, forget_mask, key, inside(env, mask))

  # Each link is wrapped once, so that a host loop compiles its step once.
  wrapped_links: dict[int, tuple[Transform, Transform]] = {}

  def expand(key):
    if computed:
      raise ValueError(
        "Expected weight_mask to be a pytree for a host loop, got a function; "
        "compute the mask first."
      )
    pairs = []
    for link, link_key in transform.expand(key):
      if id(link) not in wrapped_links:
        wrapped_links[id(link)] = link, masked_link(link)
      pairs.append((wrapped_links[id(link)][1], link_key))
    return pairs

  def masked_link(link: Transform) -> Transform:
    def link_run(carry, data, forget_mask, key, env):
      env = inside(env, weight_mask)
      return link.run(carry, data, forget_mask, key, env)

    def link_step(state, batch, key, env):
      return link.step(state, batch, key, inside(env, weight_mask))

    wrapped = dataclasses.replace(
      link,
      run=link_run,
      step=link_step,
      expand=lambda key: [(wrapped, key)],
    )
    return wrapped

  draws = [transform.needs] if needs is None else [transform.needs, needs]
  return Transform(
    transform.name, run, transform.num_steps, largest_draw(draws), expand
  )


def largest_draw(draws: Iterable[Draw]) -> Draw:
  """The largest draw of each kind; `ALL` is larger than any number."""

  largest = [0, 0, 0]
  for draw in draws:
    for kind, size in enumerate(draw.sizes):
      both = (largest[kind], size)
      largest[kind] = ALL if ALL in both else max(both)
  forget, retain, mixed = largest
  return Draw(forget, retain, mixed)
