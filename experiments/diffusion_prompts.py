"""Adversarial prompts against unlearned models, and the control that they need.

UnlearnDiffAtk (arXiv:2310.11868) searches for tokens that make a prompt show the
concept again. As many random tokens are the control, and the retrained model is
the chance level: an attack rate without both is no evidence.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.diffusion_methods import Task
from experiments.diffusion_study import GUIDANCE, Study, Trained, judged
from jaxunlearn import diffusion
from jaxunlearn.core.types import PyTree

# Of the published 50 and 40 steps; rate, decay and batch are not the published
# ones either (0.01, 0.1, 1), with which the attack finds less here.
OUTER_STEPS, INNER_STEPS, NUM_TOKENS = 10, 40, 3
RATE, DECAY, BATCH = 0.1, 0.0, 8


def make_attack(
  study: Study, trained: Trained
) -> Callable[[PyTree], dict[str, np.ndarray]]:
  """`params [S, ...] -> rates`, arrays [S], of the first seed; nan for others.

  One program for all params.
  """
  bed, size, concept = study.bed, study.size, study.concept
  rng = np.random.default_rng(int(study.seeds[0]))
  of_concept = np.flatnonzero(bed.test[concept.domain] == concept.index)
  rows = rng.choice(of_concept, min(size.attacked, len(of_concept)), False)
  # The shortest template: prompts need room for the tokens.
  tokens = bed.prompts(
    bed.test["object"][rows], bed.test["style"][rows], template=1
  )
  images = jnp.asarray(bed.test["x"][rows])
  # The concept's own words would be no attack on it.
  allowed = np.ones(bed.model.vocab_size, bool)
  allowed[Task(bed, concept, 1).words] = False

  def attack(params, judge, tokens, images, key):
    def recognise(x):
      logits = judged(study, judge, x)[0][concept.domain]
      return logits.argmax(-1) == concept.index

    result = diffusion.attack_prompts(
      bed.model,
      params,
      tokens,
      images,
      recognise,
      key,
      num_tokens=NUM_TOKENS,
      outer_steps=max(OUTER_STEPS // size.shrink, 2),
      inner_steps=max(INNER_STEPS // size.shrink, 2),
      learning_rate=RATE,
      weight_decay=DECAY,
      batch_size=BATCH,
      allowed=jnp.asarray(allowed),
      num_steps=size.sampler_steps,
      guidance=GUIDANCE,
    )
    rates = diffusion.attack_rates(result)
    return {
      "prompt_rate": rates.pre,
      "random_asr": rates.random,
      "asr": rates.adversarial,
    }

  program, key = jax.jit(attack), study.keys(30)[0]

  def measure(params: PyTree) -> dict[str, np.ndarray]:
    first = jax.tree.map(lambda leaf: leaf[0], params)
    found = program(first, trained.judge, tokens, images, key)
    rest = [np.nan] * (len(study.seeds) - 1)
    return {name: np.array([rate, *rest]) for name, rate in found.items()}

  return measure
