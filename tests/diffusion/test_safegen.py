"""SafeGen against its formula in float64, what it moves, and mosaics."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import refused
from tiny_diffusion import (
  LEVELS,
  check_only_group_moved,
  gain_of,
  linear,
  linear_params,
  params,
  small,
)

from jaxunlearn.core.types import Request
from jaxunlearn.diffusion.safegen import PUBLISHED, mosaic, safegen

KEY = jax.random.key(2)
X = np.random.default_rng(0).uniform(-1, 1, (6, 2, 2, 3)).astype(np.float32)
DATA = {"x": jnp.asarray(X), "censored": jnp.asarray(0.25 * X)}
FORGET = jnp.arange(6) < 3
REQUEST = Request(FORGET, ~FORGET)


def run(gain=0.3, rate=0.0, **options):
  """One step of all rows; nothing but the gain moves."""
  fit = safegen(
    linear(),
    optimizer=optax.sgd(rate),
    num_steps=1,
    batch_size=3,
    group="xattn",
    **options,
  )
  return jax.jit(fit)(linear_params(gain), DATA, REQUEST, KEY)


def test_the_loss_is_that_of_the_formula():
  """eps = g x_t under the empty prompt: of other noise, in expectation.

  E |g (s x + r n) - (d + n)|^2 = (g s x - d)^2 + (g r - 1)^2, d = x - m for the
  concept's rows and 0 for others; the mean over 40 times, and 400 draws of it.
  """
  signal, spread = np.sqrt(np.float64(LEVELS)), np.sqrt(1 - np.float64(LEVELS))
  x, g = np.float64(X), 0.3

  def expected(rows, d):
    along = [(g * s * rows - d) ** 2 for s in signal]
    return np.mean(along) + np.mean((g * spread - 1) ** 2)

  wanted = 0.1 * expected(x[:3], 0.75 * x[:3]) + 0.9 * expected(x[3:], 0.0)
  fit = safegen(
    linear(),
    optimizer=optax.sgd(0.0),
    num_steps=400,
    batch_size=3,
    group="xattn",
  )
  losses = jax.jit(fit)(linear_params(g), DATA, REQUEST, KEY)[1].loss
  error = float(losses.std()) / 20
  assert float(losses.mean()) == pytest.approx(wanted, abs=4 * error)
  assert error < 0.02 * wanted


def test_weights_choose_between_the_two_kinds():
  both = float(run(forget_weight=0.5, retain_weight=2.0)[1].loss[0])
  forget = float(run(forget_weight=1.0, retain_weight=0.0)[1].loss[0])
  retain = float(run(forget_weight=0.0, retain_weight=1.0)[1].loss[0])
  assert both == pytest.approx(0.5 * forget + 2 * retain, rel=1e-5)


def test_what_is_censored_to_itself_is_only_trained_on():
  """Then the target is the noise for all rows."""
  same = lambda rows: rows["x"]
  plain = run(forget_weight=1.0, retain_weight=1.0, censored=same)
  moved = run(forget_weight=1.0, retain_weight=1.0)
  assert abs(float(plain[1].loss[0] - moved[1].loss[0])) > 1e-3
  # The gain's gradient of both kinds is that of the noise alone.
  end = run(rate=0.1, forget_weight=1.0, retain_weight=1.0, censored=same)[0]
  assert float(gain_of(end)) > 0.3  # The noise's own gain is 1 / spread > 1.


def test_only_the_group_moves_and_self_attention_must_be_there():
  fit = safegen(
    small(),
    optimizer=optax.adamw(1e-2, weight_decay=0.1),
    num_steps=2,
    batch_size=3,
    group="noxattn",
  )
  end, _ = jax.jit(fit)(params(), DATA, REQUEST, KEY)
  check_only_group_moved(params(), end, "noxattn")
  none = safegen(small(), num_steps=1)
  refused(
    "parameters in the group 'selfattn'", none, params(), DATA, REQUEST, KEY
  )


def test_the_published_settings():
  update, _ = PUBLISHED.optimizer.update(
    jnp.float32(7.0), PUBLISHED.optimizer.init(jnp.float32(1)), jnp.float32(1)
  )
  assert float(update) == pytest.approx(-1e-5 * (1 + 1e-2), rel=1e-4)
  assert PUBLISHED[1:3] == (1000, 5)


def test_a_mosaic_holds_the_means_of_its_blocks():
  found = mosaic(jnp.arange(16.0).reshape(1, 4, 4, 1), 2)[0, :, :, 0]
  wanted = np.array([[2.5, 4.5], [10.5, 12.5]]).repeat(2, 0).repeat(2, 1)
  np.testing.assert_allclose(found, wanted)
  refused("size to divide", mosaic, jnp.zeros((1, 4, 4, 1)), 3)


def test_bad_input_is_refused():
  refused("group", safegen, linear(), group="none")
  refused("forget_weight", safegen, linear(), forget_weight=-1.0)
  refused("censored", safegen, linear(), censored=3)
  without = {"x": DATA["x"]}
  fit = safegen(linear(), num_steps=1, group="xattn")
  refused("'censored'", fit, linear_params(0.3), without, REQUEST, KEY)
  half = safegen(
    linear(), num_steps=1, group="xattn", censored=lambda rows: rows["x"][:, :1]
  )
  refused("censored float ", half, linear_params(0.3), DATA, REQUEST, KEY)
