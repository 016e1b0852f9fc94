"""DoCo on a tiny model: the two losses, the cut, and who moves when."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_attention
from closeness import change
from refusals import refused
from tiny_attention import CONCEPT as TARGET
from tiny_attention import OTHER as ANCHOR
from tiny_attention import SHAPE, shaken

from jaxunlearn import diffusion
from jaxunlearn.core.combinators import chain
from jaxunlearn.core.recording import record
from jaxunlearn.core.tasks import Fit, Model
from jaxunlearn.core.types import Request, Variables, as_step
from jaxunlearn.diffusion.doco import (
  Critic,
  Preservation,
  correction,
  make_predict,
  make_prior_loss,
  telling_apart,
)
from jaxunlearn.diffusion.steps import Sampling
from jaxunlearn.diffusion.types import parameter_group
from jaxunlearn.models.patch_discriminator import patch_discriminator

OTHER = jnp.array([[1, 6, 0, 0, 0], [1, 3, 6, 0, 0]])
NO_ROWS = Request()
KEY = jax.random.key(0)


MODEL = tiny_attention.model()
PARAMS = tiny_attention.params(jax.random.key(2))


def small_discriminator():
  """Two logits an image, of a layer of its pixels."""

  def init(key, x):
    first, last = jax.random.split(key)
    return Variables(
      {
        "in": jax.random.normal(first, (x[0].size, 3)) / 2,
        "out": jax.random.normal(last, (3, 2)) / 2,
      },
      {},
    )

  def apply(variables, x, *, train=False, key=None):
    layers = variables.params
    hidden = jnp.tanh(x.reshape(x.shape[0], -1) @ layers["in"])
    return hidden @ layers["out"], variables.model_state

  return Model(init, apply, loss=lambda outputs, rows: outputs)


DISCRIMINATOR = small_discriminator()


CRITIC = Critic(DISCRIMINATOR, Fit(optax.sgd(0.1), 1, 4), warm_up=2)
SMALL = {
  "num_steps": 3,
  "batch_size": 4,
  "critic": CRITIC,
  "sampling": Sampling(2, num_images=4),
}


def images(target=TARGET):
  """What the anchors' images are, with both prompts of each."""
  x = jnp.clip(jax.random.normal(jax.random.key(3), (6, *SHAPE)), -1, 1)
  told = {
    "target": jnp.tile(target, (3, 1)),
    "tokens": jnp.tile(ANCHOR, (3, 1)),
  }
  return {"x": x, **told}


def network():
  fresh = DISCRIMINATOR.init(jax.random.key(4), jnp.zeros((1, *SHAPE)))
  return Variables(shaken(fresh.params, 6), {})


def step(current, target=TARGET):
  now = as_step(images(target))
  return now._replace(original=Variables(PARAMS), variables=Variables(current))


def predicted(current, target=TARGET, clip_clean=None, key=KEY):
  """By the current model under the target's prompts, and by the original."""
  now = step(current, target)
  predict = make_predict(MODEL, clip_clean)
  return predict(current, PARAMS, now.rows, now.keys(key))


def told_apart(values, current, target=TARGET, clip_clean=None, key=KEY):
  loss = telling_apart(make_predict(MODEL, clip_clean), DISCRIMINATOR)
  return loss(values, step(current, target), key).value


@pytest.mark.slow
def test_both_predictions_are_the_clean_images_of_the_same_noisy_ones():
  current = shaken(PARAMS, 5)
  ask = lambda **options: jax.jit(lambda p: predicted(p, **options))
  ours, anchors = ask()(current)
  same, also = ask(target=ANCHOR)(PARAMS)
  np.testing.assert_allclose(same, also, atol=1e-5)
  np.testing.assert_allclose(anchors, also, atol=1e-5)
  assert float(jnp.abs(ours - anchors).max()) > 1e-2
  clipped, _ = ask(clip_clean=0.1)(current)
  np.testing.assert_allclose(clipped, jnp.clip(ours, -0.1, 0.1), atol=1e-6)


@pytest.mark.slow
def test_the_discriminator_loss_is_two_cross_entropies():
  current = shaken(PARAMS, 5)
  got = told_apart(network(), current)
  ours, anchors = predicted(current)
  logits = lambda x: np.asarray(DISCRIMINATOR.predict(network(), x), np.float64)
  real = -np.log(1 / (1 + np.exp(logits(anchors)))).mean(axis=1)
  fake = -np.log(1 / (1 + np.exp(-logits(ours)))).mean(axis=1)
  np.testing.assert_allclose(got, real + fake, rtol=1e-5)


def test_domains_that_are_one_cannot_be_told_apart():
  """For any discriminator the loss is 2 log 2 at least, and at logits 0 just."""
  for seed in range(3):
    values = Variables(shaken(network().params, seed), {})
    found = told_apart(values, PARAMS, ANCHOR)
    assert float(found.min()) > 2 * np.log(2) - 1e-5
  zeros = jax.tree.map(jnp.zeros_like, network())
  found = told_apart(zeros, PARAMS, ANCHOR)
  np.testing.assert_allclose(found, np.full(6, 2 * np.log(2)), rtol=1e-5)


def test_the_discriminator_gives_the_model_no_gradient():
  grads = jax.jit(jax.grad(lambda p: told_apart(network(), p).sum()))(
    shaken(PARAMS, 5)
  )
  assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads))


TIME_WEIGHTS = jnp.linspace(0.5, 2, 20)


def both_losses(params, step, key):
  """L_u and L_p, on all of the images."""
  unlearn_key, prior_key = jax.random.split(key)
  prior = make_prior_loss(MODEL, TIME_WEIGHTS)

  def deceive(p):
    ours, _ = predicted(p, key=unlearn_key)
    return jnp.log1p(jnp.exp(DISCRIMINATOR.predict(network(), ours))).mean()

  return deceive, lambda p: prior(p, images(), prior_key, 4)


# Where the gradients by keys are opposed, those by values are not.
ELSEWHERE = shaken(PARAMS, 27, 1.0)


@functools.cache
def both_gradients():
  """Loss and gradient, by jax.grad, of L_u and of L_p."""
  deceive, preserve = both_losses(None, None, KEY)
  both = lambda p: (
    jax.jit(jax.value_and_grad(deceive))(p),
    jax.jit(jax.value_and_grad(preserve))(p),
  )
  return jax.jit(both)(ELSEWHERE)


def by_hand(mode, keep, largest):
  """The model's loss and gradient in NumPy, from the two losses' gradients."""
  (loss, u), (_, p) = both_gradients()
  moves = jax.tree.leaves(parameter_group(PARAMS, "xattn-kv"))

  def clipped(tree):
    leaves = [
      np.asarray(g, np.float64) if moved else np.zeros(g.shape)
      for g, moved in zip(jax.tree.leaves(tree), moves)
    ]
    norm = np.sqrt(sum((g**2).sum() for g in leaves))
    return [g * min(1, largest / norm) for g in leaves]

  if mode == "none":
    total = jax.tree.map(lambda a, b: a + 0.1 * b, u, p)
    return loss, jax.tree.unflatten(jax.tree.structure(u), clipped(total))
  out, fights = [], 0
  for g, h in zip(clipped(u), clipped(p)):
    product = (g * h).sum()
    if product < 0:
      fights += 1
      scale = (h**2).sum()
      if mode == "released":
        scale *= np.linalg.norm(g)
      g = g - product / scale * h
    out.append(g + h if keep else g)
  assert fights == 1
  return loss, jax.tree.unflatten(jax.tree.structure(u), out)


@pytest.mark.slow
@pytest.mark.parametrize(
  "mode, keep", [("exact", True), ("released", False), ("none", False)]
)
def test_the_step_is_along_the_gradient_that_is_left(mode, keep):
  current = ELSEWHERE
  largest = 1e-3  # So that both gradients are clipped.
  preservation = Preservation(mode, keep=keep, clip_gradient=largest)
  objective = correction(both_losses, "xattn-kv", preservation)
  loss, gradient = jax.jit(
    jax.value_and_grad(lambda p: objective(Variables(p), None, KEY).sum())
  )(current)
  wanted_loss, wanted = by_hand(mode, keep, largest)
  np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)
  size = max(np.abs(b).max() for b in jax.tree.leaves(wanted))
  assert size > 0
  for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted)):
    np.testing.assert_allclose(a, b, atol=1e-4 * size)


def run(prior=OTHER, **options):
  method = diffusion.doco(
    MODEL, TARGET, ANCHOR, prior_prompts=prior, **{**SMALL, **options}
  )
  return jax.jit(method)(PARAMS, None, NO_ROWS, KEY)


def test_a_model_that_only_warms_up_keeps_its_bits():
  out, info = run(num_steps=0)
  for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(PARAMS)):
    np.testing.assert_array_equal(a, b)
  losses = info["warm_up"].loss
  assert losses.shape == (2,) and info["rounds"]["correct"].loss.size == 0


@pytest.mark.slow
def test_a_discriminator_may_have_batch_statistics():
  """They move with it, and each step goes on with them."""

  def apply(variables, x, *, train=False, key=None):
    out, _ = DISCRIMINATOR.apply(variables, x)
    mean, count = variables.model_state["mean"], variables.model_state["count"]
    if train:
      mean, count = mean + 0.1 * (x.mean() - mean), count + 1
    return out - mean, {"mean": mean, "count": count}

  def init(key, x):
    state = {"mean": jnp.zeros(()), "count": jnp.zeros((), int)}
    return DISCRIMINATOR.init(key, x)._replace(model_state=state)

  stateful = DISCRIMINATOR._replace(init=init, apply=apply)
  method = diffusion.doco(
    MODEL,
    TARGET,
    ANCHOR,
    **{**SMALL, "critic": CRITIC._replace(model=stateful)},
  )

  def network_of(carry):
    (found,) = (v for k, v in carry.slots.items() if k.label == "discriminator")
    return found.model_state

  both = chain(method, record("state", network_of))
  _, info = jax.jit(both)(PARAMS, None, NO_ROWS, KEY)
  # Two passes in each of 2 + 3 steps; those of the model's leave no trace.
  assert int(info["state"]["count"]) == 10
  assert float(info["state"]["mean"]) != 0


@pytest.mark.slow
def test_the_discriminator_by_default_is_of_patches():
  out, _ = run(prior=None, critic=CRITIC._replace(model=None))
  assert change(out, PARAMS) > 1e-6


def test_the_discriminator_gives_a_logit_a_patch():
  network = patch_discriminator()
  x = jnp.ones((2, 8, 8, 3))
  made = jax.eval_shape(
    lambda key: network.predict(network.init(key, x), x), KEY
  )
  assert made.shape == (2, 2, 2, 1)
  refused("no loss of a discriminator", network.loss, x, {})
