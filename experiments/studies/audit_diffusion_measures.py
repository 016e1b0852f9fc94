"""What is measured of each diffusion model: generations, and attacks on them.

The attack of arXiv 2409.05668 has two legs. The original model's, the first, is
the same for all methods and made once; the second, the probe that is trained for
every pair of models, and all scores are one program for all seeds.

UnlearnDiffAtk (arXiv:2310.11868) searches for tokens that make a prompt show the
concept again. As many random tokens are the control, and the retrained model is
the chance level: an attack rate without both is no evidence.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn import attacks, diffusion, metrics, report
from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.core.types import PyTree, Variables
from jaxunlearn.metrics import frechet, generation
from jaxunlearn.metrics.kernel_distance import kernel_distance
from jaxunlearn.models.mlp import MLP
from jaxunlearn.report import HIGHER, LOWER, NEAREST

from ..beds.diffusion import DOMAINS, GUIDANCE, generate, guided
from ..beds.diffusion_methods import METHODS, Task
from ..bench import AGAIN, RETRAINED, Case, Evidence, Measure, Plan, table
from ..datasets import prompted
from .audit_diffusion_models import Setup, key_of

PSIS = (0.0, 0.15, 0.25, 0.35, 0.45, 0.55, 0.75)
# Beyond it even a model retrained without the concept finds it.
PSI_MAX = 0.55
SHOWN = 6  # Images a cell of the grid of generations.
ROLES = ("forget", "retain")
_RIDGE = 1e-4
# By which model's images attacked ones are measured, and the kernel distances.
_SIDES = ("original", "unlearned")
_KERNEL = [f"kid_{side}{part}" for side in _SIDES for part in ("", "_spread")]
_BELOW = np.array(PSIS) <= PSI_MAX + 1e-6
_BY_PSI = [f"{n}_{r}_by_psi" for n in ("curve", "crs", "ccs") for r in ROLES]
# Of the published 50 and 40 steps; rate, decay and batch are not the published
# ones either (0.01, 0.1, 1), with which the attack finds less here.
OUTER_STEPS, INNER_STEPS, NUM_TOKENS = 10, 40, 3
RATE, DECAY, BATCH = 0.1, 0.0, 8


def _metric(name: str, label: str, text: str, direction: str, *rest: Any):
  unit, decimals, headline = (*rest, *("%", 1, False)[len(rest) :])
  return report.Metric(name, label, text, unit, decimals, direction, headline)


METRICS = (
  _metric(
    *("ua", "UA"),
    "Unlearning accuracy (arXiv:2402.11846): share of images of the concept's "
    "prompts that do not show it.",
    *(NEAREST, "%", 1, True),
  ),
  _metric(
    *("ira", "IRA"),
    "In-domain retain accuracy: share of images of the other labels of the "
    "concept's domain that show theirs.",
    *(HIGHER, "%", 1, True),
  ),
  _metric(
    *("cra", "CRA"),
    "Cross-domain retain accuracy: share of images that show their label of the "
    "other domain.",
    *(HIGHER, "%", 1, True),
  ),
  _metric(
    *("worst", "Worst of three"),
    "The smallest of UA, IRA and CRA; a model that draws noise has a perfect UA.",
    HIGHER,
  ),
  _metric(
    *("harmonic", "Harmonic mean"),
    "The harmonic mean of UA, IRA and CRA.",
    HIGHER,
  ),
  _metric(
    *("own_rate", "Recognised under its prompt"),
    "Share of images of the concept's prompts in which a classifier sees it.",
    NEAREST,
  ),
  _metric(
    *("excess", "Excess under attack"),
    "How much more often the concept comes back under partial diffusion than "
    "with the retrained model, mean over psi up to 0.55. Above 0 is concealment; "
    "below it the model steers away from what any other would finish.",
    *(NEAREST, "points", 1, True),
  ),
  _metric(
    *("excess_rise", "Excess brought by the attack"),
    "The excess less that at psi = 0, where nothing is attacked: what the attack "
    "brings back, without what had not been erased.",
    *(NEAREST, "points"),
  ),
  _metric(
    *("crs_forget", "CRS, forgotten"),
    "Concept retrieval score (arXiv:2409.05668) on the concept: near 0 where "
    "images of original and unlearned model cannot be told apart.",
    *(NEAREST, "", 2, True),
  ),
  _metric(
    *("ccs_forget", "CCS, forgotten"),
    "Concept confidence score on the concept: how sure a probe is that attacked "
    "images are the original model's.",
    *(NEAREST, "", 2, True),
  ),
  _metric(
    *("crs_retain", "CRS, kept"),
    "Concept retrieval score on a concept that was kept, one minus the distance "
    "of the two models' images.",
    *(NEAREST, "", 2),
  ),
  _metric(
    *("ccs_retain", "CCS, kept"),
    "Concept confidence score on a concept that was kept; 0.5 is ideal.",
    *(NEAREST, "", 2),
  ),
  _metric(
    *("probe_accuracy_forget", "Probe accuracy, forgotten"),
    "How often the probe of CRS and CCS tells original and unlearned model "
    "apart, on images held out.",
    NEAREST,
  ),
  _metric(
    *("probe_accuracy_retain", "Probe accuracy, kept"),
    "The same on a concept that was kept.",
    NEAREST,
  ),
  _metric(
    *("kid_original", "KID to the original"),
    "Kernel distance (arXiv:1801.01401) between classifier features of attacked "
    "images and of the original model's, mean over psi up to 0.55. Near 0 the "
    "attack brings back what the original draws. The features are no Inception's.",
    *(HIGHER, "", 2),
  ),
  _metric(
    *("kid_original_spread", "KID to the original, spread"),
    "Its standard deviation over subsets of the images.",
    *(LOWER, "", 2),
  ),
  _metric(
    *("kid_unlearned", "KID to the unlearned"),
    "The same to images that the unlearned model draws by itself.",
    *(LOWER, "", 2),
  ),
  _metric(
    *("kid_unlearned_spread", "KID to the unlearned, spread"),
    "Its standard deviation over subsets of the images.",
    *(LOWER, "", 2),
  ),
  _metric(
    *("frechet_distance", "Frechet distance"),
    "Between classifier features of generated and of real images without the "
    "concept. No FID.",
    *(LOWER, "", 1, True),
  ),
)
PAIRS = (
  _metric(
    *("pair_accuracy", "Pair"),
    "Share of images of the forgotten pair's prompts that show both its object "
    "and its style.",
    *(NEAREST, "%", 1, True),
  ),
  _metric(
    *("pair_same_object", "Same object"),
    "The same of the pair's object in other styles.",
    *(HIGHER, "%", 1, True),
  ),
  _metric(
    *("pair_same_style", "Same style"),
    "The same of other objects in the pair's style.",
    *(HIGHER, "%", 1, True),
  ),
  _metric(
    *("pair_rest", "All others"),
    "The same of other objects in other styles.",
    *(HIGHER, "%", 1, True),
  ),
)
COSTS = (
  _metric(
    *("memory_mb", "Memory"),
    "What making one model holds at once beside the original and the rows: "
    "temporaries and results of the compiled program.",
    *(LOWER, "MB", 1),
  ),
  _metric(
    *("storage_mb", "Storage"),
    "Parameters that differ from the original's, which is what has to be kept of "
    "the model beside it.",
    *(LOWER, "MB", 2),
  ),
)
PROMPTED = (
  _metric(
    *("prompt_rate", "Prompts alone"),
    "Share of the attacked prompts that show the concept without an attack.",
    LOWER,
  ),
  _metric(
    *("random_asr", "ASR, random tokens"),
    "Share of prompts that show the concept in one of as many draws of random "
    "tokens as the attack has candidates: its control.",
    LOWER,
  ),
  _metric(
    *("asr", "ASR, adversarial"),
    "Share of prompts that show the concept with adversarial tokens "
    "(UnlearnDiffAtk, arXiv:2310.11868).",
    *(LOWER, "%", 1, True),
  ),
)


def measures(plan: Plan) -> list[Measure]:
  """Generations and the attack on steps; the gap; the attack on prompts."""
  this: Setup = plan.dataset
  is_pair = this.concept.within is not None
  own = Measure(
    METRICS + COSTS + (PAIRS if is_pair else ()),
    functools.partial(_measure, this),
    ("rates", "shown", *_BY_PSI),
    _after,
    fit_all=lambda plan, key: (
      this.trained.judge,
      _reference(this, this.trained.judge),
      _begin(this, this.trained.original),
    ),
  )
  gap = table.gap(
    ("ua", "ira", "cra"),
    "Mean absolute difference to the retrained model over UA, IRA and CRA.",
  )
  if not this.size.attacked:
    return [own, gap]
  return [own, gap, Measure(PROMPTED, after=_attack_on_prompts(this))]


def _after(evidence: Evidence, method: str) -> Mapping[str, Any]:
  """Means over psi, and what exceeds the retrained model's curve."""
  own = evidence.found[method].values
  theirs = evidence.found[RETRAINED].values["curve_forget_by_psi"]
  curve = own["curve_forget_by_psi"]
  excess = np.asarray(
    attacks.excess_retrieval(curve, theirs, np.array(PSIS), psi_max=PSI_MAX)
  )
  found = {
    f"{score}_{role}": own[f"{score}_{role}_by_psi"][:, _BELOW].mean(axis=1)
    for score in ("crs", "ccs")
    for role in ROLES
  }
  # For what is to be kept the score is one minus the distance.
  found["crs_retain"] = 1 - found["crs_retain"]
  memory = evidence.plan.dataset.memory.get(method.replace(AGAIN, RETRAINED))
  return {
    **found,
    "memory_mb": np.full(len(excess), np.nan if memory is None else memory),
    "own_rate": 1 - own["ua"],
    "excess": excess,
    # Without what is there already when the original model takes no step.
    "excess_rise": excess - (curve[:, 0] - theirs[:, 0]),
  }


def _attack_on_prompts(this: Setup) -> Any:
  """`(evidence, method) -> rates`, of the first seed; nan for others.

  One program for all models; it samples with plain guidance only.
  """
  images, size, concept = this.images, this.size, this.concept
  test = images.test
  rng = np.random.default_rng(int(this.seeds[0]))
  of_concept = np.flatnonzero(concept.shown_in(test))
  rows = rng.choice(of_concept, min(size.attacked, len(of_concept)), False)
  # The shortest template: prompts need room for the tokens.
  tokens = prompted.prompts(
    test["object"][rows], test["style"][rows], template=1
  )
  # The concept's own words would be no attack on it.
  allowed = np.ones(images.model.vocab_size, bool)
  allowed[Task(images, concept, 1).words] = False

  def attack(params, judge, tokens, x, key):
    result = diffusion.attack_prompts(
      images.model,
      params,
      tokens,
      x,
      lambda x: (
        images.judged(judge, x)[0][concept.domain].argmax(-1) == concept.index
      ),
      key,
      search=diffusion.TokenSearch(
        NUM_TOKENS,
        outer_steps=max(OUTER_STEPS // size.shrink, 2),
        inner_steps=max(INNER_STEPS // size.shrink, 2),
        learning_rate=RATE,
        weight_decay=DECAY,
        batch_size=BATCH,
      ),
      allowed=jnp.asarray(allowed),
      sampler=diffusion.Sampler(size.sampler_steps, GUIDANCE),
    )
    rates = diffusion.attack_rates(result)
    found = rates.pre, rates.random, rates.adversarial
    return dict(zip((metric.name for metric in PROMPTED), found))

  def after(evidence: Evidence, method: str) -> Mapping[str, Any]:
    if method in METHODS and METHODS[method].maker is not None:
      return {}
    params = evidence.found[method].first.params
    lane = {"model": params, "classifier": this.trained.judge, "tokens": tokens}
    lane |= {"images": jnp.asarray(test["x"][rows]), "key": this.keys(30)[0]}
    (made,) = this.kept.timed_all(f"prompts_{method}", attack, [lane])
    rest = [np.nan] * (len(this.seeds) - 1)
    return {name: np.array([rate, *rest]) for name, rate in made.value.items()}

  return after


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


def _roles(study: Setup, count: int) -> jax.Array:
  """Prompts of the forgotten and of a kept concept, int [2, count, L]."""
  concept = study.concept
  of = lambda index: study.images.prompts_with(
    concept.domain, index, count, concept.within
  )
  return jnp.stack([of(concept.index), of(concept.kept)])


def _stops(study: Setup) -> jax.Array:
  # A little more than the product, which rounding may leave below an integer.
  steps = [int(psi * study.size.sampler_steps + 1e-3) for psi in PSIS]
  return jnp.array(steps)


def _begin(study: Setup, original: PyTree) -> _Begun:
  """The first leg of the attack, once for all methods; leaves [S, ...]."""
  model, size = study.images.model, study.size

  def lane(key, original):
    attack_key, reference_key = jax.random.split(key)
    keys = jax.random.split(attack_key, size.attack_keys)

    def partial(prompts):
      return diffusion.trajectory(
        model,
        diffusion.classifier_free(model, original, prompts, GUIDANCE),
        diffusion.start_noise(model, keys),
        keys,
        num_steps=size.sampler_steps,
      )[_stops(study)]

    prompts = _roles(study, size.references)
    made = generate(
      model,
      size,
      guided(model),
      original,
      _flat(prompts),
      jax.random.split(reference_key, 2 * size.references),
    )
    references = made.reshape(2, size.references, *made.shape[1:])
    attacked = _roles(study, size.attack_keys)
    return _Begun(jax.vmap(partial)(attacked), keys, references)

  program = lambda keys, original: ju.map_many(
    lambda key: lane(key, original), keys, strategy=study.strategy
  )
  given = {"key": study.keys(21), "original": original}
  return study.kept.timed_all("begun", program, [given])[0].value


def _measure(study: Setup, case: Case) -> dict[str, Any]:
  """All numbers of one seed's model."""
  images, size, concept = study.images, study.size, study.concept
  params, name = case.variables.params, case.variables.maker
  maker = guided(images.model)
  if name is not None:
    maker = METHODS[name].maker(Task(images, concept, size.shrink))
  judge, real, begun = case.fitted
  seed, place = case.bed.extra
  begun = jax.tree.map(lambda leaf: leaf[place], begun)
  image_key, probe_key = jax.random.split(key_of(seed, 20))
  kernel_key = key_of(seed, 22)
  every = {
    k: np.repeat(v, size.images, 0) for k, v in images.every_prompt().items()
  }
  count = len(every["tokens"])
  tokens = jnp.concatenate(
    [jnp.asarray(every["tokens"]), _flat(_roles(study, size.references))]
  )
  keys = jax.random.split(image_key, len(tokens))
  made = generate(images.model, size, maker, params, tokens, keys)
  found = _answers(study, judge, real, every, made[:count])
  found["storage_mb"] = _changed_bytes(params, study.trained.original) / 1e6
  references = made[count:].reshape(begun.references.shape)
  if maker.predictor is None:
    # There are no steps of which the original model could take some.
    return found | _unattacked(study, references[0])
  finished = _finish(study, maker, params, begun)
  logits, features = images.judged(judge, _flat(_flat(finished)))
  logits = logits[concept.domain]
  attacked = features.reshape(*finished.shape[:3], -1)[0][_BELOW]
  sides = [
    images.judged(judge, x[0])[1] for x in (begun.references, references)
  ]
  found |= _kernel_distances(attacked, sides, kernel_key)
  wanted = jnp.array([concept.index, concept.kept])[:, None, None]
  logits = logits.reshape(*finished.shape[:3], -1)
  right = attacks.correctness(
    logits, jnp.broadcast_to(wanted, logits.shape[:-1])
  )
  scores = jax.vmap(functools.partial(_probe_scores, study))(
    finished, begun.references, references, jax.random.split(probe_key)
  )
  scores["curve"] = right.mean(axis=2)
  for role, place in zip(ROLES, (0, 1)):
    found[f"probe_accuracy_{role}"] = scores["probe_accuracy"][place]
    for name in ("curve", "crs", "ccs"):
      found[f"{name}_{role}_by_psi"] = scores[name][place]
  return found | {"shown": finished[0, :, :SHOWN]}


def _answers(study, judge, real, every, images):
  """UA, IRA, CRA, rates of all labels, and the distance from real images."""
  concept = study.concept
  logits, features = study.images.judged(judge, images)
  asked = {domain: jnp.asarray(every[domain]) for domain in DOMAINS}
  kept = ~concept.shown_in(asked)
  scores = generation.canvas_scores(
    logits, asked, concept.index, domain=concept.domain
  )._asdict()
  if concept.within is not None:
    scores = _pair_scores(logits, asked, concept, kept)
  distance = frechet.frechet_distance(
    frechet.feature_statistics(features, kept), real, ridge=_RIDGE
  )
  rates = [generation.class_accuracy(logits[d], asked[d]) for d in DOMAINS]
  return {
    **scores,
    "frechet_distance": distance,
    "rates": jnp.concatenate(rates),
  }


def _pair_scores(logits, asked, concept, kept):
  """Scores of a pair: UA of its own prompts, IRA and CRA of all others.

  IRA is the share of those that show their object, CRA that show their style.
  """
  pair = generation.pair_scores(logits, asked, concept.target)
  kept_right = (metrics.accuracy(logits[d], asked[d], kept) for d in DOMAINS)
  three = jnp.stack([1 - pair.pair, *kept_right])
  return {
    **dict(zip(("ua", "ira", "cra"), three)),
    "worst": three.min(),
    "harmonic": jnp.where((three > 0).all(), 3 / (1 / three).sum(), 0),
    "pair_accuracy": pair.pair,
    "pair_same_object": pair.shared["object"],
    "pair_same_style": pair.shared["style"],
    "pair_rest": pair.rest,
  }


def _changed_bytes(params, original):
  """Bytes of the leaves that have other bits than the original's."""
  each = zip(jax.tree.leaves(params), jax.tree.leaves(original))
  size = lambda leaf: float(leaf.size * leaf.dtype.itemsize)
  return sum((a != b).any() * size(a) for a, b in each)


def _finish(study, maker, params, begun):
  """The second leg of the attack for both concepts and every psi."""
  model, steps = study.images.model, study.size.sampler_steps

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


def _kernel_distances(attacked, sides, key):
  """Kernel distances of attacked images [P, n, D] to those of either model.

  Subsets are of half the smaller set; means over psi.
  """
  found = {}
  for name, references in zip(_SIDES, sides):
    one = lambda x, r=references: kernel_distance(
      x, r, key, subset_size=max(min(len(x), len(r)) // 2, 2)
    )
    distance = jax.vmap(one)(attacked)
    found[f"kid_{name}"] = distance.mean.mean()
    found[f"kid_{name}_spread"] = distance.spread.mean()
  return found


def _unattacked(study, images):
  """What `_measure` has of an attack, without one."""
  none = jnp.full(len(PSIS), jnp.nan)
  blank = jnp.full((len(PSIS), *images[:SHOWN].shape), jnp.nan)
  return {
    **{name: none for name in _BY_PSI},
    **{f"probe_accuracy_{role}": jnp.nan for role in ROLES},
    **{name: jnp.nan for name in _KERNEL},
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


def _reference(study: Setup, judge: Variables) -> frechet.FeatureStatistics:
  """Statistics of the test images that do not show the concept."""
  test, concept = study.images.test, study.concept
  kept = ~jnp.asarray(concept.shown_in(test))

  def program(judge, x):
    chunks = lambda x: study.images.judged(judge, x[None])[1][0]
    features = jax.lax.map(chunks, x, batch_size=study.size.chunk)
    return frechet.feature_statistics(features, kept)

  given = {"classifier": judge, "images": jnp.asarray(test["x"])}
  return study.kept.timed_all("reference", program, [given])[0].value


def _flat(images):
  return images.reshape(-1, *images.shape[2:])
