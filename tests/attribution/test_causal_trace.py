"""Tracing against a loop over patches, and at its ends."""

import functools

import chex
import jax
import jax.numpy as jnp
import pytest
import small_text
from refusals import refused
from small_text import texts

from jaxunlearn.attribution import Corruption, causal_trace
from jaxunlearn.language.types import Text
from jaxunlearn.models.decoder import Edits, States

KEY = jax.random.key(0)
CLOSE = {"rtol": 1e-4, "atol": 1e-6}

TWICE = Corruption(num_draws=2)


@functools.cache
def world():
  """Prompts of three and of five tokens; subjects at places 1 and 1 to 2."""
  lm, variables = small_text.small("llama")
  tokens = texts(2, 6, 19).tokens
  x = Text(tokens, jnp.array([4, 6]), jnp.array([3, 5]))
  subject = jnp.zeros((2, 6), bool).at[:, 1].set(True).at[1, 2].set(True)
  return lm, variables, x, subject


def trace(key=KEY, **options):
  return program(**options)(world()[1], key)


@functools.cache
def program(**options):
  lm, _, x, subject = world()
  return jax.jit(lambda v, key: causal_trace(lm, v, x, subject, key, **options))


@pytest.mark.parametrize(("kind", "window"), [("mlp", 1), ("attention", 2)])
def test_patches_equal_a_loop(kind, window):
  lm, variables, x, subject = world()
  out = trace(
    kind=kind, window=window, corruption=Corruption(num_draws=3), chunk_size=7
  )
  hidden = lm.embed(variables, x.tokens)
  std = variables.params["embed"]["embedding"].std()
  noise = 3.0 * std * jax.random.normal(KEY, (3, *hidden.shape))
  states = jax.jit(lm.blocks)(variables, hidden).states

  @jax.jit
  def run(noise, where):
    edits = Edits(States(**{kind: where}), states)
    drowned = hidden + jnp.where(subject[..., None], noise, 0)
    hidden_out = lm.blocks(variables, drowned, edits=edits).hidden
    p = jax.nn.softmax(lm.logits(variables, hidden_out))
    return jnp.stack([p[0, 2, x.tokens[0, 3]], p[1, 4, x.tokens[1, 5]]])

  mean = lambda where: sum(run(noise[i], where) for i in range(3)) / 3
  nothing = jnp.zeros((3, 6), bool)
  chex.assert_trees_all_close(out.corrupt, mean(nothing), **CLOSE)
  for layer in range(3):
    low = layer - window // 2
    for place in range(6):
      where = nothing.at[max(low, 0) : low + window, place].set(True)
      found = out.restored[:, layer, place]
      chex.assert_trees_all_close(found, mean(where), **CLOSE)


def test_without_noise_all_runs_are_one():
  out = trace(corruption=Corruption(0.0, 1))
  chex.assert_trees_all_close(out.corrupt, out.clean, **CLOSE)
  chex.assert_trees_all_close(
    out.restored, jnp.broadcast_to(out.clean[:, None, None], (2, 3, 6)), **CLOSE
  )


def test_the_last_state_brings_all_back_and_what_comes_before_nothing():
  lm, variables, x, _ = world()
  out = trace(corruption=TWICE)
  p = jax.nn.softmax(jax.jit(lm.model.predict)(variables, x))
  wanted = jnp.stack([p[0, 2, x.tokens[0, 3]], p[1, 4, x.tokens[1, 5]]])
  chex.assert_trees_all_close(out.clean, wanted, **CLOSE)
  assert (abs(out.total_effect) > 1e-3).all()
  last = jnp.stack([out.restored[0, 2, 2], out.restored[1, 2, 4]])
  chex.assert_trees_all_close(last, out.clean, **CLOSE)
  effect = out.indirect_effect
  assert (abs(effect[:, :, 0]) < 1e-6).all()  # Before the subject.
  assert (abs(effect[0, :, 3:]) < 1e-6).all()  # After the prompt.
  assert (abs(effect[0, :2, 1]) > 1e-4).all()  # At the subject.


def test_chunks_change_nothing_and_the_key_does():
  one, other = (trace(corruption=TWICE, chunk_size=n) for n in (1, 18))
  chex.assert_trees_all_close(one, other, **CLOSE)
  again = trace(jax.random.key(1), corruption=TWICE, chunk_size=18)
  assert float(abs(again.corrupt - one.corrupt).max()) > 1e-4


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"kind": "head"}, "kind to be one of"),
    ({"window": 0}, "window to be a whole number >= 1"),
    (
      {"corruption": Corruption(num_draws=0)},
      "num_draws to be a whole number >= 1",
    ),
    ({"corruption": Corruption(-1.0)}, "noise >= 0"),
    ({"subject": jnp.zeros((2, 6), bool)}, "prompt to name its subject"),
    ({"subject": jnp.ones((2, 5), bool)}, r"subject bool \[2, 6\], got"),
  ],
)
def test_what_cannot_be_traced_is_refused(change, message):
  lm, variables, x, subject = world()
  given = {"subject": subject, "key": KEY, **change}
  refused(message, causal_trace, lm, variables, x, **given)
