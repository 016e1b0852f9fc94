"""DisenBooth, Infinite-ID and WSC-swap against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn.identity import disenbooth, infinite_id, wsc_swap
from jaxunlearn.identity.vectors import cosine

KEY = jax.random.key(0)


def draw(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softmax(x):
  e = np.exp(x - x.max(axis=-1, keepdims=True))
  return e / e.sum(axis=-1, keepdims=True)


# DisenBooth.


def denoise(noisy, time, told):
  return noisy * 0.5 + told.mean(axis=1) * time[:, None]


def booth(shared, own, **weights):
  noisy, noise, time = draw(0, 4, 3), draw(1, 4, 3), jnp.arange(1.0, 5)
  return disenbooth.disenbooth_loss(
    denoise, noisy, noise, time, shared, own, **weights
  )


def test_disenbooth_is_denoising_twice_and_a_cosine():
  shared, own = draw(2, 4, 2, 3), draw(3, 4, 3)
  noisy, noise, time = draw(0, 4, 3), draw(1, 4, 3), np.arange(1.0, 5)
  error = lambda told: np.square(
    noisy * 0.5 + told * time[:, None] - noise
  ).mean(1)
  mean = shared.mean(axis=1)
  both, weak = error(mean + own), error(mean)
  length = lambda x: np.linalg.norm(x, axis=1)
  angle = (mean * own).sum(1) / length(mean) / length(own)
  near = lambda found, wanted: np.testing.assert_allclose(
    found, wanted, rtol=1e-5
  )
  near(booth(shared, own, weak_weight=0.0, contrast_weight=0.0), both)
  near(booth(shared, own), both + 0.01 * weak + 0.001 * angle)
  near(
    booth(shared, own, contrast_weight=2.0, contrast=jnp.abs),
    both + 0.01 * weak + 2 * np.abs(angle),
  )
  assert (np.abs(disenbooth.alignment(shared, own)) <= 1).all()


def test_the_weak_term_does_not_reach_the_adapter_and_a_shut_mask_leaves_bias():
  params = disenbooth.init_adapter(KEY, 3)
  image, shared = draw(4, 4, 3), draw(2, 4, 2, 3)

  def loss(params, weak):
    own = disenbooth.identity_adapter(params, image)
    return booth(shared, own, weak_weight=weak, contrast_weight=0.0).sum()

  slope = jax.grad(loss)(params, 0.0)
  other = jax.grad(loss)(params, 5.0)
  jax.tree.map(np.testing.assert_array_equal, slope, other)
  shut = {**params, "mask": jnp.full(3, -jnp.inf)}
  bias = jnp.array([1.0, 2.0, 3.0])
  shut["outer"] = {**shut["outer"], "bias": bias}
  own = disenbooth.identity_adapter(shut, image)
  np.testing.assert_allclose(own, np.tile(bias, (4, 1)))


# Infinite-ID.


def test_without_identity_mixed_and_merged_attention_are_those_of_the_text():
  query, text = draw(0, 2, 3, 1, 4), (draw(1, 2, 5, 1, 4), draw(2, 2, 5, 1, 4))
  ids = draw(3, 2, 6, 1, 4), draw(4, 2, 6, 1, 4)
  plain = jax.nn.dot_product_attention(query, *text)
  gone = ids[0] * jnp.nan, ids[1] * jnp.nan
  near = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)
  for attend in (infinite_id.mixed_attention, infinite_id.merged_attention):
    near(attend(query, ids, text, 0.0), plain)
    found = attend(query, ids, text, jnp.array([1.0, 0.0]))
    near(found[1], plain[1])
    assert np.abs(found[0] - plain[0]).max() > 0.01
    order = np.array([2, 0, 1, 5, 4, 3])
    moved = tuple(part[:, order] for part in ids)
    np.testing.assert_allclose(attend(query, moved, text), attend(query, ids, text), atol=1e-6)  # fmt: skip
  masked = infinite_id.mixed_attention(query, gone, text, 0.0)
  near(masked, plain)
  # Rows of the attention sum to 1: values of ones come out as ones.
  ones = jnp.ones_like(ids[1]), jnp.ones_like(text[1])
  found = infinite_id.mixed_attention(
    query, (ids[0], ones[0]), (text[0], ones[1]), 0.3
  )
  np.testing.assert_allclose(found, 1, rtol=1e-5)


def test_adain_takes_the_mean_of_one_and_the_variance_of_the_other():
  x, y = draw(0, 2, 7, 3), 2 + draw(1, 2, 5, 3)
  found = infinite_id.adain_mean(x, y)
  np.testing.assert_allclose(found.mean(1), y.mean(1), atol=1e-5)
  np.testing.assert_allclose(found.var(1), x.var(1), rtol=1e-4)
  np.testing.assert_allclose(infinite_id.adain_mean(x, x), x, atol=1e-6)


def test_partners_are_of_the_same_identity_and_never_oneself():
  ids = np.array([0, 1, 0, 2, 1, 0])
  keys = jax.random.split(KEY, 64)
  partner = jax.vmap(lambda k: infinite_id.same_identity(ids, k))(keys)
  assert (ids[partner] == ids[None]).all()
  own = np.asarray(partner) == np.arange(6)
  assert (own.all(axis=0) == (ids == 2)).all() and not own[:, ids < 2].any()
  assert set(np.asarray(partner)[:, 0]) == {2, 5}


# WSC-swap.


def test_removal_is_none_for_a_uniform_classifier_and_attributes_are_kept():
  logits = draw(0, 5, 4)
  wanted = (np.log(1 / 4) - np.log(softmax(logits))).mean(axis=1)
  np.testing.assert_allclose(wsc_swap.removal(logits), wanted, rtol=1e-4)
  image, code, lost = draw(1, 5, 6), draw(2, 5, 3), jnp.ones((5, 4))
  same = jnp.array([True, False, True, True, True])
  swap = lambda attributes, made, logits: wsc_swap.swap_loss(
    made, image, (code, 3 * code), attributes, logits, same
  )
  none = swap((code, code), jnp.asarray(image), lost)
  np.testing.assert_allclose(none, 0, atol=1e-6)
  worse = swap((code, code + 1), jnp.asarray(image) + 2, logits)
  np.testing.assert_allclose(worse, 1 + wanted + 2 * same, rtol=1e-4)
  codes = draw(3, 4, 3)
  pairs = [cosine(a, b) for i, a in enumerate(codes) for b in codes[:i]]
  np.testing.assert_allclose(
    wsc_swap.consistency(codes), np.mean(pairs), rtol=1e-4
  )


BAD = (
  (
    "weak_weight",
    lambda: booth(draw(2, 4, 2, 3), draw(3, 4, 3), weak_weight=-1.0),
  ),
  (r"own \[B, D\]", lambda: booth(draw(2, 4, 2, 3), draw(3, 4, 2))),
  ("results", lambda: wsc_swap.consistency(draw(0, 1, 3))),
)


@pytest.mark.parametrize("words, call", BAD, ids=[words for words, _ in BAD])
def test_bad_input(words, call):
  refused(words, call)
