"""Every method for classifiers with settings that work, to begin from.

Rates and coefficients are those that 32 draws chose for an MLP on digits, on
other rows, requests and seeds than any table shows (`experiments.forget --tune`);
lengths are shares of the training. Those of `laf` and `zero_shot_noise` were set by
hand. On other data they are a first guess.
"""

from __future__ import annotations

import optax

from jaxunlearn.core import checks
from jaxunlearn.core.tasks import Fit, Model
from jaxunlearn.core.transform import Transform
from jaxunlearn.methods.bad_teacher import bad_teacher
from jaxunlearn.methods.baselines import (
  finetune,
  gradient_ascent,
  l1_sparse,
  neggrad_plus,
  retrain,
)
from jaxunlearn.methods.boundary import boundary_expand, boundary_shrink
from jaxunlearn.methods.concept_poison import concept_poison
from jaxunlearn.methods.fisher import fisher_forgetting
from jaxunlearn.methods.iau import iau
from jaxunlearn.methods.influence_unlearning import influence_unlearning
from jaxunlearn.methods.laf import laf
from jaxunlearn.methods.last_layers import cf_k, eu_k
from jaxunlearn.methods.random_label import random_label
from jaxunlearn.methods.salun import salun
from jaxunlearn.methods.scrub import scrub
from jaxunlearn.methods.ssd import ssd, ssd_adaptive
from jaxunlearn.methods.task_vector import task_vector
from jaxunlearn.methods.unsir import unsir
from jaxunlearn.methods.zero_shot import zero_shot_noise


def defaults(
  model: Model, num_classes: int, fit: Fit, *, max_classes: int = 1
) -> dict[str, Transform]:
  """The methods by name, and `retrain`, the exact answer.

      for name, method in ju.methods.defaults(model, 10, recipe).items():
        unlearned, info = ju.unlearn(method, variables, data, mask, key)

  Left out are methods that want more than a model: `amnesiac` (updates kept while
  training), `dmm` and `oracle_matching` (other models), `gkt` (a generator of
  inputs), and those for regression.

  Args:
    model: a classifier; with `features` there is `laf` as well.
    num_classes: C.
    fit: the recipe of its training, of which methods take a share of the steps.
    max_classes: of a request, for `unsir`.

  Returns:
    Transforms; nothing is compiled before one is used.

  Example:
    >>> import optax
    >>> import jaxunlearn as ju
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> recipe = ju.Fit(optax.adam(0.05), num_steps=40, batch_size=16)
    >>> methods = ju.methods.defaults(problem.model, 4, recipe)
    >>> sorted(methods)[:3]
    ['bad_teacher', 'boundary_expand', 'boundary_shrink']
    >>> made, _ = ju.unlearn(methods["random_label"], *problem.arguments)
    >>> toy.accuracies(problem, made)
    (0.1, 1.0)
  """
  checks.model(model)
  checks.count(2, num_classes=num_classes)
  part = lambda share: max(1, round(share * fit.num_steps))

  def adam(rate: float, share: float) -> Fit:
    return Fit(optax.adam(rate), part(share), fit.batch_size)

  def sgd(rate: float, share: float) -> Fit:
    return Fit(optax.sgd(rate), part(share), fit.batch_size)

  noise = optax.adam(0.1)
  half = max(1, fit.batch_size // 2)
  made = {
    "retrain": retrain(model, fit),
    "finetune": finetune(model, adam(0.018, 0.2)),
    "l1_sparse": l1_sparse(
      model, adam(0.012, 0.4), penalty=8e-5, plain_steps=part(0.08)
    ),
    "gradient_ascent": gradient_ascent(
      model, sgd(0.05, 0.03), loss_ceiling=3.0
    ),
    "task_vector": task_vector(model, sgd(0.052, 0.1), strength=8.6),
    "neggrad_plus": neggrad_plus(
      model, sgd(0.052, 0.33), forget_batch_size=half, retain_share=0.97
    ),
    "random_label": random_label(
      model, adam(0.027, 0.2), num_classes=num_classes
    ),
    "salun": salun(
      model,
      adam(0.027, 0.18),
      num_classes=num_classes,
      num_epochs=2,
      forget_steps=1,
      keep=0.73,
    ),
    "boundary_shrink": boundary_shrink(model, sgd(0.004, 0.03), radius=0.7),
    "boundary_expand": boundary_expand(model, sgd(0.042, 0.03)),
    "influence_unlearning": influence_unlearning(
      model, scale=10.0, damping=0.046
    ),
    "iau": iau(model, step_size=0.34, retain_weight=0.18),
    "ssd": ssd(model),
    "ssd_adaptive": ssd_adaptive(model, selection=2.4, dampening=0.28),
    "cf_k": cf_k(model, adam(0.014, 0.33), num_layers=1),
    "eu_k": eu_k(model, adam(0.022, 1.0), num_layers=1),
    "fisher_forgetting": fisher_forgetting(
      model, num_classes=num_classes, noise_scale=6.5e-7
    ),
    "scrub": scrub(
      model,
      adam(0.0025, 0.033),
      num_epochs=10,
      max_epochs=2,
      max_steps=part(0.017),
    ),
    "unsir": unsir(
      model,
      num_classes=num_classes,
      max_classes=max_classes,
      copies=0.7,
      noise=Fit(noise, 40, 128),
      impair=adam(8.5e-4, 0.033),
      repair=adam(0.016, 0.27),
    ),
    "bad_teacher": bad_teacher(model, adam(0.0025, 0.033)),
    "concept_poison": concept_poison(
      model, adam(3.7e-4, 0.2), num_classes=num_classes
    ),
    "zero_shot_noise": zero_shot_noise(
      model,
      num_classes=num_classes,
      noise=Fit(noise, 60, 64),
      impair=adam(1e-3, 0.05),
      repair=adam(4e-3, 0.13),
      copies=3.0,
    ),
  }
  if model.features is not None:
    made["laf"] = laf(
      model,
      Fit(optax.adam(2e-4), part(3.3), 32),
      align=optax.adam(4e-4),
      temperature=5.0,
      autoencoder_fit=Fit(optax.adam(1e-3), part(1.0), 32),
    )
  return made
