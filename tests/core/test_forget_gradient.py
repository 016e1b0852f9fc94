"""Phases that take another gradient of their forget rows."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import jaxunlearn as ju
from jaxunlearn.core import per_example
from jaxunlearn.core.combinators import by_forget_gradient

KEY = jax.random.key(0)
FIT = ju.Fit(optax.sgd(0.1), 3, 8)


def plain(value_and_grad, trained, key):
  return value_and_grad(trained)


def tripled(value_and_grad, trained, key):
  value, grads = value_and_grad(trained)
  return value, jax.tree.map(lambda g: 3 * g, grads)


def setting():
  model, data, variables = problems.trained()
  return model, data, variables, data["label"] == 1


@pytest.mark.parametrize("parts", [1, 2])
def test_the_two_parts_add_up_to_the_plain_step(parts):
  model, data, variables, mask = setting()
  method = ju.methods.neggrad_plus(
    model, FIT._replace(microbatches=parts), retain_share=0.7
  )
  wanted, info = method.compiled(variables, data, mask, KEY)
  out, other = by_forget_gradient(method, plain).compiled(
    variables, data, mask, KEY
  )
  chex.assert_trees_all_close(out, wanted, rtol=1e-4, atol=1e-5)
  chex.assert_trees_all_close(other.loss, info.loss, rtol=1e-4, atol=1e-5)


def test_only_the_forget_term_is_changed():
  model, data, variables, mask = setting()
  one = FIT._replace(num_steps=1)
  both = ju.methods.neggrad_plus(model, one, retain_share=0.5)
  # Three times -0.5 of it beside 0.5 of the other.
  out, _ = by_forget_gradient(both, tripled).compiled(
    variables, data, mask, KEY
  )
  wanted, _ = ju.phase(
    ju.supervised(model),
    one,
    draw=ju.Draw(forget=8, retain=8),
    forget_weight=-1.5,
    retain_weight=0.5,
  )(variables, data, mask, KEY)
  chex.assert_trees_all_close(out, wanted, rtol=1e-4, atol=1e-5)
  # A phase without forget rows has none to change.
  finetune = ju.methods.finetune(model, one)
  out, _ = by_forget_gradient(finetune, tripled).compiled(
    variables, data, mask, KEY
  )
  chex.assert_trees_all_equal(out, finetune(variables, data, mask, KEY)[0])


def test_devices_share_it_and_a_host_loop_does_it():
  model, data, variables, mask = setting()
  method = by_forget_gradient(ju.methods.neggrad_plus(model, FIT), tripled)
  one, _ = method.compiled(variables, data, mask, KEY)
  many, _ = jax.pmap(
    lambda v, _: method(v, data, mask, KEY, axis_name="batch"),
    axis_name="batch",
    in_axes=(None, 0),
  )(variables, jnp.arange(8))
  chex.assert_trees_all_close(
    jax.tree.map(lambda p: p[0], many), one, rtol=1e-3, atol=1e-4
  )
  hosted, _ = ju.stream(
    method,
    variables,
    ju.core.host_batches(jax.device_get(data), np.asarray(mask)),
    KEY,
    progress=False,
  )
  chex.assert_trees_all_close(hosted, one, rtol=1e-4, atol=1e-5)


def test_a_result_of_some_rows_reads_no_others():
  x = jnp.array([1.0, jnp.nan, 3.0, 4.0, 5.0])
  chosen = jnp.array([True, False, True, False, True])
  calls = []

  def square(rows):
    jax.debug.callback(lambda r: calls.append(r.shape), rows)
    return rows**2 + 1

  for size in (1, 2, 7):
    found = per_example.map_chosen(square, x, chosen, chunk_size=size)
    np.testing.assert_array_equal(found, [2, 0, 10, 0, 26])
  calls.clear()
  jax.block_until_ready(per_example.map_chosen(square, x, chosen, chunk_size=1))
  jax.effects_barrier()
  # One more to learn the result's shape, where nothing is compiled away.
  assert len(calls) <= 4
  none = per_example.map_chosen(square, x, chosen & False, chunk_size=2)
  np.testing.assert_array_equal(none, 0)
