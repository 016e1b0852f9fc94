"""Looking at a model on the way."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
from refusals import refused

import jaxunlearn as ju
from jaxunlearn.core.recording import alternate_with_curve

KEY = jax.random.key(0)
DATA = {"x": jnp.array([1.0, 3.0]), "label": jnp.zeros(2, jnp.int32)}
NONE = jnp.zeros(2, bool)


def rounds(times=6, evaluate=None, every=1):
  step = ju.phase(
    problems.quadratic(), optax.sgd(0.5), 1, draw=ju.Draw(retain=1), name="fit"
  )
  return alternate_with_curve(
    step, rounds=times, evaluate=evaluate, every=every
  )


def seen(variables):
  return {"value": variables.params, "is_large": variables.params > 2}


@pytest.mark.parametrize("every", [1, 2, 4])
def test_the_curve_has_the_model_after_every_so_many_rounds(every):
  start = jnp.array(0.0)
  out, info = jax.jit(rounds(6, seen, every))(start, DATA, NONE, KEY)
  plain, plain_info = rounds(6)(start, DATA, NONE, KEY)
  chex.assert_trees_all_equal(out, plain)
  assert "curve" not in plain_info
  # One step of a half towards a drawn row gives the row away.
  values, p = [], 0.0
  for loss in np.asarray(info["fit"].loss)[:, 0]:
    x = min((1.0, 3.0), key=lambda x: abs(0.5 * (p - x) ** 2 - loss))
    p += 0.5 * (x - p)
    values.append(p)
  np.testing.assert_allclose(
    info["curve"]["value"], values[every - 1 :: every], rtol=1e-6
  )
  assert info["curve"]["is_large"].dtype == jnp.bool_


def test_no_round_and_lanes_of_their_own():
  start = jnp.arange(3.0)
  out, info = rounds(0, seen)(start[0], DATA, NONE, KEY)
  assert out == start[0] and info["curve"]["value"].shape == (0,)
  method = rounds(4, seen, 2)
  many = jax.vmap(lambda v: method(v, DATA, NONE, KEY))
  out, info = many(start)
  for i in range(3):
    one, one_info = method(start[i], DATA, NONE, KEY)
    chex.assert_trees_all_close(out[i], one)
    chex.assert_trees_all_close(
      info["curve"]["value"][i], one_info["curve"]["value"]
    )


def test_bad_counts_are_rejected():
  refused(r"every .* >= 1", rounds, evaluate=seen, every=0)
  refused(r"rounds .* >= 0", rounds, -1)
