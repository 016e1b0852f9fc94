"""Losses on tokens: against float64, their limits and their signs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn.losses import sequences

RNG = np.random.default_rng(0)


def test_npo_at_the_reference_is_ascent_plus_a_constant():
  score = jnp.asarray(RNG.normal(size=5) * 50, jnp.float32)
  for beta in (0.05, 0.1, 1.0, 4.5):
    value, slope = jax.vmap(
      jax.value_and_grad(lambda s, r, b=beta: sequences.npo(s, r, b))
    )(score, score)
    np.testing.assert_allclose(value, 2 / beta * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(slope, 1.0, rtol=1e-6)


def test_a_small_beta_is_ascent_on_the_sum_or_on_the_mean():
  with jax.enable_x64(True):
    score, reference = (jnp.asarray(RNG.normal(size=4) * 9) for _ in range(2))
    length, beta = jnp.array([3, 1, 7, 2]), 1e-4
    flat = 2 / beta * np.log(2)
    gap = score - reference
    found = sequences.npo(score, reference, beta) - flat
    np.testing.assert_allclose(found, gap + beta * gap**2 / 4, rtol=1e-6)
    found = sequences.simnpo(score, length, beta) - flat
    mean = score / length
    np.testing.assert_allclose(found, mean + beta * mean**2 / 4, rtol=1e-6)
    # Of one token and without a reference the two are one.
    np.testing.assert_allclose(
      sequences.simnpo(score, jnp.ones(4), 0.5),
      sequences.npo(score, jnp.zeros(4), 0.5),
    )


def test_nothing_overflows_and_what_is_forgotten_no_longer_pushes():
  far = jnp.array([-1e4, 1e4])
  slope = jax.vmap(jax.grad(lambda s: sequences.npo(s, jnp.zeros(()), 1.0)))
  np.testing.assert_allclose(slope(far), [0.0, 2.0])
  assert jnp.isfinite(sequences.npo(far, jnp.zeros(2), 1.0)).all()


def test_the_inverted_hinge_has_its_closed_form_and_slopes():
  with jax.enable_x64(True):
    z, label = jnp.asarray(RNG.normal(size=7)), jnp.array(2)
    value, slope = jax.value_and_grad(sequences.inverted_hinge)(z, label)
    p = np.asarray(jax.nn.softmax(z))
    others = np.delete(np.arange(7), 2)
    rival = others[p[others].argmax()]
    np.testing.assert_allclose(value, 1 + p[2] - p[rival])
    wanted = p * (p[rival] - p[2])
    wanted[2] = p[2] * (1 - p[2] + p[rival])
    wanted[rival] = -p[rival] * (1 - p[rival] + p[2])
    np.testing.assert_allclose(slope, wanted, atol=1e-12)
    np.testing.assert_allclose(slope.sum(), 0, atol=1e-12)
    np.testing.assert_allclose(
      sequences.inverted_hinge(z + 30, label), value, rtol=1e-12
    )
  uniform = jnp.zeros(9)
  assert sequences.inverted_hinge(uniform, jnp.array(0)) == 1
  sure = 100.0 * jax.nn.one_hot(jnp.array([4, 3]), 9)
  np.testing.assert_allclose(
    sequences.inverted_hinge(sure, jnp.array([4, 4])), [2, 0]
  )


def test_undial_without_strength_rests_at_its_teacher():
  logits = jnp.asarray(RNG.normal(size=(3, 6)), jnp.float32)
  labels = jnp.array([0, 5, 2])
  slope = jax.grad(lambda z, k: sequences.undial(z, logits, labels, k).sum())
  np.testing.assert_allclose(slope(logits, 0.0), 0, atol=1e-6)
  at_label = jnp.take_along_axis(slope(logits, 10.0), labels[:, None], 1)
  assert (at_label > 0).all()


def test_ceu_gives_the_true_token_no_target():
  logits = jnp.asarray(RNG.normal(size=6), jnp.float32)
  slope = jax.jit(jax.grad(sequences.ceu))(logits, jnp.array(1))
  p = jax.nn.softmax(logits)
  # softmax - target: of the label all of p, of the others a negative share.
  np.testing.assert_allclose(slope[1], p[1], rtol=1e-5)
  others = p * (jnp.arange(6) != 1)
  wanted = others - others / others.sum()
  np.testing.assert_allclose(
    jnp.delete(slope, 1), jnp.delete(wanted, 1), rtol=1e-4
  )


def test_token_weights_are_constants_and_plain_ascent_in_the_limit():
  log_p = jnp.log(jnp.array([0.1, 0.9]))
  np.testing.assert_allclose(sequences.wga_weight(log_p, 0.0), 1)
  np.testing.assert_allclose(sequences.wga_weight(log_p, 2.0), [0.01, 0.81])
  np.testing.assert_allclose(
    sequences.satimp_weight(log_p, 5.0, 1.0),
    [0.1**5 * 0.9, 0.9**5 * 0.1],
    rtol=1e-4,
  )
  slope = jax.grad(lambda x: sequences.satimp_weight(x, 5.0, 1.0).sum())(log_p)
  np.testing.assert_array_equal(slope, 0)
  assert jnp.isfinite(sequences.satimp_weight(jnp.zeros(1), 5.0, 1.0)).all()


# f, f* and g of each divergence: the variational form of Nowozin et al. (2016).
def _log(u):
  return np.log(np.maximum(u, 1e-300))


FORMS = {
  "kl": (lambda u: u * _log(u), lambda x: x),
  "reverse_kl": (lambda u: -_log(u), lambda x: -np.exp(-x)),
  "squared_hellinger": (
    lambda u: (np.sqrt(u) - 1) ** 2,
    lambda x: 1 - np.exp(-x),
  ),
  "pearson": (lambda u: (u - 1) ** 2, lambda x: x),
  "neyman": (lambda u: (1 - u) ** 2 / u, lambda x: 1 - np.exp(-x)),
  "jensen_shannon": (
    lambda u: -(u + 1) * _log((1 + u) / 2) + u * _log(u),
    lambda x: np.log(2) - np.log1p(np.exp(-x)),
  ),
  "total_variation": (lambda u: abs(u - 1) / 2, lambda x: np.tanh(x) / 2),
}


@pytest.mark.parametrize("name", FORMS)
def test_flat_is_the_variational_form_of_its_divergence(name):
  f, g = FORMS[name]
  u = np.concatenate([np.linspace(1e-6, 20, 2_000_001), [1.0]])
  conjugate = lambda t: (u * t - f(u)).max()
  with jax.enable_x64(True):
    for template, answer in ((0.3, 0.7), (1.0, 0.0), (0.0, 1.0), (0.5, 0.5)):
      wanted = -g(template) + conjugate(g(answer))
      found = sequences.flat(jnp.float64(template), jnp.float64(answer), name)
      assert float(found) == pytest.approx(wanted, abs=1e-4)


def test_jeffrey_is_a_series():
  value = float(sequences.flat(jnp.zeros(()), jnp.ones(()), "jeffrey"))
  assert value == 1.3125


@pytest.mark.parametrize("name", sequences.DIVERGENCES)
def test_flat_rewards_the_template_and_punishes_the_answer(name):
  grid = jnp.linspace(0, 1, 11)
  template, answer = (g.ravel() for g in jnp.meshgrid(grid, grid))
  loss = lambda t, a: sequences.flat(t, a, name)
  down, up = jax.vmap(jax.grad(loss, (0, 1)))(template, answer)
  assert (down < 0).all() and (up > 0).all()
  values = loss(template, answer)
  least = values.argmin()
  assert (template[least], answer[least]) == (1, 0)
  lowest = {
    "kl": -1 + np.exp(-1),
    "pearson": -1,
    "total_variation": -np.tanh(1) / 2,
    "squared_hellinger": np.exp(-1) - 1,
  }
  if name in lowest:
    np.testing.assert_allclose(values[least], lowest[name], rtol=1e-6)


def test_the_mean_probability_looks_at_counted_tokens_only():
  log_p = jnp.log(jnp.array([[0.2, 0.4, 0.9], [0.5, 0.5, 0.5]]))
  mask = jnp.array([[1, 1, 0], [0, 0, 0]], bool)
  found = sequences.answer_probability(log_p.at[0, 2].set(jnp.nan), mask)
  np.testing.assert_allclose(found, [0.3, 0.0], rtol=1e-6)


def test_bad_options_are_refused():
  score = jnp.zeros(2)
  refused("beta > 0", sequences.npo, score, score, 0.0)
  refused("divergence to be one of", sequences.flat, score, score, "chi")
