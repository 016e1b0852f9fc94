"""Rows of the deletions of exact systems."""

import functools

import jax
import jax.numpy as jnp
import problems
from conformance import worlds
from conformance.case import row
from conformance.worlds import ADAM, World, filled

import jaxunlearn as ju
from jaxunlearn import exact

FIT = ju.Fit(ADAM, 6, 8)
ORDERS = exact.sequences(3, 2)


def where():
  return exact.layout(60, 2, 3, jax.random.key(5))


def _params(system):
  """Numbers of a usual size in the place of what `fit` trains."""
  return filled(lambda key: system.fit(problems.blobs(), key).params)


@functools.cache
def sisa() -> World:
  """Two shards of three slices; requests are classes."""
  params = _params(exact.sisa(problems.mlp(), where(), FIT))
  state = {"inner": {}, "present": jnp.ones(60, bool)}
  frozen = {"key": jax.random.key_data(jax.random.key(3))}
  return worlds.classes()._replace(
    variables=ju.Variables(params, state, frozen)
  )


@functools.cache
def s3t() -> World:
  """The same with two sequences; requests are a row each."""
  model, _, base = problems.trained()
  params = _params(exact.s3t(model, base, where(), ORDERS, FIT))
  state = {
    "length": jnp.full((2, 2), 3, jnp.int32),
    "present": jnp.ones(60, bool),
  }
  frozen = {"key": jax.random.key_data(jax.random.key(3))}
  rows = jnp.arange(60)
  requests = jnp.stack([rows == 4, rows == 11])
  return worlds.classes()._replace(
    variables=ju.Variables(params, state, frozen), requests=requests
  )


EXACT = [
  row(
    sisa,
    exact.sisa_delete,
    lambda model: exact.sisa_delete(model, where(), FIT),
    reads="retain",
    keyless=True,
    soft_request=False,
  ),
  row(
    s3t,
    exact.s3t_delete,
    lambda model: exact.s3t_delete(where(), ORDERS),
    reads="nothing",
    keyless=True,
    moves=False,
    soft_request=False,
  ),
]
