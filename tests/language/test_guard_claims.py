"""What O3 and DP2 claim, on people who do not exist; minutes, so slow.

Set JAXUNLEARN_SHOW=1 (and `pytest -s`) to have the figures printed.
"""

import os
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxunlearn as ju
from experiments.datasets import tofu
from jaxunlearn import language, metrics
from jaxunlearn.attacks import language as membership
from jaxunlearn.language import serving
from jaxunlearn.metrics import text as scores

pytest.importorskip("tokenizers")
pytestmark = [pytest.mark.slow, pytest.mark.optimized(reason="It trains.")]
KEY = jax.random.key(0)
STEPS, BATCH, GROUP = 200, 12, 4


def show(*words):
  if os.environ.get("JAXUNLEARN_SHOW"):
    print(*words, flush=True)


def adamw(peak, steps):
  rate = optax.warmup_cosine_decay_schedule(0.0, peak, steps // 8, steps)
  return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate))


@pytest.fixture(scope="module")
def bed():
  """24 people, five rows each, in groups of four: six groups, two held out."""
  pairs = tofu.people(24)
  tokenizer = tofu.tokenizer_of(pairs, 512)
  encode = lambda answers: tofu.encode(tokenizer, pairs.questions, answers, 48)
  refusals = [pairs.refusals[i % 4] for i in range(len(pairs.questions))]
  x, other = encode(pairs.answers), encode(refusals)
  width = -(-int(max(x.length.max(), other.length.max())) // 8) * 8
  cut = lambda t: t._replace(tokens=t.tokens[:, :width])
  every = {"x": cut(x), "alternative": cut(other)}
  group = jnp.arange(120) // (5 * GROUP)
  config = language.DecoderConfig(
    tokenizer.get_vocab_size(),
    width=64,
    num_layers=2,
    num_heads=2,
    mlp_width=160,
    max_length=width,
    embedding_std=0.05,
  )
  lm = language.language_model(config)
  train = jax.jit(
    lambda weights, key: ju.train(
      *(lm, every, weights, key, ju.Fit(adamw(3e-3, STEPS), STEPS, BATCH)),
    )[0]
  )
  original = train(group < 4, KEY)
  return types.SimpleNamespace(**locals())


def exact(bed, variables, model=None):
  """Mean exact match of every group, [6]."""
  lm = bed.lm if model is None else model

  @jax.jit
  def look(variables):
    own = language.token_scores(lm, variables, bed.every["x"])
    return scores.exact_memorisation(own.is_top, own.mask)

  found = np.asarray(look(variables))
  return np.array([found[np.asarray(bed.group) == g].mean() for g in range(6)])


def auc(bed, variables, forget):
  """Of min-40% scores, forget rows against people nobody was trained on."""
  own = language.token_scores(bed.lm, variables, bed.every["x"])
  low = membership.lowest_mean(own.log_prob, own.mask, k=0.4)
  return float(metrics.separation_auc(low, low, forget, bed.group >= 4))


@pytest.mark.xfail(
  strict=True,
  raises=AssertionError,
  reason="Not reproduced: .32 after the first request, .63 after the second.",
)
def test_three_requests_in_turn_do_not_come_back(bed):
  """O3: retain rows differ by the gate's false alarms alone."""
  model = language.o3_model(bed.lm)
  fit = ju.Fit(optax.adam(5e-3), 60, 10)
  method = language.o3(bed.lm, fit, capacity=3)
  before = exact(bed, bed.original)
  variables, lowest = bed.original, np.ones(3)
  for request in range(3):
    variables, _ = method.compiled(
      variables, bed.every, bed.group == request, jax.random.key(request)
    )
    now = exact(bed, variables, model)
    show("O3 after request", request, "exact match by group", now.round(2))
    lowest[request] = now[request]
    assert (now[: request + 1] <= lowest[: request + 1] + 0.1).all()
  on = np.asarray(model.bind(variables, bed.every["x"])["o3"])
  alarms = (on[60:80] > 0).mean()
  show(
    "O3 before",
    before.round(2),
    "on by group",
    [(on[bed.group == g] > 0).mean().round(2) for g in range(6)],
  )
  assert (before[:3] > 0.9).all() and (now[:3] < before[:3] - 0.3).all()
  assert alarms <= 0.3
  look = jax.jit(
    lambda v: language.token_scores(model, v, bed.every["x"]).log_prob
  )
  found, bare = look(variables), look(serving.bare(variables))
  np.testing.assert_array_equal(found[on == 0], bare[on == 0])
  np.testing.assert_allclose(exact(bed, serving.bare(variables)), before)


def test_phase_two_reaches_the_retrained_model_in_half_of_its_steps(bed):
  """DP2 by rewriting; rewriting all tokens leaves less of a row than of some."""
  forget, trained = bed.group == 0, bed.group < 4
  request = ju.Request(forget, trained & ~forget)
  retrained = bed.train(trained & ~forget, jax.random.key(7))
  vocab = bed.tokenizer.get_vocab_size()
  words = [bed.tokenizer.decode([t]) for t in range(vocab)]
  names = jnp.asarray([w != w.lower() for w in words])
  x = bed.every["x"]
  half = ju.Fit(adamw(3e-3, STEPS // 2), STEPS // 2, BATCH)
  second = ju.methods.finetune(bed.lm, half)
  wanted = exact(bed, retrained)
  found = {"retrained": (auc(bed, retrained, forget), wanted)}
  for name, selected in (("names", names[x.tokens]), ("all", x.tokens >= 0)):
    # A public table of no knowledge: uniform draws, whatever epsilon is.
    text = language.rewrite(
      x, selected, jnp.zeros(vocab), 1.0, (-1.0, 1.0), KEY
    )
    fit = ju.Fit(adamw(3e-3, STEPS), STEPS, BATCH)
    base, _ = ju.train(bed.lm, {"x": text}, trained, KEY, fit)
    made, _ = second.compiled(base, bed.every, request, KEY)
    found[name] = auc(bed, made, forget), exact(bed, made)
    found[f"{name}, base"] = auc(bed, base, forget), exact(bed, base)
  short, _ = ju.train(bed.lm, bed.every, trained & ~forget, KEY, half)
  found["half, from nothing"] = auc(bed, short, forget), exact(bed, short)
  for name, (leak, em) in found.items():
    show("DP2", name, "AUC", round(leak, 2), "exact match", em.round(2))
  kept = lambda em: em[1:4].mean()
  assert kept(found["names"][1]) > kept(wanted) - 0.05
  assert found["all"][0] < found["names"][0]


def test_dp_sgd_hides_members_as_epsilon_falls(bed):
  """Plumbing and direction: noise lowers both what is learned and who is told."""
  pytest.importorskip(
    "jax_privacy", reason="the extra `privacy` is not installed"
  )
  from jaxunlearn.language import privacy

  trained, found = bed.group < 4, []
  request = ju.Request(trained, jnp.zeros(120, bool))
  start = jax.jit(bed.lm.model.init)(KEY, bed.every["x"])
  case = {"batch_size": 30, "num_rows": 80, "num_steps": 40, "delta": 1e-3}
  for sigma in (0.02, 2.0):
    fit = ju.Fit(optax.adam(5e-3), 40, 45)  # 30 of the 80 in sight.
    method = language.protect(bed.lm, fit, noise_multiplier=sigma)
    made, info = method.compiled(start, bed.every, request, KEY)
    assert not info.overflow
    epsilon = privacy.epsilon(sigma, **case)
    leak = auc(bed, made, trained)
    found.append((epsilon, leak))
    show(
      "DP-SGD sigma",
      sigma,
      "epsilon",
      round(epsilon, 2),
      "AUC",
      round(leak, 2),
      "exact match",
      exact(bed, made).round(2),
    )
  assert found[0][0] > found[1][0] and found[0][1] > found[1][1] - 0.02
