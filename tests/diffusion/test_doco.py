"""DoCo on a tiny model: the two losses, the cut, and who moves when."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxunlearn import diffusion
from jaxunlearn.core.types import Batch, Context, Variables
from jaxunlearn.diffusion import schedules
from jaxunlearn.diffusion.doco import (
  correction,
  make_predict,
  make_prior_loss,
  telling_apart,
)
from jaxunlearn.diffusion.types import parameter_group
from jaxunlearn.models.patch_discriminator import patch_discriminator

SHAPE, LENGTH, VOCAB = (4, 4, 1), 4, 7
LEVELS = schedules.linear(20, 1e-3, 0.3)
TARGET = jnp.array([[1, 2, 0, 0], [1, 5, 2, 0]])
ANCHOR = jnp.array([[1, 3, 0, 0], [1, 5, 3, 0]])
OTHER = jnp.array([[1, 4, 0, 0], [1, 5, 4, 0]])
NAN_DATA = {"x": jnp.full((3, 2), jnp.nan)}
MASK = jnp.array([True, False, False])
KEY = jax.random.key(0)
SMALL = {
  "num_steps": 5,
  "warm_up": 2,
  "batch_size": 4,
  "num_images": 4,
  "sampler_steps": 2,
}


@functools.cache
def model():
  return diffusion.text_to_image(
    image_shape=SHAPE,
    vocab_size=VOCAB,
    null_tokens=(1, 0, 0, 0),
    alphas_bar=LEVELS,
    width=8,
    num_blocks=1,
    num_heads=2,
    text_width=8,
  )


def shaken(params, seed, size=0.2):
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  return jax.tree.unflatten(
    tree,
    [p + size * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys)],
  )


@functools.cache
def params():
  return shaken(jax.jit(model().init)(KEY), 1)


DISCRIMINATOR = patch_discriminator((4, 8))


@functools.cache
def extra():
  x = jnp.clip(jax.random.normal(jax.random.key(3), (6, *SHAPE)), -1, 1)
  made = {"x": x, "prompt": jnp.arange(6) % 2}
  fresh = DISCRIMINATOR.init(jax.random.key(4), x[:1])
  return {
    "anchor_images": made,
    "prior_images": {**made, "x": x[::-1]},
    "discriminator": Variables(shaken(fresh.params, 6), {}),
  }


@pytest.fixture(autouse=True, scope="module")
def made_first():
  """What is cached must not be made inside of a `jit`."""
  params(), extra()


def batch(current):
  empty = jnp.zeros(0)
  return Batch({}, empty, empty, empty, empty, empty)._replace(
    context=Context(
      Variables(params()), Variables(current), extra(), jnp.int32(0)
    )
  )


def predictions(target=TARGET, clip_clean=None):
  return make_predict(model(), target, ANCHOR, 4, clip_clean)


def test_both_predictions_are_the_clean_images_of_the_same_noisy_ones():
  current = shaken(params(), 5)
  context = batch(current).context
  ours, anchors = predictions()(current, context, KEY)
  same, also = predictions(ANCHOR)(params(), context, KEY)
  np.testing.assert_allclose(same, also, atol=1e-5)
  np.testing.assert_allclose(anchors, also, atol=1e-5)
  assert float(jnp.abs(ours - anchors).max()) > 1e-2
  clipped, _ = predictions(clip_clean=0.1)(current, context, KEY)
  np.testing.assert_allclose(clipped, jnp.clip(ours, -0.1, 0.1), atol=1e-6)


def test_the_discriminator_loss_is_two_cross_entropies():
  current = shaken(params(), 5)
  loss = telling_apart(predictions(), DISCRIMINATOR)
  got = loss(extra()["discriminator"], batch(current), KEY)
  ours, anchors = predictions()(current, batch(current).context, KEY)
  logits = lambda x: np.asarray(
    DISCRIMINATOR.predict(extra()["discriminator"], x), np.float64
  )
  real = -np.log(1 / (1 + np.exp(logits(anchors)))).mean()
  fake = -np.log(1 / (1 + np.exp(-logits(ours)))).mean()
  np.testing.assert_allclose(got, [real + fake], rtol=1e-5)


def test_domains_that_are_one_cannot_be_told_apart():
  """For any discriminator the loss is 2 log 2 at least, and at logits 0 just."""
  loss = telling_apart(predictions(ANCHOR), DISCRIMINATOR)
  for seed in range(3):
    values = Variables(shaken(extra()["discriminator"].params, seed), {})
    assert float(loss(values, batch(params()), KEY)[0]) > 2 * np.log(2) - 1e-5
  zeros = jax.tree.map(jnp.zeros_like, extra()["discriminator"])
  found = loss(zeros, batch(params()), KEY)
  np.testing.assert_allclose(found, [2 * np.log(2)], rtol=1e-5)


def test_the_discriminator_gives_the_model_no_gradient():
  loss = telling_apart(predictions(), DISCRIMINATOR)
  grads = jax.grad(
    lambda p: loss(extra()["discriminator"], batch(p), KEY).sum()
  )(shaken(params(), 5))
  assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads))


def by_hand(mode, keep, current, weights, largest=1.0):
  """The model's loss and gradient in NumPy, from the two losses' gradients."""
  unlearn_key, prior_key = jax.random.split(KEY)
  context = batch(current).context

  def deceive(p):
    ours, _ = predictions()(p, context, unlearn_key)
    logits = DISCRIMINATOR.predict(extra()["discriminator"], ours)
    return jnp.log1p(jnp.exp(logits)).mean()

  prior = make_prior_loss(model(), ANCHOR, 4, weights)
  preserve = lambda p: prior(p, extra()["prior_images"], prior_key)
  loss, u = jax.jit(jax.value_and_grad(deceive))(current)
  kept, p = jax.jit(jax.value_and_grad(preserve))(current)
  if mode == "none":
    total = jax.tree.map(lambda a, b: a + 0.1 * b, u, p)
    return loss + 0.1 * kept, total
  moves = jax.tree.leaves(parameter_group(current, "xattn-kv"))

  def clipped(tree):
    leaves = [
      np.asarray(g, np.float64) if moved else np.zeros(g.shape)
      for g, moved in zip(jax.tree.leaves(tree), moves)
    ]
    norm = np.sqrt(sum((g**2).sum() for g in leaves))
    return [g * min(1, largest / norm) for g in leaves]

  out = []
  for g, h in zip(clipped(u), clipped(p)):
    product = (g * h).sum()
    if product < 0:
      scale = (h**2).sum()
      if mode == "released":
        scale *= np.linalg.norm(g)
      g = g - product / scale * h
    out.append(g + h if keep else g)
  return loss, jax.tree.unflatten(jax.tree.structure(u), out)


@pytest.mark.parametrize(
  "mode, keep, weighted",
  [
    ("exact", False, False),
    ("exact", True, True),
    ("released", False, False),
    ("none", False, False),
  ],
)
def test_the_step_is_along_the_gradient_that_is_left(mode, keep, weighted):
  current = shaken(params(), 11)
  weights = jnp.linspace(0.5, 2, 20) if weighted else None
  largest = 1e-3  # So that both gradients are clipped.
  objective = correction(
    predictions(),
    DISCRIMINATOR,
    make_prior_loss(model(), ANCHOR, 4, weights),
    group="xattn-kv",
    mode=mode,
    strength=1.0,
    keep_preserve=keep,
    prior_weight=0.1,
    clip_gradient=largest,
  )
  loss, gradient = jax.jit(
    jax.value_and_grad(lambda p: objective(Variables(p), batch(p), KEY).sum())
  )(current)
  wanted_loss, wanted = by_hand(mode, keep, current, weights, largest)
  np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)
  size = max(np.abs(b).max() for b in jax.tree.leaves(wanted))
  assert size > 0
  for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted)):
    np.testing.assert_allclose(a, b, atol=2e-3 * size)


@functools.cache
def run(**options):
  options = {
    "discriminator_optimizer": optax.sgd(0.1),
    **SMALL,
    **options,
  }
  return jax.jit(
    lambda p, target, key: diffusion.doco(
      model(),
      target,
      ANCHOR,
      # Adam would turn rounding into steps where a gradient is nearly zero.
      optimizer=optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)),
      discriminator=DISCRIMINATOR,
      **options,
    )(p, NAN_DATA, MASK, key)
  )


def test_only_keys_and_values_move_and_data_are_not_read():
  out, info = run()(params(), TARGET, KEY)
  moves = parameter_group(params(), "xattn-kv")
  changed = jax.tree.map(lambda a, b: bool((a != b).any()), out, params())
  assert changed == moves
  assert info["warm_up"].loss.shape == (2,)
  assert info["rounds"]["correct"].loss.shape == (3, 1)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))


def test_a_model_that_only_warms_up_keeps_its_bits():
  """While the discriminator learns to tell the two domains apart."""
  fit = run(
    num_steps=80,
    warm_up=80,
    batch_size=16,
    discriminator_optimizer=optax.adam(0.02),
  )
  out, info = fit(params(), TARGET, KEY)
  for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(params())):
    np.testing.assert_array_equal(a, b)
  losses = info["warm_up"].loss
  assert float(losses[-10:].mean()) < float(losses[:5].mean()) - 0.03


def test_concepts_in_one_program_are_those_one_by_one():
  many, _ = jax.jit(jax.vmap(lambda t: run()(params(), t, KEY)))(
    jnp.stack([TARGET, OTHER])
  )
  for i, target in enumerate((TARGET, OTHER)):
    one, _ = run()(params(), target, KEY)
    for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(one)):
      np.testing.assert_allclose(a[i], b, atol=5e-4)


def test_a_new_concept_does_not_compile_again():
  traces = []

  def eps(*args):
    traces.append(1)
    return model().eps(*args)

  counted = model()._replace(eps=eps)
  fit = jax.jit(
    lambda target: diffusion.doco(
      counted, target, ANCHOR, discriminator=DISCRIMINATOR, **SMALL
    )(params(), NAN_DATA, MASK, KEY)[0]
  )
  fit(TARGET)
  before = len(traces)
  fit(OTHER)
  assert before > 0 and len(traces) == before


def test_images_of_another_prior_are_made_from_its_prompts():
  base, _ = run()(params(), TARGET, KEY)
  fit = jax.jit(
    lambda prior: diffusion.doco(
      model(),
      TARGET,
      ANCHOR,
      prior_prompts=prior,
      keep_preserve=True,
      **SMALL,
    )(params(), NAN_DATA, MASK, KEY)[0]
  )
  one, two = fit(OTHER), fit(OTHER.at[0, 1].set(6))
  far = lambda a, b: max(
    jax.tree.leaves(jax.tree.map(lambda x, y: float(abs(x - y).max()), a, b))
  )
  assert far(one, two) > 1e-7 and far(one, base) > 1e-6


def test_the_discriminator_gives_a_logit_a_patch():
  network = patch_discriminator()
  x = jnp.ones((2, 8, 8, 3))
  values = network.init(KEY, x)
  assert network.predict(values, x).shape == (2, 2, 2, 1)
  with pytest.raises(ValueError, match="no loss of a discriminator"):
    network.loss(x, {})


@pytest.mark.parametrize(
  "change, message",
  [
    ({"anchor_prompts": ANCHOR[:0]}, "anchor_prompts to hold prompts"),
    ({"anchor_prompts": ANCHOR[:1]}, "an anchor a target"),
    ({"anchor_prompts": TARGET}, "anchors that differ from their targets"),
    ({"prompts": TARGET[:, :3]}, "prompts of shape"),
    ({"prior_prompts": jnp.array([[1, 0, 0, 0]])}, "prior_prompts to name"),
    ({"warm_up": -1}, "warm_up >= 0"),
    ({"warm_up": 6}, "num_steps >= 6"),
    ({"batch_size": 0}, "batch_size > 0"),
    ({"strength": -1.0}, "strength >= 0"),
    ({"prior_weight": -1.0}, "prior_weight >= 0"),
    ({"clip_gradient": 0.0}, "clip_gradient > 0"),
    ({"mode": "code"}, "mode to be one of"),
    ({"group": "most"}, "group to be one of"),
    ({"time_weights": jnp.ones(3)}, "time_weights of shape"),
    ({"num_images": 0}, "num_images > 0"),
  ],
)
def test_errors_say_what_was_found(change, message):
  given = {
    "diffusion": model(),
    "prompts": TARGET,
    "anchor_prompts": ANCHOR,
    **SMALL,
    **change,
  }
  with pytest.raises(ValueError, match=message):
    diffusion.doco(**given)(params(), NAN_DATA, MASK, KEY)
