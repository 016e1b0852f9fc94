"""Adapters and windows: the same model at the start, a small part to train."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_text
from refusals import refused

import jaxunlearn as ju
from jaxunlearn import language
from jaxunlearn.language.lora import _path, weighted_factors

KEY = jax.random.key(0)
MASK = jnp.arange(8) < 3
FIT = ju.Fit(optax.adam(0.01), 3, 3)


@functools.cache
def setting(remat=False):
  config = dataclasses.replace(small_text.CONFIGS["llama"], remat=remat)
  lm = language.language_model(config)
  variables = small_text.filled(lm)
  return lm, variables, {"x": small_text.texts(8, 8, 19, seed=1)}


def importance(variables, data, request):
  rng = np.random.default_rng(3)
  some = lambda w: jnp.asarray(rng.random(w.shape), jnp.float32)
  return tuple(jax.tree.map(some, variables.params) for _ in range(2))


def test_a_fresh_adapter_changes_no_bit():
  lm, variables, data = setting()
  view = language.lora(rank=2)
  apart = view.apart(variables, KEY)
  chex.assert_trees_all_equal(view.whole(apart), variables)
  method = ju.through(
    view, lambda m: language.npo(m, FIT._replace(num_steps=0)), lm
  )
  out, _ = method.compiled(variables, data, MASK, KEY)
  chex.assert_trees_all_equal(out, variables)
  # As many numbers as a sum of rank * (in + out) over kernels and layers.
  sizes = [
    leaf.shape[0] * 2 * sum(leaf.shape[1:])
    for leaf in jax.tree.leaves(variables.params["blocks"])
    if leaf.ndim == 3
  ]
  leaves = jax.tree.leaves(apart.params)
  assert sum(leaf.size for leaf in leaves) == sum(sizes)


def test_merged_weights_say_the_same_and_only_adapted_kernels_moved():
  lm, variables, data = setting()
  view = language.lora(rank=2, alpha=3.0, targets=r"blocks/.*/(q|down)/kernel")
  apart = view.apart(variables, KEY)
  inner = language.npo(view.of(lm), FIT)
  out, _ = inner.compiled(apart, data, MASK, KEY)
  chex.assert_trees_all_equal(out.frozen, apart.frozen)
  whole = view.whole(out)
  np.testing.assert_array_equal(
    jax.jit(view.of(lm).model.predict)(out, data["x"]),
    jax.jit(lm.model.predict)(whole, data["x"]),
  )
  factors = out.params["blocks/mlp/down/kernel"]
  change = np.asarray(factors["a"], float) @ np.asarray(factors["b"], float)
  before = np.asarray(variables.params["blocks"]["mlp"]["down"]["kernel"])
  np.testing.assert_allclose(
    whole.params["blocks"]["mlp"]["down"]["kernel"],
    before + 1.5 * change,
    atol=1e-6,
  )
  moved = {
    _path(path)
    for path, same in jax.tree_util.tree_leaves_with_path(
      jax.tree.map(lambda a, b: bool((a == b).all()), whole, variables)
    )
    if not same
  }
  assert {name.removeprefix("params/") for name in moved} == set(apart.params)


@pytest.mark.parametrize("remat", [False, True])
def test_every_adapter_has_a_gradient_also_where_activations_are_remade(remat):
  lm, variables, data = setting(remat)
  view = language.lora(rank=2)
  apart = view.apart(variables, KEY)
  method = language.npo(view.of(lm), FIT._replace(remat=remat))
  out, _ = method.compiled(apart, data, MASK, KEY)
  for before, after in zip(*map(jax.tree.leaves, (apart.params, out.params))):
    assert (before != after).any(axis=(1, 2)).all()  # In each of the layers.


def test_lanes_over_rates_share_one_base():
  lm, variables, data = setting()
  view = language.lora(rank=2)
  apart = view.apart(variables, KEY)

  def adapters(rate):
    method = language.npo(view.of(lm), ju.Fit(optax.adam(rate), 2, 3))
    return method(apart, data, MASK, KEY)[0].params

  both = jax.jit(jax.vmap(adapters))(jnp.array([0.01, 0.03]))
  alone = jax.jit(adapters)(jnp.float32(0.03))
  chex.assert_trees_all_close(
    jax.tree.map(lambda leaf: leaf[1], both), alone, rtol=1e-3, atol=1e-5
  )


def test_fila_begins_at_the_model_with_the_best_weighted_factors():
  _, variables, data = setting()
  view = language.fila(importance, rank=2, alpha=4.0)
  request = ju.Request(MASK, ~MASK)
  apart = jax.jit(view.apart)(variables, KEY, data, request)
  chex.assert_trees_all_close(view.whole(apart), variables, atol=2e-6)
  forget, retain = importance(variables, data, request)
  for path, factors in apart.params.items():
    names = path.split("/")
    read = lambda tree, names=names: np.asarray(
      functools.reduce(lambda t, n: t[n], names, tree), float
    )
    w = read(variables.params)
    r = np.sqrt((read(forget) / (1e-5 + read(retain))).sum(axis=1))
    ab = 2 * np.asarray(factors["a"] @ factors["b"], float)
    s = np.linalg.svd(w * r[:, None], compute_uv=False)
    rest = np.linalg.norm((w - ab) * r[:, None], axis=(1, 2))
    wanted = np.sqrt((s[:, 2:] ** 2).sum(axis=1))
    np.testing.assert_allclose(rest, wanted, rtol=1e-3, err_msg=path)


def test_without_weights_it_is_the_truncated_svd_and_of_full_rank_the_kernel():
  rng = np.random.default_rng(0)
  w = jnp.asarray(rng.normal(size=(2, 4, 6)), jnp.float32)
  ones = jnp.ones((2, 6))
  found = weighted_factors(w, ones, 2, 2.0, 0.0)
  u, s, v = np.linalg.svd(np.asarray(w, float), full_matrices=False)
  wanted = (u[..., :2] * s[:, None, :2]) @ v[:, :2]
  np.testing.assert_allclose(2 * found["a"] @ found["b"], wanted, atol=1e-5)
  full = weighted_factors(w, 3 * ones, 4, 2.0, 0.0)
  np.testing.assert_allclose(2 * full["a"] @ full["b"], w, atol=1e-5)


def test_loku_forgets_through_adapters():
  lm, variables, data = setting()
  fit = ju.Fit(optax.adam(0.01), 4, 3)
  out, info = language.loku(lm, fit, rank=2).compiled(
    variables, data, MASK, KEY
  )
  loss = info["inverted_hinge"]["unlearn"].loss
  assert loss[-1] < loss[0]
  chex.assert_trees_all_equal(out.params["embed"], variables.params["embed"])


def test_a_window_moves_its_blocks_alone():
  lm, variables, data = setting()
  view = language.block_window(1, 3, r"blocks/mlp/.*")
  method = ju.through(view, lambda m: language.rmu(m, FIT, layer=2), lm)
  out, _ = method.compiled(variables, data, MASK, KEY)
  before, after = variables.params["blocks"], out.params["blocks"]
  for old, new in zip(*(jax.tree.leaves(b["mlp"]) for b in (before, after))):
    np.testing.assert_array_equal(old[0], new[0])
    assert (old[1:] != new[1:]).any(axis=(1, 2)).all()
  chex.assert_trees_all_equal(before["attention"], after["attention"])


def test_bad_views_are_refused():
  _, variables, _ = setting()
  refused("rank", language.lora, rank=0)
  with pytest.raises(ValueError, match="at least rank=9"):
    language.lora(rank=9).apart(variables, KEY)
  with pytest.raises(ValueError, match="targets to match"):
    language.lora(rank=1, targets="dense").apart(variables, KEY)
  with pytest.raises(ValueError, match="stop <= 3"):
    language.block_window(0, 4).apart(variables, KEY)
  refused("stop", language.block_window, 2, 2)
