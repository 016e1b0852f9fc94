"""The decoder against a forward pass in NumPy, its cache, edits and switches."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_text
from refusals import refused
from small_text import CONFIGS, SIZES, texts

from jaxunlearn.core.types import Variables
from jaxunlearn.language.model import language_model
from jaxunlearn.models.decoder import (
  DecoderConfig,
  Edits,
  States,
  empty_cache,
)

EVERY = pytest.mark.parametrize("name", CONFIGS)
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


@EVERY
def test_logits_equal_those_of_numpy(name):
  lm, variables = small_text.small(name)
  x = texts(2, 9, 19)
  logits = jax.jit(lm.model.predict)(variables, x)
  assert logits.dtype == jnp.float32
  for row in range(2):
    wanted = small_text.forward(
      lm.config, variables.params, np.asarray(x.tokens[row])
    )
    np.testing.assert_allclose(logits[row], wanted, rtol=1e-4, atol=1e-4)


@EVERY
def test_a_cache_gives_what_the_whole_text_gives(name):
  """The prompt at once, padded on the right, then one token at a time."""
  lm, variables = small_text.small(name)
  tokens = texts(3, 7, 19).tokens
  prompt = jnp.array([4, 2, 3])
  there = jnp.arange(4)[None] < prompt[:, None]

  @jax.jit
  def cached(variables):
    cache = empty_cache(lm.config, 3, 7, jnp.float32)
    hidden = lm.embed(variables, jnp.where(there, tokens[:, :4], 0))
    out = lm.blocks(variables, hidden, mask=there, cache=cache)
    found = [out.hidden]
    for step in range(3):
      position = prompt + step
      new = jnp.take_along_axis(tokens, position[:, None], axis=1)
      out = lm.blocks(
        variables,
        lm.embed(variables, new),
        positions=position[:, None],
        cache=out.cache,
      )
      found.append(out.hidden)
    return jnp.concatenate(found, axis=1)

  @jax.jit
  def at_once(variables):
    return lm.blocks(variables, lm.embed(variables, tokens)).hidden

  whole, found = np.asarray(at_once(variables)), np.asarray(cached(variables))
  for row in range(3):
    n = int(prompt[row])
    chex.assert_trees_all_close(found[row, :n], whole[row, :n], **CLOSE)
    chex.assert_trees_all_close(found[row, 4:], whole[row, n : n + 3], **CLOSE)


def test_the_scan_equals_a_loop_over_layers():
  lm, variables = small_text.small("llama")
  start = hidden = lm.embed(variables, texts(2, 6, 19).tokens)
  blocks = jax.jit(lm.blocks, static_argnames="layers")
  out = blocks(variables, start)
  one = language_model(dataclasses.replace(lm.config, num_layers=1))
  run_one = jax.jit(one.blocks)
  for layer in range(3):
    weights = variables.params["blocks"]
    params = {
      **variables.params,
      "blocks": jax.tree.map(lambda w, i=layer: w[i : i + 1], weights),
    }
    hidden = run_one(Variables(params), hidden).hidden
    chex.assert_trees_all_close(out.states.residual[layer], hidden, **CLOSE)
    early = blocks(variables, start, layers=layer + 1)
    chex.assert_trees_all_close(early.hidden, hidden, **CLOSE)
  chex.assert_trees_all_equal(out.hidden, out.states.residual[-1])
  moved = out.states.residual[1] - out.states.residual[0]
  added = out.states.attention[1] + out.states.mlp[1]
  chex.assert_trees_all_close(moved, added, **CLOSE)


def test_recomputed_blocks_have_the_same_gradient():
  x = texts(2, 6, 19)

  def gradient(remat):
    config = dataclasses.replace(CONFIGS["qwen2"], remat=remat)
    lm = language_model(config)
    loss = lambda v: lm.model.loss(lm.model.predict(v, x), {"x": x}).sum()
    return jax.jit(jax.grad(loss))(small_text.filled(lm))

  plain = gradient(False)
  chex.assert_trees_all_close(gradient(True), plain, **CLOSE)
  for leaf in jax.tree.leaves(plain):
    assert float(jnp.abs(leaf).max()) > 0


@pytest.mark.parametrize("kind", States._fields)
def test_an_edit_is_put_where_it_is_said(kind):
  """Of all later states none but those that see it change."""
  lm, variables = small_text.small("llama")
  hidden = lm.embed(variables, texts(2, 6, 19).tokens)
  run = jax.jit(lambda edits: lm.blocks(variables, hidden, edits=edits))
  clean = run(None)
  where = jnp.zeros((3, 6), bool).at[1, 2].set(True)
  width = getattr(clean.states, kind).shape[-1]
  value = jax.random.normal(jax.random.key(1), (3, 6, width))
  edits = Edits(States(**{kind: where}), States(**{kind: value}))
  out = run(edits)
  found = getattr(out.states, kind)
  both = jnp.broadcast_to(value[1, 2], (2, width))
  chex.assert_trees_all_close(found[1, :, 2], both)
  before = jax.tree.map(lambda s: s[:, :, :2], (out.states, clean.states))
  chex.assert_trees_all_close(*before, **CLOSE)
  assert (abs(out.hidden - clean.hidden)[:, 3:].max(-1) > 1e-4).all()
  own = jax.tree.map(lambda s: s, clean.states)
  same = run(Edits(edits.where, States(**{kind: getattr(own, kind)})))
  chex.assert_trees_all_close(same.hidden, clean.hidden, **CLOSE)
  more = run(edits._replace(add=jnp.array(True)))
  there = getattr(more.states, kind)[1, :, 2]
  gap = there - getattr(clean.states, kind)[1, :, 2]
  chex.assert_trees_all_close(gap, both, **CLOSE)


def test_many_edits_are_one_program():
  """Rows of their own, under vmap over layers and places."""
  lm, variables = small_text.small("llama")
  hidden = lm.embed(variables, texts(2, 4, 19).tokens)
  value = jnp.ones((3, 8))

  def run(layer, place):
    where = jnp.zeros((3, 2, 4), bool).at[layer, 0, place].set(True)
    edits = Edits(States(residual=where), States(residual=value[:, None, None]))
    return lm.blocks(variables, hidden, edits=edits).hidden

  layers, places = jnp.array([0, 2, 1]), jnp.array([3, 1, 0])
  many = jax.jit(jax.vmap(run))(layers, places)
  for i in range(3):
    alone = jax.jit(run)(layers[i], places[i])
    chex.assert_trees_all_close(many[i], alone, **CLOSE)
  clean = jax.jit(lm.blocks)(variables, hidden).hidden
  chex.assert_trees_all_close(many[0, 1], clean[1], **CLOSE)


def test_half_precision_stays_half_and_logits_are_float32():
  config = dataclasses.replace(CONFIGS["llama"], dtype=jnp.bfloat16)
  lm = language_model(config)
  variables = small_text.filled(lm)
  hidden = lm.embed(variables, texts(2, 6, 19).tokens)
  out = jax.jit(lm.blocks)(variables, hidden)
  assert out.hidden.dtype == jnp.bfloat16
  logits = lm.logits(variables, out.hidden)
  assert logits.dtype == jnp.float32
  predict = jax.jit(small_text.small("llama")[0].model.predict)
  wide = predict(variables, texts(2, 6, 19))
  assert 0 < float(abs(logits - wide).max()) < 0.5


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"num_kv_heads": 3}, "num_kv_heads to divide num_heads=4, got"),
    ({"width": 9}, "num_heads to divide width=9"),
    ({"head_dim": 3}, "even head_dim for rotations, got head_dim=3"),
    ({"norm": "batch"}, "norm to be one of 'rms', 'layer', got 'batch'"),
    ({"activation": "relu"}, "activation to be one of"),
    ({"positions": "none"}, "positions to be one of"),
    ({"num_layers": 0}, "num_layers to be a whole number >= 1"),
    ({"window": 0}, "window to be a whole number >= 1"),
  ],
)
def test_impossible_sizes_are_refused(change, message):
  refused(message, DecoderConfig, **{**SIZES, **change})
