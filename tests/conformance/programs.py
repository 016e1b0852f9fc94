"""The programs that the battery compiles, once per case and process."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from conformance.case import Case

import jaxunlearn as ju

HAS_REQUEST = hasattr(ju, "Request")


def key(seed=0):
  return jax.random.key(seed)


def at(tree, lane):
  return jax.tree.map(lambda leaf: leaf[lane], tree)


@functools.cache
def method(case: Case) -> ju.Transform:
  return case.build(case.world().subject)


@functools.cache
def lanes(case: Case):
  """The results for (A, 1), (A, 1), (B, 1), (A, 2), leaves [4, ...]."""
  world = case.world()
  requests = world.requests[jnp.array([0, 0, 1, 0])]
  keys = jnp.stack([key(0), key(0), key(0), key(5)])
  mapped = jax.vmap(method(case), in_axes=(None, None, 0, 0))
  return jax.jit(mapped)(world.variables, world.data, requests, keys)


@functools.cache
def single(case: Case):
  """The call as one program, and a list that grows when it is traced."""
  world, traces = case.world(), []
  transform = method(case)  # Made here: what it closes over is kept.

  @jax.jit
  def run(data, forget, retain, key):
    traces.append(1)
    # A bare mask is what `lanes` gives, so that both forms are compared.
    given = ju.Request(forget, retain, None) if HAS_REQUEST else forget
    return transform(world.variables, data, given, key)

  def call(forget, *, data=None, retain=None):
    data = world.data if data is None else data
    return run(data, forget, ~forget if retain is None else retain, key())

  return call, traces


@functools.cache
def first(case: Case):
  """Request A, key 1, alone."""
  return single(case)[0](case.world().requests[0])


def change(a, b):
  """The largest difference of a leaf, float."""
  gaps = jax.tree.map(
    lambda x, y: float(np.abs(np.asarray(x, float) - y).max(initial=0)), a, b
  )
  return max(jax.tree.leaves(gaps))


def moved(case, variables):
  """What a case moves: its params, or for some its model state."""
  return variables.params if case.moves else variables.model_state
