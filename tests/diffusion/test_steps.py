"""What the steps of methods share: images begun, images made, one group moved."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_diffusion import check_only_group_moved, params

from jaxunlearn import diffusion
from jaxunlearn.diffusion import samplers, schedules, steps
from jaxunlearn.diffusion.steps import Sampling
from jaxunlearn.diffusion.types import Diffusion

LEVELS = schedules.linear(40, 1e-3, 0.2)
PROMPTS = jnp.array([[1, 2], [1, 3], [1, 4]])


def linear_model():
  """eps = params x + prompt / 10."""
  return Diffusion(
    init=lambda key: jnp.float32(0.3),
    eps=lambda p, x, t, c: p * x + c[:, 1, :1, None, None] / 10,
    encode=lambda p, tokens: tokens[..., None].astype(jnp.float32),
    null_tokens=jnp.array([1, 0]),
    alphas_bar=LEVELS,
    image_shape=(2, 1, 1),
    clip=2.0,
    vocab_size=5,
  )


MODEL = linear_model()


def test_a_begun_image_is_the_one_of_the_whole_walk_at_that_step():
  keys = jax.random.split(jax.random.key(0), 64)
  tokens = jnp.tile(PROMPTS[:1], (64, 1))
  run = jax.jit(
    lambda p: steps.begun_images(
      MODEL, p, tokens, keys, num_steps=8, guidance=2.0
    )
  )
  x, stop = run(jnp.float32(0.3))
  assert set(np.asarray(stop).tolist()) == set(range(8))
  times = steps.step_times(MODEL, 8)
  for i in range(6):
    walk_key = jax.random.split(keys[i])[1][None]
    path = diffusion.trajectory(
      MODEL,
      diffusion.classifier_free(MODEL, jnp.float32(0.3), tokens[:1], 2.0),
      samplers.start_noise(MODEL, walk_key),
      walk_key,
      num_steps=8,
    )
    np.testing.assert_allclose(x[i], path[stop[i], 0], atol=1e-5)
  assert times.tolist() == [*schedules.sampling_times(40, 8).tolist(), -1]


def test_nothing_is_differentiated_through_a_begun_image():
  keys = jax.random.split(jax.random.key(0), 3)

  def total(p):
    x, _ = steps.begun_images(MODEL, p, PROMPTS, keys, num_steps=5)
    return x.sum() + p

  assert float(jax.grad(total)(jnp.float32(0.3))) == 1.0


def test_prompts_may_be_numpy_s_and_keys_of_the_old_kind():
  keys, prompts = jax.random.split(jax.random.key(2), 3), np.asarray(PROMPTS)
  old = jax.random.key_data(keys)
  begin = lambda k, p: steps.begun_images(
    MODEL, jnp.float32(0.3), p, k, num_steps=5
  )
  jax.tree.map(
    np.testing.assert_array_equal, begin(keys, PROMPTS), begin(old, prompts)
  )
  make = lambda k, p: steps.made_images(
    MODEL, jnp.float32(0.3), p, k, Sampling(3, num_images=2)
  )
  jax.tree.map(
    np.testing.assert_array_equal, make(keys[0], PROMPTS), make(old[0], prompts)
  )


@pytest.mark.slow
def test_made_images_do_not_depend_on_how_many_are_made_at_a_time():
  key = jax.random.key(3)
  make = lambda chunk: steps.made_images(
    MODEL,
    jnp.float32(0.3),
    PROMPTS,
    key,
    Sampling(4, num_images=7, chunk_size=chunk),
  )
  few, all_at_once = make(2), make(64)
  np.testing.assert_allclose(few["x"], all_at_once["x"], atol=1e-6)
  assert few["prompt"].tolist() == [0, 1, 2, 0, 1, 2, 0]
  keys = jax.random.split(key, 7)
  alone = diffusion.sample(
    MODEL, jnp.float32(0.3), PROMPTS[2:], keys[5:6], num_steps=4, guidance=3.0
  )
  np.testing.assert_allclose(few["x"][5], alone[0], atol=1e-5)


def test_a_restricted_optimiser_moves_its_group_alone():
  """Weight decay acts without a gradient, momentum after it."""
  groups = ("xattn", "xattn-kv", "noxattn", "text")

  def fitted(before, group):
    optimizer = steps.restricted(optax.adamw(0.1, weight_decay=0.5), group)

    def step(_, moving):
      now, state = moving
      grads = jax.tree.map(lambda p: p - 1, now)
      updates, state = optimizer.update(grads, state, now)
      return optax.apply_updates(now, updates), state

    return jax.lax.fori_loop(0, 3, step, (before, optimizer.init(before)))[0]

  moved = jax.jit(lambda p: {group: fitted(p, group) for group in groups})(
    params()
  )
  for group in groups:
    check_only_group_moved(params(), moved[group], group)


def test_gradients_are_clipped_by_the_norm_of_the_group_alone():
  optimizer = steps.restricted(
    optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0)), "xattn-kv"
  )

  @jax.jit
  def updated(params):
    grads = jax.tree.map(jnp.ones_like, params)
    return optimizer.update(grads, optimizer.init(params), params)[0]

  updates = updated(params())
  # To keys and values: 2 kernels of 4 x 8 ones, norm 8.
  assert float(optax.tree.norm(updates)) == pytest.approx(1.0, rel=1e-5)
  block = updates["denoiser"]["block_0"]["attn2"]
  np.testing.assert_allclose(block["to_k"]["kernel"], -1 / 8, rtol=1e-5)


def test_a_restricted_optimiser_keeps_no_state_for_the_others():
  state = jax.eval_shape(
    steps.restricted(optax.adam(0.1), "xattn-kv").init, params()
  )
  # Two moments of 2 kernels, and a count.
  assert sum(leaf.size for leaf in jax.tree.leaves(state)) == 2 * 64 + 1


def test_few_images_are_one_per_prompt_at_least():
  """With one image the second prompt would never be seen."""
  make = lambda p: steps.made_images(
    MODEL, p, PROMPTS, jax.random.key(0), Sampling(3, num_images=1)
  )
  made = jax.eval_shape(make, jnp.float32(0.3))
  assert made["x"].shape == (3, 2, 1, 1)
