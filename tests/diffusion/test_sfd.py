"""Score forgetting distillation: its losses, its loop, and its refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import refused

from jaxunlearn.core.combinators import chain
from jaxunlearn.core.tasks import Fit
from jaxunlearn.core.transform import Carry, Env
from jaxunlearn.core.types import Request, Variables
from jaxunlearn.diffusion import schedules
from jaxunlearn.diffusion.score_distillation import (
  one_step,
  published_times,
  score_identity_loss,
)
from jaxunlearn.diffusion.sfd import FAKE_SCORE, Distillation, sfd
from jaxunlearn.diffusion.types import Diffusion

SHAPE = (2, 1, 3)
LEVELS = schedules.linear(100, 1e-3, 0.12)
FORGET = jnp.array([[1, 2], [1, 3]])
OVERRIDE = jnp.array([[1, 4], [1, 5]])
RETAIN = jnp.array([[1, 4], [1, 5], [1, 6]])
NO_ROWS = Request()
KEY = jax.random.key(3)


def small_model(levels=LEVELS):
  """eps = x @ scale + a row of a table for the last word."""

  def init(key):
    first, second, third = jax.random.split(key, 3)
    return {
      "denoiser": {
        "scale": jax.random.normal(first, (3, 3)) / 4,
        "word": jax.random.normal(second, (4, 3)) / 2,
      },
      "text_encoder": {"embedding": jax.random.normal(third, (8, 4))},
    }

  def eps(p, x, t, c):
    shift = c[:, -1] @ p["denoiser"]["word"]
    time = (t / 200)[:, None, None, None]
    return x @ p["denoiser"]["scale"] + (1 - time) * shift[:, None, None]

  return Diffusion(
    init=init,
    eps=eps,
    encode=lambda p, tokens: p["text_encoder"]["embedding"][tokens],
    null_tokens=jnp.array([1, 0]),
    alphas_bar=levels,
    image_shape=SHAPE,
    vocab_size=8,
  )


MODEL = small_model()


@functools.cache
def params(seed=0):
  return MODEL.init(jax.random.key(seed))


def clipped(rate):
  return optax.chain(optax.clip(1.0), optax.adam(rate, b1=0.0))


def method(
  forget=FORGET,
  override=OVERRIDE,
  optimizer=None,
  fake_optimizer=None,
  batch_size=4,
  num_steps=3,
  retain_tokens=RETAIN,
  ema_decay=0.5,
  **loss,
):
  return sfd(
    MODEL,
    forget,
    override,
    Fit(optimizer or clipped(1e-3), num_steps, batch_size),
    fake=Fit(fake_optimizer or clipped(3e-3), 1, batch_size),
    retain_tokens=retain_tokens,
    loss=Distillation(**{"forget_weight": 1.0, **loss}),
    ema_decay=ema_decay,
  )


def run(transform, q=None, key=KEY):
  q = params() if q is None else q
  return jax.jit(transform)(q, None, NO_ROWS, key)


def _with_fake(transform):
  """`(generator, fake score, frozen model)` in place of the generator."""

  def call(q, rows, request, key):
    start = Carry(Variables(q), Variables(q), {})
    carry, info = transform.run(start, rows, request, key, Env())
    trees = carry.variables.params, carry[FAKE_SCORE]
    return (*trees, carry.original.params), info

  return call


@jax.jit
def fit(q, key, given):
  """Three steps of gradient descent; one program for many tests."""
  given = dict(given)
  transform = method(
    given.pop("forget"),
    given.pop("override"),
    optimizer=optax.sgd(given.pop("rate")),
    fake_optimizer=optax.sgd(given.pop("fake_rate")),
    **given,
  )
  return _with_fake(transform)(q, None, NO_ROWS, key)


def fitted(key=KEY, q=None, **given):
  """`((generator, fake score, frozen model), info)`."""
  defaults = {
    "forget": FORGET,
    "override": OVERRIDE,
    "rate": 1e-2,
    "fake_rate": 1e-2,
    "forget_weight": 1.0,
    "ema_decay": 0.5,
  }
  q = params() if q is None else q
  given = {**defaults, **given}
  given = {
    k: jnp.array(v, jnp.int32 if jnp.ndim(v) else jnp.float32)
    for k, v in given.items()
  }
  return fit(q, key, given)


def flat(tree):
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def test_the_generator_is_its_formula():
  level = float(np.cumprod(1 - np.linspace(1e-3, 0.12, 100))[55])
  sigma = np.sqrt((1 - level) / level)
  z = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
  for k in (0.0, 0.7):
    # A model that finds the share k of the noise z of its input.
    scaled = MODEL._replace(
      eps=lambda p, x, t, c, k=k: k * x / np.sqrt(1 - level)
    )
    found = one_step(scaled, params(), RETAIN, KEY, time=55, noise=z)
    np.testing.assert_allclose(found, sigma * (1 - k) * z, rtol=1e-4, atol=1e-5)
  shifted = one_step(MODEL, params(), RETAIN, KEY, time=55, noise=z)
  p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params())
  words = p["text_encoder"]["embedding"][np.asarray(RETAIN)[:, 1]]
  eps = np.sqrt(1 - level) * z @ p["denoiser"]["scale"]
  eps = eps + (1 - 55 / 200) * (words @ p["denoiser"]["word"])[:, None, None]
  np.testing.assert_allclose(shifted, sigma * (z - eps), rtol=1e-4, atol=1e-4)
  own = one_step(MODEL, params(), RETAIN, KEY)
  again = one_step(MODEL, params(), RETAIN, KEY, time=published_times(MODEL)[1])
  np.testing.assert_array_equal(own, again)


def test_the_published_times_are_those_of_their_schedule():
  published = small_model(schedules.linear(1000, 1e-4, 0.02))
  assert published_times(published) == (38, 440, 712)
  assert published_times(MODEL) == (4, 55, 90)
  # Zero signal at the end, as some schedules have it, is no nearer.
  assert published_times(small_model(LEVELS.at[-1].set(0.0))) == (4, 55, 90)
  with pytest.raises(ValueError, match="times for a traced schedule"):
    jax.jit(lambda a: published_times(small_model(a)))(LEVELS)
  with pytest.raises(ValueError, match=r"short or flat, .* 0, 0, 0"):
    published_times(small_model(jnp.array([0.5])))


def images(seed=0):
  rng = np.random.default_rng(seed)
  return [rng.normal(size=(5, *SHAPE)).astype(np.float32) for _ in range(3)]


def test_the_loss_is_that_of_score_identity_distillation():
  real, fake, x = images()
  for alpha in (0.0, 1.0, 1.2):
    gap = (real - fake).astype(np.float64)
    omega = abs(real - x).astype(np.float64).mean(axis=(1, 2, 3))
    wanted = (gap * ((real - x) - alpha * gap)).sum(axis=(1, 2, 3)) / omega
    found = score_identity_loss(real, fake, x, alpha)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
  short = ((real - fake) * (fake - x)).sum(axis=(1, 2, 3)) / omega
  np.testing.assert_allclose(
    score_identity_loss(real, fake, x, 1.0), short, rtol=1e-4, atol=1e-5
  )
  assert np.isfinite(score_identity_loss(x, fake, x)).all()


def test_what_the_loss_is_divided_by_has_no_gradient():
  _, fake, x = images()

  def with_value(omega):
    gap = lambda x: 2 * x - fake
    loss = lambda x: (gap(x) * ((2 * x - x) - 1.2 * gap(x))).sum((1, 2, 3))
    return jax.grad(lambda x: (loss(x) / omega).sum())(x)

  # `real` depends on x, and so does omega.
  found = jax.grad(lambda x: score_identity_loss(2 * x, fake, x).sum())(x)
  omega = abs(2 * x - x).mean(axis=(1, 2, 3))
  np.testing.assert_allclose(found, with_value(omega), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_perfect_fake_score_leaves_the_generator_alone():
  """Same prompts, same networks: the loss and its gradient are 0."""
  t, tokens = jnp.array([40] * 3), RETAIN

  def alike(x):
    context = MODEL.encode(params(), tokens)
    clean = lambda: schedules.predict_clean(
      LEVELS, x, MODEL.eps(params(), x, t, context), t
    )
    return score_identity_loss(clean(), clean(), x)

  x = jnp.asarray(images()[0][:3])
  assert (alike(x) == 0).all()
  # Equal terms are added up in two orders.
  assert abs(jax.grad(lambda x: alike(x).sum())(x)).max() < 1e-6
  still = {"rate": 1.0, "fake_rate": 0.0}
  (out, *_), info = fitted(forget_weight=0.0, **still)
  # What the compiler fuses in two ways differs in the last bits.
  assert abs(info["rounds"]["generator"].loss).max() < 1e-5
  np.testing.assert_allclose(flat(out), flat(params()), atol=1e-5, rtol=0)
  # The cross term of the concept has a gradient at once.
  (out, *_), info = fitted(**still)
  assert abs(info["rounds"]["generator"].loss[0]).min() > 0.1
  assert abs(flat(out) - flat(params())).max() > 0.1


def test_one_step_is_a_step_of_each_network_on_the_stated_losses():
  """Times that allow one value only, and prompts of one kind each."""
  t, init, rate = 30, 55, 1e-3
  transform = method(
    forget=FORGET[:1],
    override=OVERRIDE[:1],
    retain_tokens=RETAIN[2:],
    optimizer=optax.sgd(rate),
    fake_optimizer=optax.sgd(rate),
    num_steps=1,
    batch_size=4000,
    ema_decay=0.0,
    times=(t, init, t + 1),
    forget_weight=0.5,
    retain_weight=2.0,
  )
  (generator, fake, _), _ = run(_with_fake(transform))
  rng = jax.random.split(jax.random.key(77), 4)
  z, noise = (jax.random.normal(k, (4000, *SHAPE)) for k in rng[:2])
  level = float(np.cumprod(1 - np.linspace(1e-3, 0.12, 100))[t])
  times = jnp.full(4000, t)

  def noisy(q, tokens, frozen):
    x = one_step(MODEL, q, tokens, KEY, time=init, noise=z)
    x = jax.lax.stop_gradient(x) if frozen else x
    return x, np.sqrt(level) * x + np.sqrt(1 - level) * noise

  def eps(q, x, tokens):
    return MODEL.eps(q, x, times, MODEL.encode(q, tokens))

  def clean(q, x, tokens):
    return (x - np.sqrt(1 - level) * eps(q, x, tokens)) / np.sqrt(level)

  words = lambda row: jnp.broadcast_to(row, (4000, 2))
  kept, asked, told = (words(r[0]) for r in (RETAIN[2:], FORGET, OVERRIDE))

  def fake_loss(q):
    total = 0.0
    for tokens, weight in ((kept, 2.0), (asked, 0.5)):
      _, x_t = noisy(params(), tokens, True)
      error = ((eps(q, x_t, tokens) - noise) ** 2).sum(axis=(1, 2, 3))
      total += weight * error.mean()
    return total

  def generator_loss(q):
    total = 0.0
    for tokens, teacher, weight in ((kept, kept, 2.0), (asked, told, 0.5)):
      x, x_t = noisy(q, tokens, False)
      losses = score_identity_loss(
        clean(params(), x_t, teacher), clean(fake, x_t, tokens), x
      )
      total += weight * losses.mean()
    return total

  for found, loss in ((fake, fake_loss), (generator, generator_loss)):
    step = (flat(found["denoiser"]) - flat(params()["denoiser"])) / -rate
    wanted = flat(jax.jit(jax.grad(loss))(params())["denoiser"])
    # Other noise, of 4000 images: means agree to about a fiftieth.
    scale = abs(wanted).max()
    assert scale > 0.1
    np.testing.assert_allclose(step, wanted, atol=0.1 * scale, rtol=0)


def test_a_slow_average_moves_in_half_precision():
  """A thousandth of a step is less than a bfloat16 of that size can add."""
  half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params())
  transform = method(ema_decay=0.999, num_steps=20, optimizer=optax.sgd(1e-2))
  out, _ = run(transform, half)
  assert {p.dtype for p in jax.tree.leaves(out)} == {jnp.dtype(jnp.bfloat16)}
  assert (flat(out["denoiser"]) != flat(half["denoiser"])).any()
  np.testing.assert_array_equal(
    flat(out["text_encoder"]), flat(half["text_encoder"])
  )


def test_the_average_is_what_comes_back():
  still = optax.sgd(0.0)
  after = jax.jit(
    lambda decay: method(num_steps=1, fake_optimizer=still, ema_decay=decay)(
      params(), None, NO_ROWS, KEY
    )[0]
  )
  step, half, none = (after(decay) for decay in (0.0, 0.75, 1.0))
  moved = flat(step) - flat(params())
  assert abs(moved).max() > 1e-4
  np.testing.assert_allclose(
    flat(half) - flat(params()), moved / 4, atol=1e-6, rtol=0
  )
  np.testing.assert_array_equal(flat(none), flat(params()))
  nothing, _ = run(method(num_steps=0))
  np.testing.assert_array_equal(flat(nothing), flat(params()))


def test_without_weight_the_concept_is_not_looked_at():
  (wanted, *_), _ = fitted(forget_weight=0.0)
  (other, *_), _ = fitted(
    forget=FORGET[::-1], override=RETAIN[1:], forget_weight=0.0
  )
  np.testing.assert_array_equal(flat(wanted), flat(other))
  (asked, *_), _ = fitted()
  assert (flat(asked) != flat(wanted)).any()
  # Not even where the model has no answer to it.
  broken = params()["text_encoder"]["embedding"].at[FORGET[0, 1]].set(jnp.nan)
  q = {**params(), "text_encoder": {"embedding": broken}}
  (found, *_), _ = fitted(q=q, forget_weight=0.0)
  np.testing.assert_array_equal(
    flat(found["denoiser"]), flat(wanted["denoiser"])
  )
  (found, *_), _ = fitted(q=q)
  assert not np.isfinite(flat(found["denoiser"])).all()


def test_a_second_stage_goes_on_with_the_fake_score_and_the_same_teacher():
  sgd = optax.sgd(1e-2)
  first = method(forget_weight=0.0, optimizer=sgd, fake_optimizer=sgd)
  both, _ = run(_with_fake(chain(first, method(num_steps=0))))
  alone, _ = fitted(key=jax.random.split(KEY)[0], forget_weight=0.0)
  for found, wanted in zip(both, alone):
    np.testing.assert_allclose(flat(found), flat(wanted), atol=1e-6)
  for tree in alone[:2]:
    assert abs(flat(tree) - flat(params())).max() > 1e-4


@pytest.mark.slow
def test_guidance_one_is_no_guidance():
  sgd = {"optimizer": optax.sgd(1e-2), "fake_optimizer": optax.sgd(1e-2)}
  guided = jax.jit(
    lambda w: method(guidance=w, **sgd)(params(), None, NO_ROWS, KEY)[0]
  )
  (wanted, *_), _ = fitted()
  np.testing.assert_allclose(flat(guided(1.0)), flat(wanted), atol=2e-5, rtol=0)
  assert abs(flat(guided(4.5)) - flat(wanted)).max() > 1e-3


def test_the_empty_prompt_may_be_an_override_and_be_kept():
  null = MODEL.null_tokens[None]
  retain = jnp.concatenate([RETAIN, null])
  assert method(FORGET[:1], null, retain_tokens=retain).num_steps == 6
  refused("forget_tokens to name a concept", method, null, OVERRIDE[:1])


def test_a_time_out_of_range_is_refused():
  refused(r"time in 0 .. 99", one_step, MODEL, params(), RETAIN, KEY, time=100)
