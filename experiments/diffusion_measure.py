"""What is measured of each model: generations, and the attack on them.

The attack of arXiv 2409.05668 has two legs. The original model's, the first, is
the same for all methods and made once; the second, the probe that is trained for
every pair of models, and all scores are one program for all seeds.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxunlearn as ju
from experiments.diffusion_beds import DOMAINS, every_prompt, prompts_with
from experiments.diffusion_study import (
  GUIDANCE,
  Maker,
  Study,
  Trained,
  generate,
  guided,
  judged,
)
from jaxunlearn import attacks, diffusion
from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.core.types import PyTree, Variables
from jaxunlearn.metrics import frechet, generation
from jaxunlearn.models.mlp import MLP

PSIS = (0.0, 0.15, 0.25, 0.35, 0.45, 0.55, 0.75)
# Beyond it even a model retrained without the concept finds it.
PSI_MAX = 0.55
SHOWN = 6  # Images a cell of the grid of generations.
ROLES = ("forget", "retain")
_RIDGE = 1e-4


def make_measure(
  study: Study, trained: Trained
) -> Callable[..., dict[str, np.ndarray]]:
  """`(params [S, ...], maker=None) -> what was found, each [S, ...]`.

  One program for each maker (`guided` by default), whatever the params.
  """
  compiled: dict[Any, Any] = {}
  plain = guided(study)
  real = _reference(study, trained.judge)
  begun = _begin(study, trained.original)

  def program(maker, params, judge, real, begun, keys):
    return ju.map_many(
      lambda p, b, key: _measure_lane(study, maker, p, judge, real, b, key),
      params,
      begun,
      keys,
      strategy=study.strategy,
    )

  def measure(params: PyTree, maker: Maker | None = None):
    maker = maker or plain
    arguments = params, trained.judge, real, begun, study.keys(20)
    if maker not in compiled:
      lowered = jax.jit(functools.partial(program, maker)).lower(*arguments)
      compiled[maker] = lowered.compile()
    return jax.tree.map(np.asarray, compiled[maker](*arguments))

  return measure


class _Begun(NamedTuple):
  """What the original model did for the forgotten and for a kept concept.

  Attributes:
    partial: [2, P, n, H, W, C], images that it left at each psi.
    keys: [n], with which they began.
    references: [2, N, H, W, C], images that it finished, of other noise.
  """

  partial: jax.Array
  keys: jax.Array
  references: jax.Array


def _roles(study: Study, count: int) -> jax.Array:
  """Prompts of the forgotten and of a kept concept, int [2, count, L]."""
  concept = study.concept
  of = lambda index: prompts_with(study.bed, concept.domain, index, count)
  return jnp.stack([of(concept.index), of(concept.kept)])


def _stops(study: Study) -> jax.Array:
  # A little more than the product, which rounding may leave below an integer.
  steps = [int(psi * study.size.sampler_steps + 1e-3) for psi in PSIS]
  return jnp.array(steps)


def _begin(study: Study, original: PyTree) -> _Begun:
  """The first leg of the attack, once for all methods; leaves [S, ...]."""
  bed, size, first = study.bed, study.size, guided(study)

  def lane(key, original):
    attack_key, reference_key = jax.random.split(key)
    keys = jax.random.split(attack_key, size.attack_keys)

    def partial(prompts):
      return diffusion.trajectory(
        bed.model,
        diffusion.classifier_free(bed.model, original, prompts, GUIDANCE),
        diffusion.start_noise(bed.model, keys),
        keys,
        num_steps=size.sampler_steps,
      )[_stops(study)]

    prompts = _roles(study, size.references)
    made = generate(
      study,
      first,
      original,
      _flat(prompts),
      jax.random.split(reference_key, 2 * size.references),
    )
    references = made.reshape(2, size.references, *made.shape[1:])
    attacked = _roles(study, size.attack_keys)
    return _Begun(jax.vmap(partial)(attacked), keys, references)

  program = jax.jit(
    lambda keys, original: ju.map_many(
      lambda key: lane(key, original), keys, strategy=study.strategy
    )
  )
  return program(study.keys(21), original)


def _measure_lane(study, maker, params, judge, real, begun, key):
  """All numbers of one seed's model."""
  bed, size, concept = study.bed, study.size, study.concept
  image_key, probe_key = jax.random.split(key)
  every = {
    k: np.repeat(v, size.images, 0) for k, v in every_prompt(bed).items()
  }
  count = len(every["tokens"])
  tokens = jnp.concatenate(
    [jnp.asarray(every["tokens"]), _flat(_roles(study, size.references))]
  )
  keys = jax.random.split(image_key, len(tokens))
  made = generate(study, maker, params, tokens, keys)
  found = _answers(study, judge, real, every, made[:count])
  references = made[count:].reshape(begun.references.shape)
  if maker.predictor is None:
    # There are no steps of which the original model could take some.
    return found | _unattacked(study, references[0])
  images = _finish(study, maker, params, begun)
  logits = judged(study, judge, _flat(_flat(images)))[0][concept.domain]
  wanted = jnp.array([concept.index, concept.kept])[:, None, None]
  logits = logits.reshape(*images.shape[:3], -1)
  right = attacks.correctness(
    logits, jnp.broadcast_to(wanted, logits.shape[:-1])
  )
  scores = jax.vmap(functools.partial(_probe_scores, study))(
    images, begun.references, references, jax.random.split(probe_key)
  )
  scores["curve"] = right.mean(axis=2)
  for name, value in scores.items():
    found |= {f"{name}_forget": value[0], f"{name}_retain": value[1]}
  return found | {"shown": images[0, :, :SHOWN]}


def _answers(study, judge, real, every, images):
  """UA, IRA, CRA, rates of all labels, and the distance from real images."""
  concept = study.concept
  logits, features = judged(study, judge, images)
  prompted = {domain: jnp.asarray(every[domain]) for domain in DOMAINS}
  scores = generation.canvas_scores(
    logits, prompted, concept.index, domain=concept.domain
  )
  kept = prompted[concept.domain] != concept.index
  distance = frechet.frechet_distance(
    frechet.feature_statistics(features, kept), real, ridge=_RIDGE
  )
  rates = [generation.class_accuracy(logits[d], prompted[d]) for d in DOMAINS]
  return {
    **scores._asdict(),
    "frechet_distance": distance,
    "rates": jnp.concatenate(rates),
  }


def _finish(study, maker, params, begun):
  """The second leg of the attack for both concepts and every psi."""
  model, steps = study.bed.model, study.size.sampler_steps

  def one(prompts, x, stop):
    return diffusion.walk(
      model,
      maker.predictor(params, prompts),
      x,
      begun.keys,
      num_steps=steps,
      start=stop,
    )

  by_psi = jax.vmap(one, in_axes=(None, 0, 0))
  by_role = jax.vmap(by_psi, in_axes=(0, 0, None))
  prompts = _roles(study, study.size.attack_keys)
  return by_role(prompts, begun.partial, _stops(study))


def _unattacked(study, images):
  """What `_measure_lane` has of an attack, without one."""
  none = jnp.full(len(PSIS), jnp.nan)
  names = (f"{n}_{r}" for n in ("curve", "crs", "ccs") for r in ROLES)
  blank = jnp.full((len(PSIS), *images[:SHOWN].shape), jnp.nan)
  return {
    **{name: none for name in names},
    **{f"probe_accuracy_{role}": jnp.nan for role in ROLES},
    "shown": blank.at[0, :].set(images[:SHOWN]),
  }


def _probe_scores(study, images, original, unlearned, key):
  """CRS and CCS by psi, and how well the probe tells the two models apart."""
  probe = from_linen(MLP(2, hidden=(128, 64)))
  fitted = attacks.fit_concept_probe(
    probe,
    original,
    unlearned,
    key,
    num_steps=study.size.probe_steps,
    optimizer=optax.adam(1e-3),
  )
  outputs = lambda x, axes: attacks.probe_outputs(
    probe, fitted.variables, x, num_batch_axes=axes
  )
  features, logits = outputs(images, 2)
  sides = outputs(jnp.stack([original, unlearned]), 2)[0]
  one = lambda f: attacks.concept_retrieval_score(f[None], *sides)
  return {
    "crs": jax.vmap(one)(features),
    "ccs": jax.vmap(attacks.concept_confidence_score)(logits),
    "probe_accuracy": fitted.accuracy,
  }


def _reference(study: Study, judge: Variables) -> frechet.FeatureStatistics:
  """Statistics of the test images that do not show the concept."""
  test, concept = study.bed.test, study.concept
  kept = jnp.asarray(test[concept.domain] != concept.index)

  def program(judge, x):
    chunks = lambda x: judged(study, judge, x[None])[1][0]
    features = jax.lax.map(chunks, x, batch_size=study.size.chunk)
    return frechet.feature_statistics(features, kept)

  return jax.jit(program)(judge, jnp.asarray(test["x"]))


def _flat(images):
  return images.reshape(-1, *images.shape[2:])
