"""Schedules, samplers and guidance against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn import diffusion
from jaxunlearn.diffusion import samplers, schedules
from jaxunlearn.diffusion.types import Diffusion, Predictor

SHAPE = (2, 2, 1)
TIMES = 50
LEVELS = schedules.linear(TIMES, 1e-3, 0.12)


def gaussian(mean=0.7, variance=0.3, clip=None):
  """Data N(c, variance), c the prompt's first token times `mean`; exact eps.

  x_t is N(sqrt(a) c, a variance + 1 - a), so that the noise expected in x_t is
  sqrt(1 - a) (x_t - sqrt(a) c) / (a variance + 1 - a).
  """

  def eps(params, x, t, context):
    level = LEVELS[t][:, None, None, None]
    centre = params * context[:, 0, :1, None, None]
    spread = level * variance + 1 - level
    return jnp.sqrt(1 - level) * (x - jnp.sqrt(level) * centre) / spread

  return Diffusion(
    init=lambda key: jnp.float32(mean),
    eps=eps,
    encode=lambda params, tokens: tokens[..., None].astype(jnp.float32),
    null_tokens=jnp.zeros(3, jnp.int32),
    alphas_bar=LEVELS,
    image_shape=SHAPE,
    clip=clip,
  )


PARAMS = jnp.float32(0.7)
TOKENS = jnp.array([[1, 0, 0], [2, 0, 0], [-1, 5, 0]])
KEYS = jax.random.split(jax.random.key(3), 3)


def numpy_walk(
  x, centre, variance, times, eta, noises, clip=None, guidance=1.0
):
  """The sampler in float64; DDIM's equation 12 written out."""
  levels = np.cumprod(1 - np.linspace(1e-3, 0.12, TIMES))
  x = np.asarray(x, np.float64)
  for i, t in enumerate(times):
    a = levels[t]
    b = levels[times[i + 1]] if i + 1 < len(times) else 1.0
    spread = a * variance + 1 - a
    null = np.sqrt(1 - a) * x / spread
    prompted = np.sqrt(1 - a) * (x - np.sqrt(a) * centre) / spread
    eps = null + guidance * (prompted - null)
    clean = (x - np.sqrt(1 - a) * eps) / np.sqrt(a)
    if clip is not None:
      clean = np.clip(clean, -clip, clip)
      eps = (x - np.sqrt(a) * clean) / np.sqrt(1 - a)
    sigma = eta * np.sqrt((1 - b) / (1 - a) * (1 - a / b))
    x = np.sqrt(b) * clean + np.sqrt(1 - b - sigma**2) * eps
    x = x + sigma * noises[i]
  return x


def step_noises(num_steps):
  """What the sampler adds at each step, by its documented keys."""
  draw = lambda i: jax.vmap(
    lambda k: jax.random.normal(jax.random.fold_in(k, i + 1), SHAPE)
  )(KEYS)
  return [np.asarray(draw(i), np.float64) for i in range(num_steps)]


@pytest.mark.parametrize(
  "eta, clip, guidance",
  [(0.0, None, 3.0), (0.0, 0.8, 1.0), (0.5, 0.8, 0.0), (1.0, None, 3.0)],
)
def test_the_sampler_equals_the_float64_loop(eta, clip, guidance):
  model = gaussian(clip=clip)
  found = diffusion.sample(
    model, PARAMS, TOKENS, KEYS, num_steps=10, guidance=guidance, eta=eta
  )
  start = samplers.start_noise(model, KEYS)
  centre = 0.7 * np.asarray(TOKENS[:, 0], np.float64).reshape(3, 1, 1, 1)
  times = [49, 44, 39, 34, 29, 24, 19, 14, 9, 4]
  wanted = numpy_walk(
    start, centre, 0.3, times, eta, step_noises(10), clip, guidance
  )
  np.testing.assert_allclose(found, wanted, atol=2e-4)


def test_eta_one_on_all_times_is_the_ancestral_ddpm_step():
  model = gaussian()
  rng = np.random.default_rng(0)
  x, eps, noise = rng.normal(size=(3, 2, *SHAPE))
  betas = np.linspace(1e-3, 0.12, TIMES)
  levels = np.cumprod(1 - betas)
  t = np.array([20, 41])
  pick = lambda v: v[t].reshape(2, 1, 1, 1)
  before = levels[t - 1].reshape(2, 1, 1, 1)
  beta, level = pick(betas), pick(levels)
  clean = (x - np.sqrt(1 - level) * eps) / np.sqrt(level)
  # Ho et al. (2020), equations 6 and 7.
  mean = np.sqrt(before) * beta / (1 - level) * clean
  mean = mean + np.sqrt(1 - beta) * (1 - before) / (1 - level) * x
  wanted = mean + np.sqrt((1 - before) / (1 - level) * beta) * noise
  found = samplers.ddim_step(
    model,
    *(jnp.asarray(v, jnp.float32) for v in (x, eps)),
    jnp.asarray(t),
    jnp.asarray(t - 1),
    jnp.asarray(noise, jnp.float32),
    1.0,
  )
  np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_samples_have_the_known_mean_and_variance(eta):
  model, n = gaussian(), 4000
  levels = np.cumprod(1 - np.linspace(1e-3, 0.12, TIMES))
  # Noise of the exact law at the last time: its mean has not quite vanished.
  mean, variance = levels[-1] ** 0.5 * 0.7, 1 - 0.7 * levels[-1]
  noise = jax.random.normal(jax.random.key(1), (n, *SHAPE))
  x = diffusion.sample(
    model,
    PARAMS,
    jnp.tile(TOKENS[:1], (n, 1)),
    jax.random.key(0),
    num_steps=TIMES,
    guidance=1.0,
    eta=eta,
    noise=mean + variance**0.5 * noise,
  )
  # Each step is linear, x -> k x + c + sigma noise, so that the variance after
  # all 50 is known. That of the data, 0.3, is what finer grids tend to.
  for t in range(TIMES - 1, -1, -1):
    a, b = levels[t], levels[t - 1] if t else 1.0
    sigma2 = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
    eps = np.sqrt(1 - a) / (0.3 * a + 1 - a)
    k = np.sqrt(b / a) * (1 - np.sqrt(1 - a) * eps)
    k = k + np.sqrt(1 - b - sigma2) * eps
    variance = k**2 * variance + sigma2
  assert 0.25 < variance < 0.3
  # Five standard errors.
  count = x.size
  assert abs(float(x.mean()) - 0.7) < 5 * (variance / count) ** 0.5
  assert abs(float(x.var()) - variance) < 5 * variance * (2 / count) ** 0.5


def test_an_image_does_not_depend_on_its_batch():
  model = gaussian()
  kwargs = {"num_steps": 7, "eta": 1.0}
  together = diffusion.sample(model, PARAMS, TOKENS, KEYS, **kwargs)
  alone = diffusion.sample(model, PARAMS, TOKENS[1:2], KEYS[1:2], **kwargs)
  np.testing.assert_allclose(together[1:2], alone, atol=1e-6)


def test_one_key_is_split_into_one_for_each_image():
  model = gaussian()
  key = jax.random.key(4)
  one = diffusion.sample(model, PARAMS, TOKENS, key, num_steps=3)
  split = jax.random.split(key, 3)
  many = diffusion.sample(model, PARAMS, TOKENS, split, num_steps=3)
  np.testing.assert_array_equal(one, many)
  other = diffusion.sample(
    model, PARAMS, TOKENS, jax.random.key(5), num_steps=3
  )
  assert float(abs(one - other).max()) > 0.1


def test_two_parts_of_a_walk_make_the_whole_under_jit():
  model = gaussian(clip=1.5)
  predictor = diffusion.classifier_free(model, PARAMS, TOKENS, 2.0)
  start = samplers.start_noise(model, KEYS)
  kwargs = {"num_steps": 8, "eta": 0.5}
  whole = diffusion.walk(model, predictor, start, KEYS, **kwargs)

  @jax.jit
  def parts(stop):
    x = diffusion.walk(model, predictor, start, KEYS, stop=stop, **kwargs)
    return x, diffusion.walk(model, predictor, x, KEYS, start=stop, **kwargs)

  states = diffusion.trajectory(model, predictor, start, KEYS, **kwargs)
  np.testing.assert_allclose(states[0], start)
  np.testing.assert_allclose(states[-1], whole, atol=1e-6)
  for stop in (0, 3, 8):
    halfway, end = parts(stop)
    np.testing.assert_allclose(halfway, states[stop], atol=1e-6)
    np.testing.assert_allclose(end, whole, atol=1e-6)
  assert parts._cache_size() == 1


def test_a_predictor_carries_its_state_and_sees_the_step():
  """A guard that counts its calls and adds what it remembers."""
  model = gaussian()
  seen = []

  def predict(state, x, t, index):
    seen.append((t.shape, index.shape))
    return jnp.zeros_like(x) + state, state + index

  counter = Predictor(lambda x: jnp.float32(0), predict)
  x = jnp.zeros((3, *SHAPE))
  found = diffusion.walk(model, counter, x, KEYS, num_steps=3)
  # eps is 0, 0, 0 + 0 + 1: only the last step moves, from x = 0 at t = 16:
  # clean = -sqrt(1 - a) / sqrt(a), and the clean image is the result.
  times = np.asarray(schedules.sampling_times(TIMES, 3))
  level = np.cumprod(1 - np.linspace(1e-3, 0.12, TIMES))[times[-1]]
  np.testing.assert_allclose(found, -np.sqrt((1 - level) / level), rtol=1e-4)
  assert seen[0] == ((3,), ())


def test_guidance_zero_ignores_the_prompt_and_one_is_the_prompt():
  model = gaussian()
  x = jax.random.normal(jax.random.key(0), (3, *SHAPE))
  t = jnp.array([3, 20, 49])
  context = model.encode(PARAMS, TOKENS)
  null = model.eps(PARAMS, x, t, model.null_context(PARAMS, 3))
  prompted = model.eps(PARAMS, x, t, context)
  guided = lambda w: diffusion.guided_eps(model, PARAMS, x, t, context, w)
  np.testing.assert_array_equal(guided(0.0), null)
  np.testing.assert_allclose(guided(1.0), prompted, atol=1e-6)
  np.testing.assert_allclose(guided(4.0), 4 * prompted - 3 * null, atol=1e-5)
  assert float(abs(null - prompted).max()) > 0.1


def test_the_walk_can_be_differentiated_through():
  model = gaussian()

  def ends(mean):
    x = diffusion.sample(model, mean, TOKENS[:1], KEYS[:1], guidance=1.0)
    return x.sum()

  slope = jax.jit(jax.grad(ends))(PARAMS)
  wanted = (ends(PARAMS + 0.05) - ends(PARAMS - 0.05)) / 0.1
  np.testing.assert_allclose(slope, wanted, rtol=1e-2)


def test_schedules_are_products_of_their_betas():
  betas = np.linspace(1e-4, 0.02, 1000)
  np.testing.assert_allclose(
    schedules.linear(1000), np.cumprod(1 - betas), rtol=1e-5
  )
  betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
  np.testing.assert_allclose(
    schedules.scaled_linear(), np.cumprod(1 - betas), rtol=1e-5
  )
  level = lambda i: np.cos((i / 100 + 0.008) / 1.008 * np.pi / 2) ** 2
  i = np.arange(1, 99)
  np.testing.assert_allclose(
    schedules.cosine(100)[:98], level(i) / level(0), rtol=1e-4
  )


def test_the_grids_start_at_noise_or_end_at_the_cleanest_time():
  trailing = schedules.sampling_times(1000, 4)
  assert trailing.tolist() == [999, 749, 499, 249]
  leading = schedules.sampling_times(1000, 4, "leading")
  assert leading.tolist() == [750, 500, 250, 0]
  every = schedules.sampling_times(5, 5)
  assert every.tolist() == [4, 3, 2, 1, 0]


def test_the_true_noise_inverts_the_forward_process():
  rng = np.random.default_rng(1)
  x, noise = jnp.asarray(rng.normal(size=(2, 3, *SHAPE)), jnp.float32)
  t = jnp.array([0, 10, 49])
  noisy = schedules.add_noise(LEVELS, x, noise, t)
  level = np.asarray(LEVELS, np.float64)[np.asarray(t)].reshape(3, 1, 1, 1)
  np.testing.assert_allclose(
    noisy, np.sqrt(level) * x + np.sqrt(1 - level) * noise, atol=1e-6
  )
  np.testing.assert_allclose(
    schedules.predict_clean(LEVELS, noisy, noise, t), x, atol=1e-4
  )
  clipped = schedules.predict_clean(LEVELS, noisy, noise, t, 0.5)
  np.testing.assert_allclose(clipped, np.clip(x, -0.5, 0.5), atol=1e-4)
  # v = sqrt(a) noise - sqrt(1 - a) x, by definition.
  v = jnp.asarray(np.sqrt(level) * noise - np.sqrt(1 - level) * x, jnp.float32)
  np.testing.assert_allclose(
    schedules.eps_from_v(LEVELS, noisy, v, t), noise, atol=1e-5
  )


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda: schedules.linear(0), "num_train_steps > 0"),
    (lambda: schedules.linear(5, 0.1, 1.5), "betas between 0 and 1"),
    (lambda: schedules.linear(5, float("nan")), "betas between 0 and 1"),
    (lambda: schedules.scaled_linear(5, -0.1), "start in"),
    (lambda: schedules.cosine(5, -1.0), "offset >= 0"),
    (lambda: schedules.sampling_times(5, 6), "num_steps in 1 .. 5"),
    (lambda: schedules.sampling_times(5, 2, "middle"), "spacing"),
    (lambda: sampled(tokens=TOKENS[:, :2]), r"tokens int \[B, 3\]"),
    (lambda: sampled(tokens=TOKENS * 1.0), "tokens int "),
    (lambda: sampled(key=KEYS[:2]), "one key or keys"),
    (lambda: sampled(eta=1.5), r"eta in \[0, 1\]"),
    (lambda: sampled(num_steps=51), "num_steps in 1 .. 50"),
    (lambda: sampled(times=jnp.arange(3)), "times "),
    (lambda: sampled(times=jnp.arange(10)), "times to fall"),
    (lambda: sampled(times=jnp.arange(51, 41, -1)), "times in 0 .. 49"),
    (lambda: sampled(times=jnp.arange(10.0)), "times of integer dtype"),
    (lambda: sampled(noise=jnp.zeros((3, 2, 2, 2))), "noise float "),
    (lambda: sampled(noise=jnp.zeros((2, *SHAPE))), "noise for 3 images"),
    (lambda: sampled(noise=jnp.zeros((3, *SHAPE), int)), "noise float "),
    (lambda: part(stop=11), "stop in 0 .. 10"),
    (lambda: part(start=-1), "start in 0 .. 10"),
    (lambda: part(stop=np.int64(11)), "stop in 0 .. 10"),
    (lambda: part(start=jnp.int32(-1)), "start in 0 .. 10"),
    (lambda: part(keys=KEYS[:2]), "keys "),
  ],
)
def test_mistakes_are_named(call, message):
  refused(message, call)


def sampled(tokens=TOKENS, key=KEYS, **kwargs):
  kwargs = {"num_steps": 10, **kwargs}
  return diffusion.sample(gaussian(), PARAMS, tokens, key, **kwargs)


def part(keys=KEYS, **kwargs):
  model = gaussian()
  predictor = diffusion.classifier_free(model, PARAMS, TOKENS, 1.0)
  x = samplers.start_noise(model, KEYS)
  return diffusion.walk(model, predictor, x, keys, num_steps=10, **kwargs)
