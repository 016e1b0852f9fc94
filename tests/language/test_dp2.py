"""DP-SGD's sums and noise, its accountant, and rewritten tokens."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_text
from refusals import refused
from scipy import special

import jaxunlearn as ju
from jaxunlearn import language
from jaxunlearn.language import dp2, privacy

KEY = jax.random.key(0)
MASK = jnp.arange(8) < 3


@pytest.fixture(scope="module")
def rows():
  lm, variables = small_text.small("llama")
  return lm, variables, {"x": small_text.texts(8, 8, 19, seed=1)}


def test_without_noise_and_bound_a_step_is_the_mean_gradient_of_rows(rows):
  """Of all rows, each a mean over its own tokens."""
  lm, variables, data = rows
  fit = ju.Fit(optax.sgd(0.1), 1, ju.ALL)
  method = language.protect(lm, fit, clip_norm=jnp.inf, noise_multiplier=0.0)
  made, info = method.compiled(variables, data, MASK, KEY)

  def mean(params):
    out = language.token_nll(lm, ju.Variables(params), data["x"])
    return (out.value / jnp.maximum(out.weight, 1e-12)).mean()

  wanted = jax.tree.map(
    lambda p, g: np.asarray(p) - 0.1 * np.asarray(g),
    variables.params,
    jax.jit(jax.grad(mean))(variables.params),
  )
  chex.assert_trees_all_close(made.params, wanted, rtol=1e-4, atol=1e-5)
  assert info.rows.tolist() == [8] and not info.overflow


def _toy(clip_norm, weight=(1, 1, 1)):
  """Three rows whose gradients are these."""
  grads = {"a": jnp.array([[3.0, 0.0], [0.3, 0.0], [0.0, 0.0]])}
  grads["b"] = jnp.array([[4.0], [0.4], [0.0]])
  return dp2.clipped_sum(
    lambda row: row,
    grads,
    jnp.array(weight, jnp.float32),
    clip_norm,
    chunk_size=2,
  )


def test_a_row_moves_the_sum_by_the_bound_at_most():
  every, without = _toy(1.0), _toy(1.0, (0, 1, 1))
  np.testing.assert_allclose(every["a"], [0.9, 0], rtol=1e-6)
  np.testing.assert_allclose(every["b"], [1.2], rtol=1e-6)
  moved = optax.tree.norm(jax.tree.map(jnp.subtract, every, without))
  np.testing.assert_allclose(moved, 1.0, rtol=1e-6)
  np.testing.assert_allclose(_toy(jnp.inf)["b"], [4.4], rtol=1e-6)


@pytest.mark.filterwarnings("ignore:optax.global_norm is deprecated")
def test_it_is_the_sum_of_jax_privacy():
  jax_privacy = pytest.importorskip(
    "jax_privacy", reason="the extra `privacy` is not installed"
  )
  w, x = jnp.arange(3.0), jnp.array([[1.0, 2, 0], [0.1, 0, 0], [3, 3, 3]])
  loss = lambda w, row: ((row * w).sum() - 1) ** 2
  theirs = jax_privacy.clipped_grad(
    loss, l2_clip_norm=0.7, keep_batch_dim=False
  )
  ours = dp2.clipped_sum(
    lambda row: jax.grad(loss)(w, row), x, jnp.ones(3), 0.7
  )
  np.testing.assert_allclose(ours, theirs(w, x), rtol=1e-6)


def test_noise_has_its_deviation_and_leaves_have_their_own():
  tree = {"a": jnp.zeros(40_000), "b": jnp.zeros(40_000)}
  found = dp2.noisy(tree, 2.5, KEY)
  for leaf in found.values():
    np.testing.assert_allclose(leaf.std(), 2.5, rtol=0.02)
  assert abs(np.corrcoef(found["a"], found["b"])[0, 1]) < 0.02


def test_rows_are_drawn_by_chance_each_by_itself_and_invisible_ones_never(rows):
  lm, variables, data = rows
  fit = ju.Fit(optax.sgd(0.05), 60, 2)
  method = language.protect(lm, fit, clip_norm=0.1, noise_multiplier=0.0)
  made, info = method.compiled(variables, data, MASK, KEY)
  assert info.is_finite and info.rows.min() == 0 and not info.overflow
  np.testing.assert_allclose(info.rows.mean(), 2, atol=0.5)
  other, _ = method.compiled(variables, data, ~MASK, KEY)
  chex.assert_trees_all_equal(other, made)  # Whoever is to go, all were used.
  hidden = ju.Request(MASK, jnp.zeros(8, bool))
  _, few = method.compiled(variables, data, hidden, KEY)
  assert few.rows.mean() < info.rows.mean()


def _renyi(q, sigma, steps, delta):
  """Epsilon of integer orders, in NumPy."""
  best = math.inf
  for a in range(2, 200):
    k = np.arange(a + 1)
    log = special.gammaln(a + 1) - special.gammaln(k + 1)
    log = log - special.gammaln(a - k + 1) + k * math.log(q)
    log = log + (a - k) * math.log1p(-q) + (k**2 - k) / (2 * sigma**2)
    rdp = steps * special.logsumexp(log) / (a - 1)
    epsilon = rdp + math.log1p(-1 / a) - math.log(delta * a) / (a - 1)
    best = min(best, epsilon)
  return best


def test_the_accountant_agrees_with_one_of_our_own():
  pytest.importorskip(
    "jax_privacy", reason="the extra `privacy` is not installed"
  )
  case = {
    "batch_size": 100,
    "num_rows": 10_000,
    "num_steps": 10_000,
    "delta": 1e-5,
  }
  found = privacy.epsilon(1.1, **case)
  np.testing.assert_allclose(found, _renyi(0.01, 1.1, 10_000, 1e-5), rtol=0.02)
  few = {"batch_size": 10, "num_rows": 160, "num_steps": 50, "delta": 1e-3}
  sigmas = [privacy.noise_multiplier(e, **few) for e in (1.0, 4.0)]
  assert sigmas[0] > sigmas[1] > 0
  more = privacy.noise_multiplier(4.0, **{**few, "num_steps": 200})
  assert more > sigmas[1]
  assert privacy.epsilon(sigmas[1], **few) <= 4.0 + 1e-6
  refused("delta in", privacy.epsilon, 1.0, **{**few, "delta": 1.0})


def test_groups_of_rows_have_more_to_fear():
  assert privacy.group_privacy(0.5, 1e-6, 1) == (0.5, pytest.approx(1e-6))
  assert privacy.group_privacy(0.0, 1e-6, 3) == (0.0, pytest.approx(3e-6))
  epsilon, delta = privacy.group_privacy(0.5, 1e-6, 3)
  assert epsilon == 1.5
  np.testing.assert_allclose(delta, 1e-6 * (1 + math.exp(0.5) + math.exp(1.0)))


def test_tokens_are_drawn_by_the_exponential_mechanism():
  scores = jnp.array([9.0, 1.0, 0.0, -9.0, 0.5])
  tokens = jnp.zeros((400, 100), jnp.int32).at[:, 50:].set(7)
  x = language.Text(tokens, jnp.full(400, 90), jnp.ones(400, jnp.int32))
  selected = jnp.arange(100)[None] < jnp.full((400, 1), 60)
  call = jax.jit(
    lambda e, s: language.rewrite(x, selected, s, e, (-1.0, 1.0), KEY).tokens
  )
  for epsilon in (0.0, 3.0, 1e4):
    said = np.asarray(call(epsilon, scores))
    assert (said[:, 60:] == tokens[:, 60:]).all()
    share = np.bincount(said[:, :60].ravel(), minlength=5) / said[:, :60].size
    clipped = np.clip(np.asarray(scores), -1, 1)
    wanted = special.softmax(epsilon * clipped / 4)
    np.testing.assert_allclose(share, wanted, atol=0.015)
    assert (
      share.max() / max(share.min(), 1e-9) <= math.exp(min(epsilon, 50)) * 1.1
    )
  per_place = jnp.broadcast_to(scores, (400, 100, 5))
  again = call(3.0, per_place)
  assert (again[:, 60:] == tokens[:, 60:]).all()
  np.testing.assert_array_equal(call(3.0, scores), call(3.0, scores))


def test_phase_two_hangs_on_its_base_and_the_rest_alone(rows):
  lm, variables, data = rows
  unlearn = ju.methods.finetune(
    lm, optimizer=optax.sgd(0.1), num_steps=2, batch_size=4
  )
  masks = jnp.stack([MASK, jnp.arange(8) > 5])
  keys = jnp.stack([KEY, KEY])
  many = jax.jit(jax.vmap(unlearn, in_axes=(None, None, 0, 0)))
  made, _ = many(variables, data, masks, keys)
  spoilt = jax.tree.map(lambda leaf: leaf.at[:3].set(1), data)
  other, _ = many(variables, spoilt, masks, keys)
  first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)
  chex.assert_trees_all_equal(first(made), first(other))


def test_with_nothing_to_forget_phase_two_is_fine_tuning_on_all(rows):
  lm, variables, data = rows
  unlearn = ju.methods.finetune(
    lm, optimizer=optax.sgd(0.1), num_steps=2, batch_size=ju.ALL
  )
  none = jnp.zeros(8, bool)
  made, _ = unlearn.compiled(variables, data, none, KEY)

  def mean(params):
    out = language.token_nll(lm, ju.Variables(params), data["x"])
    return out.value.sum() / out.weight.sum()

  wanted = variables.params
  for _ in range(2):
    grads = jax.jit(jax.grad(mean))(wanted)
    wanted = jax.tree.map(lambda p, g: p - 0.1 * g, wanted, grads)
  chex.assert_trees_all_close(made.params, wanted, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_is_refused(rows):
  lm, variables, data = rows
  fit = ju.Fit(optax.sgd(0.1), 1, 9)
  make = lambda **more: language.protect(
    lm, fit, **{"noise_multiplier": 1.0, **more}
  )
  refused("clip_norm > 0", make, clip_norm=0.0)
  refused("noise_multiplier >= 0", make, noise_multiplier=-1.0)
  refused("without augment_rows", make, augment_rows=lambda k, rows: rows)
  refused("batch_size <= 8", make(), variables, data, MASK, KEY)
  stateful = variables._replace(model_state={"mean": jnp.zeros(3)})
  refused("without state", make(), stateful, data, MASK, KEY)
  x, chosen = data["x"], jnp.ones((8, 8), bool)
  call = lambda *more: language.rewrite(x, chosen, *more, KEY)
  refused("epsilon >= 0", call, jnp.zeros(19), -1.0, (0.0, 1.0))
  refused("low < high", call, jnp.zeros(19), 1.0, (1.0, 1.0))
  refused("selected", call, jnp.zeros((8, 19)), 1.0, (0.0, 1.0))
  refused("rows", privacy.group_privacy, 1.0, 0.1, 0)
