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


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_three_requests_in_turn_do_not_come_back(bed, seed):
  """O3: retain rows differ by the gate's false alarms alone.

  The rate and the weight of the penalty are the best of 15 pairs on 24 other people:
  exact match of rows asked for less that of rows kept.
  """
  model, key = language.o3_model(bed.lm), jax.random.key(seed)
  original = bed.train(bed.group < 4, key)
  step = compiled_request(bed)
  before = exact(bed, original)
  variables, lowest = original, np.ones(3)
  for request in range(3):
    variables = step(
      variables, bed.group == request, ju.derive(key, str(request))
    )
    now = exact(bed, variables, model)
    show("O3", seed, "request", request, "exact match", now.round(2))
    lowest[request] = now[request]
    assert (now[: request + 1] <= lowest[: request + 1] + 0.1).all()
  on = np.asarray(model.bind(variables, bed.every["x"])["o3"])
  shares = [(on[bed.group == g] > 0).mean().round(2) for g in range(6)]
  show("O3", seed, "before", before.round(2), "on by group", shares)
  bed.alarms = [*getattr(bed, "alarms", []), shares[3:]]
  assert (before[:3] > 0.9).all() and (now[:3] < before[:3] - 0.3).all()
  look = jax.jit(
    lambda v: language.token_scores(model, v, bed.every["x"]).log_prob
  )
  found, bare = look(variables), look(serving.bare(variables))
  np.testing.assert_array_equal(found[on == 0], bare[on == 0])
  np.testing.assert_allclose(exact(bed, serving.bare(variables)), before)


def test_kept_rows_are_seldom_taken_for_a_request(bed):
  """Nor those of people held out: O3's gate, which saw neither; it wants the above."""
  assert len(bed.alarms) == 3
  assert (np.array(bed.alarms) <= 0.1).all()


def compiled_request(bed):
  """`(variables, mask, key) -> variables`, a program for all seeds."""
  if not hasattr(bed, "o3"):
    fit = ju.Fit(optax.adam(5e-3), 60, 10)
    method = language.o3(bed.lm, fit, capacity=3, orthogonality=1e-4)
    call = lambda v, mask, key: method(v, bed.every, mask, key)[0]
    bed.o3 = jax.jit(call)
  return bed.o3


def trained_on(bed, steps):
  """`(x, weights, key) -> variables`, from nothing; a program for all seeds."""
  fit = ju.Fit(adamw(3e-3, steps), steps, BATCH)
  return jax.jit(
    lambda x, weights, key: ju.train(bed.lm, {"x": x}, weights, key, fit)[0]
  )


@pytest.fixture(scope="module")
def second_phases(bed):
  """By kind of base (AUC, exact match [6]) of 3 seeds: a base, and what follows."""
  forget, trained, x = bed.group == 0, bed.group < 4, bed.every["x"]
  request = ju.Request(forget, trained & ~forget)
  whole, short = (trained_on(bed, steps) for steps in (STEPS, STEPS // 2))
  half = ju.Fit(adamw(3e-3, STEPS // 2), STEPS // 2, BATCH)
  second = ju.methods.finetune(bed.lm, half)
  vocab = bed.tokenizer.get_vocab_size()
  words = [bed.tokenizer.decode([t]) for t in range(vocab)]
  names = jnp.asarray([w != w.lower() for w in words])[x.tokens]
  # A public table: how often tokens are in answers of people held out.
  counts = jnp.ones(vocab).at[x.tokens[bed.group >= 4].ravel()].add(1.0)
  public = jnp.log(counts / counts.sum())
  found = {}
  look = lambda v: (auc(bed, v, forget), exact(bed, v))
  put = lambda name, v: found.setdefault(name, []).append(look(v))
  for seed in range(3):
    key = jax.random.key(seed)
    kinds = {
      "unprotected": (names, None),
      "names, epsilon 10": (names, 10.0),
      "names, epsilon 0": (names, 0.0),
      "all, epsilon 0": (x.tokens >= 0, 0.0),
    }
    for name, (selected, epsilon) in kinds.items():
      text = x
      if epsilon is not None:
        more = selected, public, epsilon, (-10.0, 0.0), ju.derive(key, name)
        text = language.rewrite(x, *more)
      base = whole(text, trained, key)
      put(f"{name}: base", base)
      put(name, second.compiled(base, bed.every, request, key)[0])
    keep = trained & ~forget
    put("retrained", whole(x, keep, ju.derive(key, "again")))
    put("from nothing", short(x, keep, key))
  for name, each in found.items():
    leak, em = (np.mean([e[i] for e in each], axis=0) for i in (0, 1))
    kept = [round(float(e[1][1:4].mean()), 2) for e in each]
    show(f"DP2 {name}: AUC {leak:.2f} EM {em.round(2)} kept by seed {kept}")
  return found


def kept_of(each):
  return np.mean([em[1:4].mean() for _, em in each])


def leak_of(each):
  return np.mean([leak for leak, _ in each])


def test_phase_two_reaches_the_retrained_model_in_half_of_its_steps(
  second_phases,
):
  """DP2 by rewriting, and beyond what half of the steps reach from nothing."""
  found = second_phases
  wanted = kept_of(found["retrained"])
  for epsilon in (0, 10):
    kept = kept_of(found[f"names, epsilon {epsilon}"])
    assert kept > wanted - 0.05
    assert kept > kept_of(found["from nothing"])


def test_rewriting_names_leaves_more_of_a_row_than_rewriting_all(second_phases):
  """It is private for each token that was drawn anew, and for no row."""
  found = second_phases
  some = leak_of(found["names, epsilon 0: base"])
  assert leak_of(found["all, epsilon 0: base"]) < some - 0.05
  assert some < leak_of(found["unprotected: base"]) + 0.01


def test_dp_sgd_hides_members_as_epsilon_falls(bed):
  """And learns the less."""
  pytest.importorskip(
    "jax_privacy", reason="the extra `privacy` is not installed"
  )
  from jaxunlearn.language import privacy

  trained, steps = bed.group < 4, 60
  request = ju.Request(trained, jnp.zeros(120, bool))
  case = {"batch_size": 30, "num_rows": 80, "num_steps": steps, "delta": 1e-3}
  fit = ju.Fit(optax.adam(5e-3), steps, 45)  # 30 of the 80 in sight.

  @jax.jit
  def train(sigma, key):
    start = bed.lm.model.init(ju.derive(key, "start"), bed.every["x"])
    method = language.protect(
      bed.lm, fit, noise_multiplier=sigma, chunk_size=32
    )
    return method(start, bed.every, request, key)

  found = {}
  for epsilon in (5, 50, 500, np.inf):
    sigma = 0.0
    if np.isfinite(epsilon):
      sigma = privacy.noise_multiplier(float(epsilon), **case)
    leaks, learned = [], []
    for seed in range(3):
      made, info = train(jnp.float32(sigma), jax.random.key(seed))
      assert not info.overflow
      leaks.append(auc(bed, made, trained))
      learned.append(exact(bed, made)[:4].mean())
    found[epsilon] = np.mean(leaks)
    said = np.round(leaks, 2), np.round(learned, 2)
    show(f"DP-SGD epsilon {epsilon} sigma {sigma:.2f}: AUC, EM by seed", *said)
  bed.leaks = found
  assert found[5] < found[50] < found[500] < found[np.inf] + 0.02


@pytest.mark.xfail(
  strict=True,
  raises=AssertionError,
  reason="Measured: an AUC of .71, .78 and .64; epsilon 5 bounds it by far more.",
)
def test_at_epsilon_5_hardly_anything_is_there_to_leak(bed):
  """It wants the test above."""
  pytest.importorskip("jax_privacy")
  assert bed.leaks[5] < 0.65
