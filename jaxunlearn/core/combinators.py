"""Transforms out of transforms: chain, repeat, masked; and one-shot edits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks, keys, sampling
from jaxunlearn.core.phase import remember, sample_key
from jaxunlearn.core.targets import full_precision, read_target
from jaxunlearn.core.transform import Carry, Env, ForgetGradient, Transform
from jaxunlearn.core.types import ALL, Draw, PyTree, Request, Slot, Variables


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
    carry, infos = _in_turn(links, carry, data, request, link_keys, env)
    return carry, _by_name(links, infos)

  def expand(key):
    link_keys = jax.random.split(key, len(links))
    return [
      pair for link, k in zip(links, link_keys) for pair in link.expand(k)
    ]

  steps = sum(link.num_steps for link in links)
  return Transform(
    name, run, steps, largest_draw(link.needs for link in links), expand
  )


def _in_turn(
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


def _by_name(links, infos) -> dict[str, Any]:
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


Choose = Callable[[Variables, PyTree, Request, jax.Array], jax.Array]


def repeat(
  transform: Transform,
  times: int,
  *,
  choose: Choose | None = None,
  name: str = "",
) -> Transform:
  """The same transform several times, each time afresh, as one `lax.scan`.

  Args:
    transform: what to repeat. What it provides for itself is dropped at the end
      of each round; slots that were filled before it are carried from round to
      round.
    times: static, >= 0.
    choose: None keeps the last round. Or `(stack, data, request, key) ->
      int32 []`, the round to go back to; `stack` holds the variables before the
      first round and after each, leaves [times + 1, ...].
    name: the key of the info in a chain; the transform's own by default.

  Returns:
    A `Transform` whose info is that of `transform` with a leading axis [times].

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> double = ju.edit(
    ...   lambda v, *_: v._replace(params=v.params * 2), reads="nothing")
    >>> start, key = jnp.float32(1), jax.random.key(0)
    >>> float(ju.repeat(double, 5)(start, None, ju.Request(), key)[0])
    32.0
    >>> choose = lambda stack, *_: jnp.abs(stack.params - 9).argmin()
    >>> nearest = ju.repeat(double, 5, choose=choose)  # Of 1, 2, 4, ... to 9.
    >>> float(nearest(start, None, ju.Request(), key)[0])
    8.0
  """
  checks.transforms((transform,))
  checks.count(0, times=times)

  def one(carry, data, request, round_key, env, prepared):
    del prepared
    return transform.run(carry, data, request, round_key, env)

  return _rounds(
    one,
    lambda key: jax.random.split(key, times),
    transform.expand,
    times,
    times * transform.num_steps,
    transform.needs,
    choose,
    name or transform.name,
  )


def alternate(
  *links: Transform,
  rounds: int,
  turns: Sequence[int] | None = None,
  choose: Choose | None = None,
  name: str = "alternate",
) -> Transform:
  """Links in turn, round after round: two networks that learn from each other.

  A phase among the links goes on where it was: its optimiser's state, its place
  in the rows that it draws, its count of steps and the float32 copies of what it
  trains in half precision live on from round to round, so that rows are drawn
  without replacement across rounds and small steps add up. Any other transform,
  a `chain` around a phase too, starts afresh each round. Phases wrapped by
  `remember` with one slot share an optimiser.

  Args:
    *links: phases and other transforms.
    rounds: static, >= 0.
    turns: static; in how many rounds each link runs, the first ones. All do in
      all of them by default. Compiles less than a second loop for the rest.
    choose: see `repeat`.
    name: the key of the info in an outer chain.

  Returns:
    A `Transform` whose info is that of `chain(*links)`, leaves [rounds, ...], or
    [turns, ...] of a link that has fewer.

  Raises:
    ValueError: turns beyond the rounds, or not one number for each link.

  Example:
    >>> import jax, jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> def edit(fn):
    ...   change = lambda v, *_: v._replace(params=fn(v.params))
    ...   return ju.edit(change, reads="nothing")
    >>> add, double = edit(lambda x: x + 1), edit(lambda x: 2 * x)
    >>> turns = ju.alternate(add, double, rounds=3)
    >>> start, key = jnp.float32(1), jax.random.key(0)
    >>> float(turns(start, None, ju.Request(), key)[0])  # 4, 10, 22.
    22.0
  """
  checks.transforms(links)
  checks.count(0, rounds=rounds)
  turns = (rounds,) * len(links) if turns is None else tuple(turns)
  if len(turns) != len(links) or not all(0 <= n <= rounds for n in turns):
    raise ValueError(
      f"Expected turns of {len(links)} links, each in 0 .. {rounds}, got "
      f"{turns}."
    )
  wide: dict[str | Slot, Slot[list[jax.Array]]] = {
    link.on: Slot("full precision") for link in links if link.is_phase
  }
  going_on = tuple(
    remember(
      link,
      link.memory or Slot(f"{link.name} optimizer"),
      _count(link),
      wide[link.on],
    )
    if link.is_phase
    else link
    for link in links
  )

  def link_keys(key, number):
    """Those of phases stay the same: their count of steps tells rounds apart."""
    return [
      k if link.is_phase else jax.random.fold_in(k, number)
      for link, k in zip(going_on, jax.random.split(key, len(links)))
    ]

  def prepare(carry, data, request, key, env):
    """Fills the slots that phases go on from, and plans their draws, once."""
    plans = []
    for link, link_key in zip(going_on, link_keys(key, 0)):
      plan = None
      if link.is_phase:
        state = link.init(carry, link_key, env)
        steps = carry.slots.get(link.count, jnp.zeros((), jnp.int32))
        carry = carry.put(link.memory, state.opt_state).put(link.count, steps)
        before, _ = read_target(carry, link.on)
        copies = full_precision(state.trained, before)
        carry = carry.put(wide[link.on], copies)
        if link.needs.source is None:
          k = sample_key(link_key)
          plan = sampling.make_plan(data, request, link.needs, k, env)
      plans.append(plan)
    return carry, plans

  def one(carry, data, request, round_key, env, plans):
    # A round's number belongs to no lane: under vmap a link is skipped still.
    wanted = [None if n == rounds else round_key[1] < n for n in turns]
    link_keys_now = link_keys(*round_key)
    return _in_turn(
      going_on, carry, data, request, link_keys_now, env, plans, wanted
    )

  def gather(infos):
    cut = [jax.tree.map(lambda x, n=n: x[:n], i) for n, i in zip(turns, infos)]
    return _by_name(going_on, cut)

  def expand(round_key):
    key, number = round_key
    found = zip(going_on, link_keys(key, number), turns)
    return [p for link, k, n in found if number < n for p in link.expand(k)]

  return _rounds(
    one,
    lambda key: (jnp.broadcast_to(key, (rounds,)), jnp.arange(rounds)),
    expand,
    rounds,
    sum(n * link.num_steps for n, link in zip(turns, links)),
    largest_draw(link.needs for link in links),
    choose,
    name,
    prepare,
    gather,
  )


def _count(link: Transform) -> Slot[jax.Array]:
  return link.count or Slot(f"{link.name} steps")


def _rounds(
  one,
  round_keys,
  expand_one,
  times,
  steps,
  needs,
  choose,
  name,
  prepare=None,
  gather=lambda info: info,
) -> Transform:
  """`times` rounds of `one` as a scan over what `round_keys` gives them."""

  def run(carry, data, request, key, env):
    prepared = None
    if prepare is not None:
      carry, prepared = prepare(carry, data, request, key, env)
    original, outer = carry.original, carry.slots

    def body(moving, round_key):
      variables, slots = moving
      inner = Carry(variables, original, {**outer, **slots})
      inner, info = one(inner, data, request, round_key, env, prepared)
      kept = inner.variables if choose is not None else None
      return (inner.variables, {k: inner.slots[k] for k in outer}), (info, kept)

    (variables, slots), (info, kept) = jax.lax.scan(
      body, (carry.variables, dict(outer)), round_keys(key), length=times
    )
    if choose is not None:
      stack = jax.tree.map(
        lambda first, rest: jnp.concatenate([first[None], rest]),
        carry.variables,
        kept,
      )
      best = choose(stack, data, request, keys.derive(key, "choose"))
      variables = jax.tree.map(lambda leaf: leaf[best], stack)
    return Carry(variables, original, slots), gather(info)

  def expand(key):
    if choose is not None:
      raise ValueError("Expected no choice among rounds in a host loop.")
    each = round_keys(key)
    rounds = [
      jax.tree.map(lambda leaf, i=i: leaf[i], each) for i in range(times)
    ]
    return [pair for round_key in rounds for pair in expand_one(round_key)]

  return Transform(name, run, steps, needs, expand)


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
    checks.weight_mask(mask, carry.original.params)
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
