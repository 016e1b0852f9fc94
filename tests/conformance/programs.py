"""The programs that the battery compiles, once per case and process."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from conformance.case import Case

import jaxunlearn as ju
from jaxunlearn.core.types import as_request


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
  requests = at(world.requests, jnp.array([0, 0, 1, 0]))
  keys = jnp.stack([key(0), key(0), key(0), key(5)])
  mapped = jax.jit(jax.vmap(method(case), in_axes=(None, None, 0, 0)))
  # As NumPy, of which a lane is taken without a program.
  return jax.device_get(mapped(world.variables, world.data, requests, keys))


def asked(case: Case, lane: int = 0) -> ju.Request:
  """One of the world's two requests, a bare mask as what it stands for."""
  world = case.world()
  return as_request(at(world.requests, lane), world.data)


@functools.cache
def single(case: Case):
  """The call as one program, and a list that grows when it is traced.

  Where params move the program takes a mask of weights too. With all of them free
  it must be what `lanes` computes without a mask.
  """
  world, traces = case.world(), []
  transform = method(case)  # Made here: what it closes over is kept.
  free = jax.tree.map(lambda p: np.ones(p.shape, bool), world.variables.params)

  @jax.jit
  def run(data, request, key, mask):
    traces.append(1)
    # Where `lanes` gives a bare mask, both forms are compared.
    asked = ju.masked(transform, mask) if case.moves else transform
    return asked(world.variables, data, request, key)

  def call(request, *, data=None, mask=free):
    data = world.data if data is None else data
    return jax.device_get(run(data, request, key(), mask))

  return call, traces


@functools.cache
def first(case: Case):
  """Request A, key 1, alone."""
  return single(case)[0](asked(case))


def moved(case, variables):
  """What a case moves: its params, or for some its model state."""
  return variables.params if case.moves else variables.model_state
