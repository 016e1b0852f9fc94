"""What every function of numbers must do, one row of a table each.

Under `jit` and under `vmap` it is the plain call, other numbers need no other
program, and inputs of low precision give results in float32. So hyperparameters
may be traced, swept and stacked.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest
import tiny_attention

import jaxunlearn as ju
from jaxunlearn import (
  attacks,
  diffusion,
  gan,
  identity,
  language,
  losses,
  metrics,
  nas,
  valuation,
)
from jaxunlearn.attacks import language as language_attacks
from jaxunlearn.attacks import readout as layer_attacks
from jaxunlearn.diffusion import samplers
from jaxunlearn.diffusion.safe_guidance import SafetyStrength
from jaxunlearn.gan.text_to_unlearn import directional_loss
from jaxunlearn.losses import readout, sequences
from jaxunlearn.metrics import membership, text
from jaxunlearn.valuation.types import Utility

KEY = jax.random.key(0)
LABELS = np.arange(12) % 3
MASK = np.arange(12) % 4 > 0
SHADOWS = (np.arange(6)[:, None] + np.arange(12)) % 2 == 0
MODEL = tiny_attention.model()
PARAMS = tiny_attention.params(jax.random.key(2))
PROMPTS = tiny_attention.CONCEPT
WALK = {"num_steps": 4}


class Row(NamedTuple):
  """A function and what it is called with.

  Attributes:
    call: of arrays alone.
    make: the arguments of call number 0 and 1.
    low: whether the arguments may be bfloat16, with results in float32.
    tolerance: between a call, its program and its lane.
  """

  call: Callable[..., Any]
  make: Callable[[int], tuple[Any, ...]]
  low: bool = False
  tolerance: float = 1e-4


def draws(*shapes):
  """Normal numbers of these shapes, other ones for each call."""

  def make(i):
    rng = np.random.default_rng(i)
    return tuple(jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)

  return make


def uniform(*shapes):
  return lambda i: tuple(jax.nn.sigmoid(x) for x in draws(*shapes)(i))


def of(*pairs):
  """One number for each argument: the first, and the second."""
  return lambda i: tuple(jnp.asarray(pair[i]) for pair in pairs)


def trained(build):
  """A method with traced settings, on the usual small network."""

  def call(*settings):
    model, data, variables = problems.trained()
    method = build(model, *settings)
    return method(variables, data, data["label"] == 1, KEY)[0].params

  return call


def fit(rate, steps=2):
  return ju.Fit(optax.sgd(rate), steps, 16)


def guarded(*strength):
  return samplers.walk(
    MODEL,
    diffusion.safe_guidance(
      MODEL,
      PARAMS,
      PROMPTS,
      2.0,
      safety_tokens=tiny_attention.OTHER,
      strength=SafetyStrength(*strength),
    ),
    samplers.start_noise(MODEL, samplers.image_keys(KEY, 2)),
    samplers.image_keys(KEY, 2),
    **WALK,
  )


def stopped(stop):
  keys = samplers.image_keys(KEY, 2)
  predictor = diffusion.classifier_free(MODEL, PARAMS, PROMPTS, 2.0)
  noise = samplers.start_noise(MODEL, keys)
  return diffusion.walk(MODEL, predictor, noise, keys, stop=stop, **WALK)


GAME = Utility(lambda m: jnp.sqrt((m * jnp.arange(1.0, 7.0)).sum()), 6)
IDS = jnp.arange(6) % 3

QUERIES = attacks.make_queries(
  [[[1]]] * 12, [[1]] * 12, [0] * 12, np.arange(12) % 6
)

ROWS = {
  "cross_entropy": Row(
    lambda x: losses.cross_entropy(x, LABELS), draws((12, 3)), True
  ),
  "kl_to_teacher": Row(
    lambda a, b, t: losses.kl_to_teacher(a, b, jnp.exp(t)),
    draws((12, 3), (12, 3), ()),
    True,
  ),
  "squared_error": Row(losses.squared_error, draws((12, 2), (12, 2)), True),
  "absolute_error": Row(losses.absolute_error, draws((12, 2), (12, 2)), True),
  "attention_map": Row(losses.attention_map, draws((4, 3, 3, 2)), True),
  "bpr": Row(losses.bpr, draws((12,), (12,)), True),
  "mean_js": Row(metrics.mean_js, draws((12, 3), (12, 3)), True),
  "activation_distance": Row(
    metrics.activation_distance, draws((12, 3), (12, 3)), True
  ),
  "accuracy": Row(lambda x: metrics.accuracy(x, LABELS), draws((12, 3)), True),
  "linear_cka": Row(metrics.linear_cka, draws((12, 3), (12, 4)), True),
  "class_outcomes": Row(
    lambda x: metrics.class_outcomes(x, LABELS, 3), draws((12, 3)), True
  ),
  "retraining_signals": Row(attacks.retraining_signals, draws((12, 3)), True),
  "privacy_score": Row(
    lambda a, b: attacks.privacy_score(a, b, MASK), draws((2, 12), (2, 12))
  ),
  "mean_absolute_error": Row(
    metrics.mean_absolute_error, draws((12,), (12,)), True
  ),
  "wasserstein1": Row(metrics.wasserstein1, draws((12,), (9,)), True),
  "feature_frechet_distance": Row(
    metrics.feature_frechet_distance, draws((12, 2), (12, 2)), True, 1e-3
  ),
  "invert": Row(
    lambda x, penalty: attacks.invert(
      problems.mlp(),
      ju.Variables(
        {
          **problems.trained()[2].params,
          "hidden": {"kernel": x, "bias": jnp.zeros(8)},
        }
      ),
      np.arange(2),
      KEY,
      fit(0.1)._replace(batch_size=3),
      input_shape=(6,),
      penalty=jnp.exp(penalty),
    ),
    draws((6, 8), ()),
  ),
  "likeness": Row(
    lambda a, b: attacks.likeness(a, b, LABELS, np.arange(3)),
    draws((3, 4, 5), (12, 5)),
    True,
  ),
  "polynomial_mmd": Row(
    metrics.polynomial_mmd, draws((12, 2), (9, 2)), True, 1e-3
  ),
  "kernel_distance": Row(
    lambda a, b: metrics.kernel_distance(
      a, b, KEY, num_subsets=3, subset_size=5
    ),
    draws((12, 2), (9, 2)),
    True,
    1e-3,
  ),
  "modified_entropy": Row(
    lambda x: membership.modified_entropy(x, LABELS), draws((12, 3)), True
  ),
  "separation_auc": Row(metrics.separation_auc, draws((12,), (9,))),
  "tabsyndex": Row(
    lambda a, b: metrics.tabsyndex(a, b, KEY, categories=(0,) * 3).basic,
    draws((20, 3), (20, 3)),
  ),
  "logistic_accuracy": Row(
    lambda a, b: attacks.logistic_accuracy(KEY, a + 1, b, num_splits=2),
    draws((20,), (20,)),
  ),
  "attack_summary": Row(attacks.attack_summary, draws((12,), (9,))),
  "membership_signals": Row(
    lambda x: attacks.membership_signals(x, LABELS), draws((12, 3)), True
  ),
  "threshold_attack": Row(
    lambda a, b: attacks.threshold_attack(attacks.fit_thresholds(a, b), a, b),
    draws((12,), (9,)),
  ),
  "lira_scores": Row(
    lambda x, y: attacks.lira_scores(x, y, SHADOWS),
    draws((12, 2), (6, 12, 2)),
    True,
    1e-3,
  ),
  "rmia_scores": Row(
    lambda x, z, y, w, gamma: attacks.rmia_scores(
      x, z, y, SHADOWS, w, gamma=1 + gamma
    ),
    uniform((12, 2), (7, 2), (6, 12, 2), (6, 7, 2), ()),
  ),
  "forgetting_quality": Row(
    attacks.forgetting_quality, draws((16, 5), (16, 5)), False, 1e-3
  ),
  "linear_probe": Row(
    lambda x, ridge: (
      attacks.linear_probe(
        x, LABELS, MASK, ~MASK, num_classes=3, ridge=jnp.exp(ridge)
      ).kernel
    ),
    draws((12, 4), ()),
    True,
  ),
  "identity_distillation": Row(
    lambda a, b, c: identity.cion.identity_distillation(a, b, IDS, c),
    draws((3, 6, 4), (2, 6, 4), (4,)),
  ),
  "batch_orthogonality": Row(
    identity.dlif.batch_orthogonality, draws((5, 4), (6, 4))
  ),
  "mixed_attention": Row(
    lambda q, k, v, w: identity.infinite_id.mixed_attention(
      q, (k, v), (v, k), jnp.exp(w)
    ),
    draws((2, 3, 1, 4), (2, 5, 1, 4), (2, 5, 1, 4), (2,)),
  ),
  "retrieval": Row(
    lambda a, b: identity.retrieval(a, LABELS, b, LABELS)[1],
    draws((12, 3), (12, 3)),
  ),
  "dynamic_image": Row(
    nas.dynamic_image,
    lambda i: (*draws((5, 3, 3, 1))(i), jnp.int32(4 + i)),
  ),
  "quantize": Row(
    lambda w, bits: attacks.quantize({"w": w}, bits),
    lambda i: (draws((6, 5))(i)[0], jnp.int32(3 + i)),
  ),
  "concept_retrieval_score": Row(
    attacks.concept_retrieval_score, draws((2, 3, 4), (5, 4), (5, 4))
  ),
  "is_chosen_and_success": Row(
    lambda x: (
      text.is_chosen(x[:, 0], x[:, 1:]).astype(jnp.float32),
      attacks.success_at(x[:, 0] > x[:, 1], QUERIES, IDS < 2, jnp.arange(1, 4)),
    ),
    draws((12, 3)),
  ),
  "ngram_entropy": Row(
    lambda x: text.ngram_entropy((x * 2).astype(int), jnp.array([9, 4])),
    draws((2, 9)),
  ),
  "text_membership": Row(
    lambda p, m, s: attacks.text_membership(
      language.TokenScores(-p, p, p > 0.3, -m, s), jnp.array([9.0, 12.0])
    ),
    uniform((2, 9), (2, 9), (2, 9)),
  ),
  "in_context_gaps": Row(
    lambda *x: attacks.in_context_gaps(*x, IDS < 2),
    uniform((6, 3), (6, 3), (6, 2)),
  ),
  "min_k": Row(
    lambda x, k: attacks.min_k(x, LABELS[None], k=jax.nn.sigmoid(k)),
    draws((1, 12, 3), ()),
    True,
  ),
  "min_k_plus_plus": Row(
    lambda x: attacks.min_k_plus_plus(x, LABELS[None]), draws((1, 12, 3)), True
  ),
  "weighted_lowest": Row(
    lambda x: language_attacks.weighted_lowest(-jnp.abs(x)),
    draws((4, 12)),
    True,
  ),
  "dual_masked_kl": Row(
    lambda a, b, w: sequences.dual_masked_kl(a, b, jax.nn.sigmoid(w)),
    draws((12, 5), (12, 5), (5,)),
    True,
  ),
  "head_projection": Row(
    lambda x: readout.head_projection(
      jax.nn.softmax(x), jnp.asarray(LABELS), 2
    ),
    draws((12, 3, 7)),
    True,
  ),
  "negative_entropy": Row(
    lambda x: readout.negative_entropy(jax.nn.softmax(x)),
    draws((12, 3, 7)),
    True,
  ),
  "tail_hit": Row(
    lambda x: layer_attacks.tail_hit(
      layer_attacks.probability_delta(x, 1), jnp.asarray(LABELS), 2
    ),
    draws((12, 3, 7)),
  ),
  "knn_shapley": Row(
    lambda x, y, k: (
      valuation.knn_shapley(
        x, LABELS, y, LABELS[:4], num_neighbours=k, row_mask=MASK
      ).values
    ),
    lambda i: (*draws((12, 2), (4, 2))(i), jnp.int32(2 + i)),
  ),
  "ecoval_values": Row(
    lambda q, w: (
      valuation.ecoval_values(
        GAME,
        IDS,
        q,
        num_clusters=3,
        price=valuation.PriceRule(quality_weight=w),
      ).values
    ),
    uniform((6,), ()),
  ),
  "lowest": Row(
    lambda v, n: valuation.lowest(v, count=n),
    lambda i: (draws((12,))(i)[0], jnp.int32(3 + i)),
  ),
  "shapley": Row(
    lambda key: valuation.shapley(GAME, key, num_permutations=4).values,
    lambda i: (jax.random.key(i),),
  ),
  "distributional_shapley": Row(
    lambda key: (
      valuation.distributional_shapley(
        GAME, jnp.arange(6) < 4, jnp.array([1, 5]), key, num_sets=6, max_size=4
      ).values
    ),
    lambda i: (jax.random.key(i),),
  ),
  "gradient_surgery": Row(
    lambda a, b, s: diffusion.gradient_surgery(
      {"w": a}, {"w": b - a}, jax.nn.sigmoid(s)
    ),
    draws((3, 2), (3, 2), ()),
  ),
  "sample": Row(
    lambda w, eta: diffusion.sample(
      MODEL, PARAMS, PROMPTS, KEY, guidance=w, eta=eta, **WALK
    ),
    of((1.0, 3.0), (0.0, 0.4)),
  ),
  "walk": Row(stopped, of((2, 4))),
  "partial_diffusion": Row(
    lambda psi, scale: diffusion.partial_diffusion(
      MODEL,
      PARAMS,
      jax.tree.map(lambda leaf: leaf * scale, PARAMS),
      PROMPTS,
      psi,
      KEY,
      **WALK,
    ),
    of((0.25, 0.75), (0.5, 0.9)),
  ),
  "safe_guidance": Row(
    guarded, of((1, 2), (3.0, 1e3), (0.05, 1.0), (0.3, 0.5), (0.6, 0.4))
  ),
  "repulsions": Row(
    lambda v, gamma, alpha: (
      gan.inverse(gamma)(v),
      gan.negative(gamma)(v),
      gan.exponential(gamma, alpha)(v),
    ),
    uniform((), (), ()),
  ),
  "directional_loss": Row(directional_loss, draws((5, 3), (3,))),
  "degree_of_unlearning": Row(
    gan.degree_of_unlearning, draws((12,), (9,), (9,)), True
  ),
  "recall": Row(gan.recall, draws((30, 2), (41, 2)), True),
  "finetune of a rate": Row(
    trained(lambda m, rate: ju.methods.finetune(m, fit(rate))), of((0.1, 0.02))
  ),
  "neggrad_plus of a share": Row(
    trained(lambda m, w: ju.methods.neggrad_plus(m, fit(0.02), retain_share=w)),
    of((0.5, 0.9)),
  ),
  "ssd of alpha": Row(
    trained(lambda m, a, b: ju.methods.ssd(m, alpha=a, dampening=b)),
    of((1.0, 3.0), (0.2, 1.0)),
  ),
  "influence of damping": Row(
    trained(
      lambda m, s, d: ju.methods.influence_unlearning(m, scale=s, damping=d)
    ),
    of((1.0, 0.3), (0.1, 0.5)),
    False,
    1e-3,
  ),
}


def far(a, b):
  gaps = jax.tree.map(lambda x, y: np.abs(np.float64(x) - np.float64(y)), a, b)
  return max(np.nan_to_num(gap).max() for gap in jax.tree.leaves(gaps))


SLOW = (
  *("tabsyndex", "logistic_accuracy", "lira_scores", "forgetting_quality"),
  *("sample", "walk", "partial_diffusion", "safe_guidance"),
)
EVERY = [
  pytest.param(n, marks=[pytest.mark.slow] if n in SLOW or " of " in n else [])
  for n in ROWS
]


@pytest.mark.parametrize("name", EVERY)
def test_a_program_and_a_lane_are_the_call_and_other_numbers_need_no_other(
  name,
):
  call, make, _, tolerance = ROWS[name]
  traces = []

  def counted(*arguments):
    traces.append(1)
    return call(*arguments)

  run = jax.jit(counted)
  both = [make(0), make(1)]
  plain = [call(*arguments) for arguments in both]
  many = jax.jit(jax.vmap(call))(*jax.tree.map(lambda *x: jnp.stack(x), *both))
  near = {"rtol": tolerance, "atol": tolerance}
  for i, arguments in enumerate(both):
    chex.assert_trees_all_close(run(*arguments), plain[i], **near)
    lane = jax.tree.map(lambda leaf, i=i: leaf[i], many)
    chex.assert_trees_all_close(lane, plain[i], **near)
  assert len(traces) == 1
  assert far(*plain) > 1e-6  # Other numbers in, other numbers out.


@pytest.mark.parametrize(
  "name", [name for name, row in ROWS.items() if row.low]
)
def test_low_precision_gives_finite_float32(name):
  given = ROWS[name].make(0)
  low = [x.astype(jnp.bfloat16) for x in given]
  wide = [x.astype(jnp.float32) for x in low]
  found, wanted = jax.jit(ROWS[name].call)(*low), ROWS[name].call(*wide)
  for leaf in jax.tree.leaves(found):
    assert leaf.dtype in (jnp.float32, jnp.int32, jnp.bool_)
  chex.assert_tree_all_finite(found)
  chex.assert_trees_all_close(found, wanted, rtol=1e-2, atol=1e-2)
