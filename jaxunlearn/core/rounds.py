"""Transforms round after round: the same one afresh, or several in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks, keys, sampling
from jaxunlearn.core.combinators import by_name, in_turn, largest_draw
from jaxunlearn.core.phase import remember, sample_key
from jaxunlearn.core.targets import full_precision, read_target
from jaxunlearn.core.transform import Carry, Transform
from jaxunlearn.core.types import PyTree, Request, Slot, Variables

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
    return in_turn(
      going_on, carry, data, request, link_keys_now, env, plans, wanted
    )

  def gather(infos):
    cut = [jax.tree.map(lambda x, n=n: x[:n], i) for n, i in zip(turns, infos)]
    return by_name(going_on, cut)

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
