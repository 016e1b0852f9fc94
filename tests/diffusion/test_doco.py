"""DoCo on a tiny model: the two losses, the cut, and who moves when."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny_attention
from tiny_attention import CONCEPT as TARGET
from tiny_attention import OTHER as ANCHOR
from tiny_attention import SHAPE

from jaxunlearn import diffusion
from jaxunlearn.core.combinators import chain, provide
from jaxunlearn.core.phase import phase
from jaxunlearn.core.recording import record
from jaxunlearn.core.types import Batch, Context, Model, Variables
from jaxunlearn.diffusion.doco import (
  correction,
  make_predict,
  make_prior_loss,
  telling_apart,
)
from jaxunlearn.diffusion.types import parameter_group
from jaxunlearn.models.patch_discriminator import patch_discriminator

OTHER = jnp.array([[1, 6, 0, 0, 0], [1, 3, 6, 0, 0]])
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


MODEL = tiny_attention.model()
PARAMS = tiny_attention.params(jax.random.key(2))


def shaken(params, seed, size=0.2):
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  return jax.tree.unflatten(
    tree,
    [p + size * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys)],
  )


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


@functools.cache
@jax.jit
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
  extra()


def batch(current):
  empty = jnp.zeros(0)
  return Batch({}, empty, empty, empty, empty, empty)._replace(
    context=Context(
      Variables(PARAMS), Variables(current), extra(), jnp.int32(0)
    )
  )


def predictions(target=TARGET, clip_clean=None):
  return make_predict(MODEL, target, ANCHOR, 4, clip_clean)


@pytest.mark.slow
def test_both_predictions_are_the_clean_images_of_the_same_noisy_ones():
  current = shaken(PARAMS, 5)
  context = batch(current).context
  ask = lambda **options: jax.jit(
    lambda p: predictions(**options)(p, context, KEY)
  )
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
    assert float(loss(values, batch(PARAMS), KEY)[0]) > 2 * np.log(2) - 1e-5
  zeros = jax.tree.map(jnp.zeros_like, extra()["discriminator"])
  found = loss(zeros, batch(PARAMS), KEY)
  np.testing.assert_allclose(found, [2 * np.log(2)], rtol=1e-5)


def test_the_discriminator_gives_the_model_no_gradient():
  loss = telling_apart(predictions(), DISCRIMINATOR)
  grads = jax.jit(
    jax.grad(lambda p: loss(extra()["discriminator"], batch(p), KEY).sum())
  )(shaken(PARAMS, 5))
  assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads))


TIME_WEIGHTS = jnp.linspace(0.5, 2, 20)
# Where the gradients by keys are opposed, those by values are not.
ELSEWHERE = shaken(PARAMS, 15, 1.0)


@functools.cache
def both_gradients():
  """Loss and gradient, by jax.grad, of L_u and of L_p."""
  unlearn_key, prior_key = jax.random.split(KEY)
  prior = make_prior_loss(MODEL, ANCHOR, 4, TIME_WEIGHTS)

  def deceive(p):
    ours, _ = predictions()(p, batch(p).context, unlearn_key)
    logits = DISCRIMINATOR.predict(extra()["discriminator"], ours)
    return jnp.log1p(jnp.exp(logits)).mean()

  def preserve(p):
    return prior(p, extra()["prior_images"], prior_key)

  both = lambda p: (
    jax.value_and_grad(deceive)(p),
    jax.value_and_grad(preserve)(p),
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
  objective = correction(
    predictions(),
    DISCRIMINATOR,
    make_prior_loss(MODEL, ANCHOR, 4, TIME_WEIGHTS),
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
  wanted_loss, wanted = by_hand(mode, keep, largest)
  np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)
  size = max(np.abs(b).max() for b in jax.tree.leaves(wanted))
  assert size > 0
  for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted)):
    np.testing.assert_allclose(a, b, atol=1e-4 * size)


TRACES = []


@functools.cache
def run(**options):
  """A program for concepts and models; `TRACES` grows when it is traced."""
  options = {"discriminator_optimizer": optax.sgd(0.1), **SMALL, **options}
  return jax.jit(
    lambda p, target, prior: diffusion.doco(
      tiny_attention.model(TRACES),
      target,
      ANCHOR,
      prior_prompts=prior,
      # Adam would turn rounding into steps where a gradient is nearly zero.
      optimizer=optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1)),
      discriminator=DISCRIMINATOR,
      keep_preserve=True,
      **options,
    )(p, NAN_DATA, MASK, KEY)
  )


def far(a, b):
  each = jax.tree.map(lambda x, y: float(abs(x - y).max()), a, b)
  return max(jax.tree.leaves(each))


@pytest.mark.slow
def test_only_keys_and_values_move_and_data_are_not_read():
  out, info = run()(PARAMS, TARGET, OTHER)
  moves = parameter_group(PARAMS, "xattn-kv")
  changed = jax.tree.map(lambda a, b: bool((a != b).any()), out, PARAMS)
  assert changed == moves
  assert info["warm_up"].loss.shape == (2,)
  assert info["rounds"]["correct"].loss.shape == (3, 1)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))


def test_a_new_concept_or_prior_gives_another_model_without_compiling():
  base, _ = run()(PARAMS, TARGET, OTHER)
  before = len(TRACES)
  concept, _ = run()(PARAMS, OTHER, OTHER)
  prior, _ = run()(PARAMS, TARGET, OTHER.at[0, 1].set(7))
  assert before > 0 and len(TRACES) == before
  assert far(base, concept) > 1e-4 and far(base, prior) > 1e-4


@pytest.mark.slow
def test_models_and_concepts_in_one_program_are_those_one_by_one():
  models, targets = (PARAMS, shaken(PARAMS, 12)), (TARGET, OTHER)
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *models)
  many, _ = jax.jit(jax.vmap(run(), in_axes=(0, 0, None)))(
    stacked, jnp.stack(targets), OTHER
  )
  for i in range(2):
    one, _ = run()(models[i], targets[i], OTHER)
    assert far(jax.tree.map(lambda x: x[i], many), one) < 1e-4


def test_a_model_that_only_warms_up_keeps_its_bits():
  out, info = run(num_steps=2, warm_up=2)(PARAMS, TARGET, OTHER)
  for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(PARAMS)):
    np.testing.assert_array_equal(a, b)
  losses = info["warm_up"].loss
  assert losses.shape == (2,) and info["rounds"]["correct"].loss.size == 0


def test_a_discriminator_that_has_learnt_tells_fresh_noise_apart():
  """On the same draws before and after, none of which it was trained on."""
  louder = jax.tree.map(lambda x: x, PARAMS)
  louder["denoiser"]["attn2"]["to_v"] *= 3
  loss = telling_apart(predictions(clip_clean=1.5), DISCRIMINATOR)
  learn = chain(
    *(provide(k, lambda *_, v=v: v) for k, v in extra().items()),
    phase(loss, optax.adam(0.05), 200, target="discriminator"),
    record("end", lambda carry: carry.extra["discriminator"]),
  )
  context = Context(Variables(louder), Variables(louder), extra(), jnp.int32(0))
  fresh = jax.random.split(jax.random.key(99), 64)

  def mean(values):
    now = batch(louder)._replace(context=context)
    return jax.lax.map(lambda key: loss(values, now, key), fresh).mean()

  @jax.jit
  def before_and_after():
    _, info = learn(Variables(louder), NAN_DATA, MASK, KEY)
    return mean(extra()["discriminator"]), mean(info["end"])

  before, after = before_and_after()
  # Better than at first, and than giving no answer.
  assert float(after) < min(float(before), 2 * np.log(2)) - 0.06


def test_few_images_are_one_a_prompt_at_least():
  """With one image the second prompt would never be seen."""
  method = diffusion.doco(
    MODEL,
    TARGET,
    ANCHOR,
    prior_prompts=jnp.concatenate([ANCHOR, OTHER]),
    discriminator=DISCRIMINATOR,
    **{**SMALL, "num_images": 1},
  )
  names = ("anchor_images", "prior_images")
  made = record("made", lambda carry: {k: carry.extra[k] for k in names})
  _, info = jax.eval_shape(chain(method, made), PARAMS, NAN_DATA, MASK, KEY)
  assert info["made"]["anchor_images"]["x"].shape == (2, *SHAPE)
  assert info["made"]["prior_images"]["x"].shape == (4, *SHAPE)


def test_a_discriminator_with_a_state_is_refused():
  init = lambda key, x: Variables({}, {"mean": jnp.zeros(3)})
  method = diffusion.doco(
    MODEL,
    TARGET,
    ANCHOR,
    discriminator=DISCRIMINATOR._replace(init=init),
    **SMALL,
  )
  with pytest.raises(ValueError, match="without model_state"):
    jax.eval_shape(method, PARAMS, NAN_DATA, MASK, KEY)


@pytest.mark.slow
def test_the_discriminator_by_default_is_of_patches():
  out, _ = jax.jit(
    lambda p: diffusion.doco(MODEL, TARGET, ANCHOR, **SMALL)(
      p, NAN_DATA, MASK, KEY
    )
  )(PARAMS)
  assert far(out, PARAMS) > 1e-6


def test_the_discriminator_gives_a_logit_a_patch():
  network = patch_discriminator()
  x = jnp.ones((2, 8, 8, 3))
  made = jax.eval_shape(
    lambda key: network.predict(network.init(key, x), x), KEY
  )
  assert made.shape == (2, 2, 2, 1)
  with pytest.raises(ValueError, match="no loss of a discriminator"):
    network.loss(x, {})


@pytest.mark.parametrize(
  "change, message",
  [
    ({"anchor_prompts": ANCHOR[:0]}, "anchor_prompts to hold prompts"),
    ({"anchor_prompts": ANCHOR[:1]}, "an anchor a target"),
    ({"anchor_prompts": TARGET}, "anchors that differ from their targets"),
    ({"prompts": TARGET[:, :3]}, "prompts of shape"),
    ({"prior_prompts": MODEL.null_tokens[None]}, "prior_prompts to name"),
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
    ({"sampler_steps": 21}, "sampler_steps in 1 .. 20"),
  ],
)
def test_errors_say_what_was_found(change, message):
  given = {
    "diffusion": MODEL,
    "prompts": TARGET,
    "anchor_prompts": ANCHOR,
    **SMALL,
    **change,
  }
  with pytest.raises(ValueError, match=message):
    method = diffusion.doco(discriminator=DISCRIMINATOR, **given)
    jax.eval_shape(method, PARAMS, NAN_DATA, MASK, KEY)
