"""Transforms out of transforms: chains, masks, other gradients, further terms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks, keys
from jaxunlearn.core.transform import Carry, Env, ForgetGradient, Transform
from jaxunlearn.core.trees import check_weight_mask
from jaxunlearn.core.types import ALL, Draw, PyTree


def chain(*links: Transform, name: str = "chain") -> Transform:
  """One transform after the other.

  Args:
    *links: what to run, in order. What a link provides, later ones see.
    name: the key of its info in an outer chain.

  Returns:
    A `Transform` whose info is a dict from link name to the link's info; links
    without info are left out, a name that comes again gets a number.

  Raises:
    ValueError: a link that is no `Transform`.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> def edit(fn):
    ...   change = lambda v, *_: v._replace(params=fn(v.params))
    ...   return ju.edit(change, reads="nothing")
    >>> add, double = edit(lambda x: x + 1), edit(lambda x: 2 * x)
    >>> start, key = jnp.float32(1), jax.random.key(0)
    >>> float(ju.chain(add, double)(start, None, ju.Request(), key)[0])
    4.0
    >>> float(ju.chain(double, add)(start, None, ju.Request(), key)[0])
    3.0
  """
  checks.transforms(links)

  def run(carry, data, request, key, env):
    link_keys = jax.random.split(key, len(links))
    carry, infos = in_turn(links, carry, data, request, link_keys, env)
    return carry, by_name(links, infos)

  def expand(key):
    link_keys = jax.random.split(key, len(links))
    return [
      pair for link, k in zip(links, link_keys) for pair in link.expand(k)
    ]

  steps = sum(link.num_steps for link in links)
  return Transform(
    name, run, steps, largest_draw(link.needs for link in links), expand
  )


def in_turn(
  links, carry, data, request, link_keys, env, plans=None, wanted=None
):
  """The links one after the other, and the infos of each.

  Args:
    plans: what the phases among them draw by; none makes their own.
    wanted: of each link None, or a bool [], whether it runs at all.
  """
  none = [None] * len(links)
  infos = []
  for link, link_key, plan, is_on in zip(
    links, link_keys, plans or none, wanted or none
  ):

    def turn(carry, link=link, link_key=link_key, plan=plan):
      if plan is None:
        return link.run(carry, data, request, link_key, env)
      state = link.init(carry, link_key, env)
      state, info = link.walk(state, data, request, link_key, env, plan)
      return link.finish(state), info

    carry, info = turn(carry) if is_on is None else _if(is_on, turn, carry)
    infos.append(info)
  return carry, infos


def _if(is_on: jax.Array, turn: Callable[..., Any], carry: Carry):
  """What the turn gives; or the carry as it is, and zeros for its info."""

  def run():
    after, info = turn(carry)
    return (after.variables, after.slots), info

  shapes = jax.eval_shape(run)[1]

  def skip():
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return (carry.variables, carry.slots), zeros

  (variables, slots), info = jax.lax.cond(is_on, run, skip)
  return Carry(variables, carry.original, slots), info


def by_name(links, infos) -> dict[str, Any]:
  """The infos that there are; a name that comes again gets a number."""
  named: dict[str, Any] = {}
  for link, info in zip(links, infos):
    if info is not None:
      name, number = link.name, 1
      while name in named:
        number += 1
        name = f"{link.name}_{number}"
      named[name] = info
  return named


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
      request, key) -> pytree`, called once on the original model.
    needs: the data that such a function reads.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxunlearn as ju
    >>> descend = ju.phase(
    ...   lambda v, step, key: v.params["a"] + v.params["b"], optax.sgd(0.5), 3)
    >>> some = ju.masked(descend, {"a": True, "b": False})
    >>> start = {"a": jnp.ones(1), "b": jnp.ones(1)}
    >>> made, _ = some(start, None, ju.Request(), jax.random.key(0))
    >>> made["a"].item(), made["b"].item()  # Three steps of 0.5, and none.
    (-0.5, 1.0)
  """
  computed = callable(weight_mask)

  def inside(env: Env, mask: PyTree) -> Env:
    return env._replace(weight_masks=(*env.weight_masks, mask))

  def run(carry, data, request, key, env):
    mask = weight_mask
    if computed:
      mask_key = keys.derive(key, "mask")
      mask = weight_mask(carry.original, data, request, mask_key)
    check_weight_mask(mask, carry.original.params)
    return transform.run(carry, data, request, key, inside(env, mask))

  within = _links_within(transform, lambda env: inside(env, weight_mask))

  def expand(key):
    if computed:
      raise ValueError(
        "Expected weight_mask to be a pytree for a host loop, got a function; "
        "compute the mask first."
      )
    return within(key)

  draws = [transform.needs] if needs is None else [transform.needs, needs]
  return Transform(
    transform.name, run, transform.num_steps, largest_draw(draws), expand
  )


def by_forget_gradient(
  transform: Transform, forget_gradient: ForgetGradient
) -> Transform:
  """Lets the phases of a transform take another gradient of their forget rows.

  Sharpness-aware steps, smoothing, penalties on the gradient. Of retain and
  mixed rows, and in phases without forget rows, it stays plain. BatchNorm's
  statistics then move with the other rows only.

  Args:
    transform: any transform.
    forget_gradient: `(value_and_grad, trained, key) -> (value, gradient)`;
      `value_and_grad(trained)` is the weighted mean over the step's forget
      rows of all devices, of the same rows and randomness at each call, and its
      gradient. The key is the step's own.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxunlearn as ju
    >>> def sign(value_and_grad, trained, key):
    ...   value, gradient = value_and_grad(trained)
    ...   return value, jax.tree.map(jnp.sign, gradient)
    >>> move = ju.phase(
    ...   lambda v, step, key: v.params * step.rows["x"],
    ...   optax.sgd(0.5), 2, draw=ju.Draw(forget=ju.ALL))
    >>> data, forget = {"x": jnp.array([7.0, 9.0])}, jnp.array([True, False])
    >>> call = jnp.float32(10), data, forget, jax.random.key(0)
    >>> float(move(*call)[0])  # Two steps of 0.5 * 7.
    3.0
    >>> float(ju.by_forget_gradient(move, sign)(*call)[0])
    9.0
  """
  checks.functions(forget_gradient=forget_gradient)
  inside = lambda env: env._replace(forget_gradient=forget_gradient)
  return _seeing(transform, inside)


def with_term(
  transform: Transform,
  loss: Callable[..., Any],
  weight: float | jax.Array = 1.0,
  *,
  of: str = "forget",
) -> Transform:
  """Adds a term to what the phases of a transform minimise.

  Args:
    transform: any transform.
    loss: `(variables, step, key) -> losses` as of `phase`, of the step's rows of
      one kind; the term is their mean over all devices.
    weight: of the term; 0 leaves the transform as it is. May be traced.
    of: static; "forget" or "retain", the rows it is about. A phase that draws
      none of them has no such term.

  Example:
    >>> import jax, jax.numpy as jnp, optax
    >>> import jaxunlearn as ju
    >>> distance = lambda v, step, key: 0.5 * (v.params - step.rows["x"]) ** 2
    >>> fit = ju.phase(
    ...   distance, optax.sgd(0.5), 20, draw=ju.Draw(retain=ju.ALL))
    >>> size = lambda v, step, key: jnp.full(2, 0.5) * v.params**2
    >>> data, forget = {"x": jnp.array([7.0, 4.0])}, jnp.array([True, False])
    >>> call = jnp.float32(0), data, forget, jax.random.key(0)
    >>> round(float(fit(*call)[0]), 2)  # The mean of the retained rows.
    4.0
    >>> small = ju.core.with_term(fit, size, of="retain")
    >>> round(float(small(*call)[0]), 2)  # Halfway between that and zero.
    2.0
  """
  checks.functions(loss=loss)
  checks.one_of(("forget", "retain"), of=of)
  return _seeing(transform, lambda env: env.with_term(loss, weight, of))


def _seeing(transform: Transform, inside: Callable[[Env], Env]) -> Transform:
  """The transform with links that see another environment."""

  def run(carry, data, request, key, env):
    return transform.run(carry, data, request, key, inside(env))

  needs, expand = transform.needs, _links_within(transform, inside)
  return Transform(transform.name, run, transform.num_steps, needs, expand)


def _links_within(
  transform: Transform, inside: Callable[[Env], Env]
) -> Callable[[jax.Array], list[tuple[Transform, jax.Array]]]:
  """`transform.expand` with links that see another environment."""
  # Each link is wrapped once, so that a host loop compiles its step once.
  wrapped_links: dict[int, tuple[Transform, Transform]] = {}

  def wrap(link: Transform) -> Transform:
    def run(carry, data, request, key, env):
      return link.run(carry, data, request, key, inside(env))

    def step(state, batch, key, env):
      return link.step(state, batch, key, inside(env))

    wrapped = dataclasses.replace(
      link, run=run, step=step, expand=lambda key: [(wrapped, key)]
    )
    return wrapped

  def expand(key):
    pairs = []
    for link, link_key in transform.expand(key):
      if id(link) not in wrapped_links:
        wrapped_links[id(link)] = link, wrap(link)
      pairs.append((wrapped_links[id(link)][1], link_key))
    return pairs

  return expand


def largest_draw(draws: Iterable[Draw]) -> Draw:
  """The largest draw of each kind; `ALL` is larger than any number."""

  largest = [0, 0, 0]
  for draw in draws:
    if draw.source is not None:  # Its rows are made, not data.
      continue
    for kind, size in enumerate(draw.sizes):
      both = (largest[kind], size)
      largest[kind] = ALL if ALL in both else max(both)
  forget, retain, mixed = largest
  return Draw(forget, retain, mixed)
