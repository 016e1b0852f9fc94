"""No key is used twice where that would show."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance import worlds
from conformance.key_uses import mixed_uses

import jaxunlearn as ju
from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.core.keys import derive

ROWS = {"x": np.zeros((4, 1), np.float32)}


def drawn(steps):
  """A phase whose loss is a number drawn with the step's key."""
  return ju.phase(
    lambda variables, batch, key: jax.random.uniform(key, (1,)),
    optax.sgd(0.0),
    steps,
  )


def test_every_step_of_every_link_and_round_has_a_key_of_its_own():
  method = ju.chain(
    drawn(3),
    ju.repeat(ju.chain(drawn(2), drawn(2)), 2),
    ju.alternate(drawn(1), ju.chain(drawn(2)), rounds=2),
    drawn(1),
  )
  variables = ju.Variables({"w": jnp.zeros(1)})
  request = jnp.arange(4) < 1
  _, info = jax.jit(method)(variables, ROWS, request, jax.random.key(0))
  is_phase = lambda leaf: isinstance(leaf, ju.core.PhaseInfo)
  phases = jax.tree.leaves(info, is_leaf=is_phase)
  seen = np.concatenate([np.ravel(phase.loss) for phase in phases])
  assert len(seen) == 3 + 2 * 4 + 2 * 3 + 1
  assert len(set(seen.tolist())) == len(seen)


@pytest.mark.parametrize("name", ["fisher_forgetting", "scrub"])
def test_weights_of_one_shape_get_noise_of_their_own(name):
  """Two layers that are equal differ afterwards, although both moved."""
  world = worlds.classes()
  twin = jnp.ones((6, 6)) / 3

  def apply(params, x):
    return x @ params["a"] @ params["b"] @ params["c"]

  model = from_functions(lambda key, x: None, apply)
  last = world.variables.params["output"]["kernel"][:6]
  variables = ju.Variables({"a": twin, "b": twin, "c": last})
  if name == "scrub":
    # Of no step but the noise with which it starts.
    method = ju.methods.scrub(
      model,
      ju.Fit(optax.sgd(0.0), 1, 8),
      num_epochs=1,
      max_epochs=0,
      max_steps=1,
    )
  else:
    method = ju.methods.fisher_forgetting(
      model, num_classes=4, noise_scale=1e-2
    )
  out, _ = jax.jit(method)(
    variables, world.data, world.requests[0], jax.random.key(0)
  )
  noise = [np.ravel(out.params[layer] - twin) for layer in ("a", "b")]
  assert min(np.abs(n).max() for n in noise) > 0
  assert np.corrcoef(*noise)[0, 1] < 0.9


def _twice(k):
  return jax.random.normal(jax.random.split(k)[0]), jax.random.normal(k)


def _in_a_loop(k):
  body = lambda c, i: (c + jax.random.uniform(jax.random.fold_in(k, i)), None)
  total, _ = jax.lax.scan(body, 0.0, jnp.arange(3))
  return total + jax.random.split(k).shape[0]


def _by_name(k):
  parts = jax.random.split(derive(k, "parts"))
  return [jax.random.normal(derive(k, n)) for n in "ab"], parts


def _in_both_branches(k):
  return jax.lax.cond(
    jax.random.uniform(derive(k, "which")) < 0.5,
    jax.random.normal,
    lambda k: jax.random.uniform(derive(k, "x")),
    k,
  )


@pytest.mark.parametrize(
  ("program", "wrong"),
  [
    (_twice, 1),
    (jax.jit(_twice), 1),
    (_in_a_loop, 1),
    (_by_name, 0),
    (_in_both_branches, 0),
    (lambda k: jax.vmap(_twice)(jax.random.split(k)), 1),
  ],
)
def test_a_key_that_splits_and_draws_is_found(program, wrong):
  found = mixed_uses(jax.make_jaxpr(program)(jax.random.key(0)))
  assert len(found) == wrong
