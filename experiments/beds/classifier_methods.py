"""The methods that make classifiers forget, as their settings build them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import optax

import jaxunlearn as ju
from jaxunlearn.methods.salun import sgd as published_sgd
from jaxunlearn.models.generator import image_generator, vector_generator

from ..bench import NOTHING_KEPT, Bed, Method, Plan, Setting, leave_out
from ..bench.tune import Between, Choice
from . import classifiers, concepts
from .classifier_settings import settings_for
from .recipes import RECIPES

# What `--tune` chose, in the place of settings by hand.
CHOSEN = Path(__file__).with_name("classifier_settings.json")
# One of each kind, and few enough to compile within a minute or two.
USUAL = (
  "finetune",
  "unsir",
  "bad_teacher",
  "scrub",
  "ssd_adaptive",
  "salun",
)
_NOISE_RATE = 0.1  # Of the noise that is learned, as published.
_CODER_RATE = 1e-3  # Of the auto-encoders, as published.
_STUDENT_STEPS = 10  # Per cycle, as published.
_READS_EMBEDDINGS = ("laf", "concept_poison")
_MOVES_INPUTS = (
  "boundary_shrink",
  "unsir",
  "zero_shot_noise",
  "gkt",
)


def _fit(
  bed: Bed,
  s: Setting,
  steps: str = "steps",
  rate: str = "rate",
  optimizer: Callable[..., Any] = optax.adam,
) -> ju.Fit:
  """A fit with the batches of the training."""
  recipe = bed.recipe
  return ju.Fit(
    *(optimizer(s[rate]), s[steps], recipe.batch_size),
    augment_rows=recipe.augment,
  )


def _sgd(bed: Bed, s: Setting) -> ju.Fit:
  return _fit(bed, s, optimizer=optax.sgd)


def _parts(bed: Bed, s: Setting) -> dict[str, Any]:
  """The fits of a method that learns noise, impairs and repairs."""
  noise = optax.adam(_NOISE_RATE)
  return {
    "noise": ju.Fit(noise, s["noise_steps"], s["noise_batch"]),
    "impair": _fit(bed, s, "impair_steps", "impair_rate"),
    "repair": _fit(bed, s, "repair_steps", "repair_rate"),
  }


def _l1_sparse(bed: Bed, s: Setting) -> ju.Transform:
  return ju.methods.l1_sparse(
    bed.model,
    _fit(bed, s),
    penalty=s["penalty"],
    plain_steps=s["plain_steps"],
  )


def _gradient_ascent(bed: Bed, s: Setting) -> ju.Transform:
  ceiling = s["loss_ceiling"]
  return ju.methods.gradient_ascent(
    bed.model, _sgd(bed, s), loss_ceiling=ceiling
  )


def _neggrad_plus(bed: Bed, s: Setting) -> ju.Transform:
  return ju.methods.neggrad_plus(
    bed.model,
    _sgd(bed, s),
    forget_batch_size=max(1, bed.recipe.batch_size // 2),
    retain_share=s["retain_share"],
  )


def _random_label(bed: Bed, s: Setting) -> ju.Transform:
  classes = bed.extra.num_classes
  return ju.methods.random_label(bed.model, _fit(bed, s), num_classes=classes)


def _salun(
  bed: Bed, s: Setting, optimizer: Callable[..., Any] = optax.adam
) -> ju.Transform:
  return ju.methods.salun(
    bed.model,
    _fit(bed, s, "retain_steps", optimizer=optimizer),
    num_classes=bed.extra.num_classes,
    num_epochs=s["num_epochs"],
    forget_steps=s["forget_steps"],
    keep=s["keep"],
  )


def _laf(bed: Bed, s: Setting) -> ju.Transform:
  rows = s["batch_size"]
  return ju.methods.laf(
    bed.model,
    ju.Fit(optax.adam(s["rate"]), s["steps"], rows),
    align=optax.adam(s["align_rate"]),
    temperature=s["temperature"],
    centered=True,
    autoencoder_fit=ju.Fit(optax.adam(_CODER_RATE), s["coder_steps"], rows),
  )


def _boundary_shrink(bed: Bed, s: Setting) -> ju.Transform:
  return ju.methods.boundary_shrink(bed.model, _sgd(bed, s), radius=s["radius"])


def _fisher_forgetting(bed: Bed, s: Setting) -> ju.Transform:
  return ju.methods.fisher_forgetting(
    bed.model,
    num_classes=bed.extra.num_classes,
    noise_scale=s["noise_scale"],
  )


def _scrub(bed: Bed, s: Setting, rewind_data: Any = None) -> ju.Transform:
  return ju.methods.scrub(
    bed.model,
    _fit(bed, s, "min_steps"),
    num_epochs=s["num_epochs"],
    max_epochs=s["max_epochs"],
    max_steps=s["max_steps"],
    rewind_data=rewind_data,
  )


def _unsir(bed: Bed, s: Setting) -> ju.Transform:
  return ju.methods.unsir(
    bed.model,
    num_classes=bed.extra.num_classes,
    max_classes=s["max_classes"],
    copies=s["copies"],
    retain_per_class=s["retain_per_class"],
    **_parts(bed, s),
  )


def _bad_teacher(bed: Bed, s: Setting) -> ju.Transform:
  share = s["retain_fraction"]
  return ju.methods.bad_teacher(bed.model, _fit(bed, s), retain_fraction=share)


def _zero_shot_noise(bed: Bed, s: Setting) -> ju.Transform:
  return ju.methods.zero_shot_noise(
    bed.model,
    num_classes=bed.extra.num_classes,
    forget_penalty=s["forget_penalty"],
    retain_penalty=s["retain_penalty"],
    copies=s["copies"],
    **_parts(bed, s),
  )


def _gkt(bed: Bed, s: Setting) -> ju.Transform:
  make = {"vector": vector_generator, "image": image_generator}
  return ju.methods.gkt(
    bed.model,
    num_classes=bed.extra.num_classes,
    cycles=s["cycle_steps"],
    learn=ju.Fit(optax.adam(s["rate"]), _STUDENT_STEPS, s["batch_size"]),
    gate=s["gate"],
    generator=make[s["generator"]],
    options=ju.methods.GktOptions(z_dim=s["z_dim"]),
  )


def _task_vector(bed: Bed, s: Setting) -> ju.Transform:
  strength = s["strength"]
  return ju.methods.task_vector(bed.model, _sgd(bed, s), strength=strength)


_RATE = {"rate": Between(1e-4, 1e-1)}
_KEPT, _FORGOTTEN = "retain rows", "forget rows"
_BOTH, _NONE = "forget and retain rows", "no rows, only which classes to forget"
_WHOLE = (
  "forgets whole classes: a request for a part of a class is to it one for the "
  "class."
)
_NOISE = {
  "impair_rate": Between(1e-4, 5e-2),
  "repair_rate": Between(1e-4, 2e-2),
  "copies": Between(0.3, 20.0),
}

METHODS: Mapping[str, Method] = {
  "finetune": Method(
    lambda bed, s: ju.methods.finetune(bed.model, _fit(bed, s)),
    _RATE,
    access=_KEPT,
  ),
  "l1_sparse": Method(
    _l1_sparse, {**_RATE, "penalty": Between(1e-6, 1e-2)}, access=_KEPT
  ),
  "gradient_ascent": Method(
    _gradient_ascent, {"rate": Between(1e-4, 1.0)}, access=_FORGOTTEN
  ),
  "task_vector": Method(
    _task_vector,
    {**_RATE, "strength": Between(0.25, 16.0)},
    access=_FORGOTTEN,
  ),
  "neggrad_plus": Method(
    _neggrad_plus,
    {**_RATE, "retain_share": Between(0.8, 0.9999, log=False)},
    access=_BOTH,
  ),
  "random_label": Method(_random_label, _RATE, access=_BOTH),
  "salun": Method(
    _salun, {**_RATE, "keep": Between(0.1, 1.0, log=False)}, access=_BOTH
  ),
  "salun_sgd": Method(
    lambda bed, s: _salun(bed, s, published_sgd),
    {**_RATE, "keep": Between(0.1, 1.0, log=False)},
    access=_BOTH,
    note="takes steps of SGD with momentum and decay, as published.",
  ),
  "laf": Method(
    _laf,
    {
      "rate": Between(2e-5, 2e-3),
      "align_rate": Between(2e-5, 2e-3),
      "temperature": Between(1.0, 50.0),
    },
    access="forget and retain rows without labels",
  ),
  "concept_poison": Method(
    lambda bed, s: concepts.poison(bed, s, _fit(bed, s)),
    _RATE,
    access=_BOTH,
    note="labels what is to be forgotten as the class that is nearest to it in "
    "concepts, here where in an input something is.",
  ),
  "boundary_shrink": Method(
    _boundary_shrink,
    {**_RATE, "radius": Between(1e-2, 1.0)},
    access=_FORGOTTEN,
  ),
  "boundary_expand": Method(
    lambda bed, s: ju.methods.boundary_expand(bed.model, _sgd(bed, s)),
    _RATE,
    access=_FORGOTTEN,
  ),
  "influence_unlearning": Method(
    lambda bed, s: ju.methods.influence_unlearning(bed.model, **s),
    {"scale": Between(0.1, 20.0), "damping": Between(1e-3, 1.0)},
    access=_BOTH,
  ),
  "iau": Method(
    lambda bed, s: ju.methods.iau(bed.model, **s),
    {"step_size": Between(0.05, 3.0), "retain_weight": Between(0.1, 10.0)},
    access=_BOTH,
  ),
  "ssd": Method(
    lambda bed, s: ju.methods.ssd(bed.model, **s),
    {"alpha": Between(0.5, 100.0), "dampening": Between(0.01, 2.0)},
    access=_BOTH,
  ),
  "ssd_adaptive": Method(
    lambda bed, s: ju.methods.ssd_adaptive(bed.model, **s),
    {"selection": Between(0.3, 10.0), "dampening": Between(0.01, 2.0)},
    access=_BOTH,
  ),
  "amnesiac": Method(
    lambda bed, s: ju.methods.amnesiac(
      bed.model, bed.kept, _fit(bed, s, "repair_steps")
    ),
    _RATE,
    access="retain rows, updates kept while training",
    keeps=True,
  ),
  "cf_k": Method(
    lambda bed, s: ju.methods.cf_k(
      bed.model, _fit(bed, s), num_layers=s["num_layers"]
    ),
    _RATE,
    access=_KEPT,
  ),
  "eu_k": Method(
    lambda bed, s: ju.methods.eu_k(
      bed.model, _fit(bed, s), num_layers=s["num_layers"]
    ),
    _RATE,
    access=_KEPT,
  ),
  "fisher_forgetting": Method(
    _fisher_forgetting, {"noise_scale": Between(1e-9, 1e-3)}, access=_KEPT
  ),
  "scrub": Method(
    _scrub, {**_RATE, "max_epochs": Choice((2, 3))}, access=_BOTH
  ),
  "scrub_rewind": Method(
    lambda bed, s: _scrub(bed, s, bed.extra.aside),
    {**_RATE, "max_epochs": Choice((2, 3))},
    access="forget, retain and held-out rows",
    note="chooses among its epochs by rows that are neither trained nor tested "
    "on.",
  ),
  "unsir": Method(
    _unsir,
    _NOISE,
    access=_KEPT,
    note="forgets whole classes: a request for a part of a class impairs the "
    "class, and its other rows help to repair it.",
  ),
  "bad_teacher": Method(
    _bad_teacher,
    {**_RATE, "steps": Choice((10, 40))},
    access="forget and some retain rows",
  ),
  "zero_shot_noise": Method(
    _zero_shot_noise, _NOISE, access=_NONE, blind=True, note=_WHOLE
  ),
  "gkt": Method(
    _gkt,
    {"rate": Between(1e-4, 1e-2), "gate": Between(1e-4, 0.5)},
    access=_NONE,
    blind=True,
    note=_WHOLE,
  ),
}


def _lacking(
  plan: Plan,
  *,
  leaves_classes: bool,
  takes_floats: bool,
  has_embeddings: bool,
) -> dict[str, str]:
  """Why some methods cannot serve these requests, by name."""
  found = {}
  for name, method in METHODS.items():
    if method.keeps and plan.beds.given is not None:
      found[name] = NOTHING_KEPT.format("updates")
    elif method.blind and not leaves_classes:
      found[name] = (
        "for a request with rows of every class, since it forgets whole classes"
      )
    elif name in _MOVES_INPUTS and not takes_floats:
      found[name] = (
        "for inputs that are integers, since it moves inputs by their gradient"
      )
    elif name in _READS_EMBEDDINGS and not has_embeddings:
      found[name] = (
        "for a model without an intermediate output named features, which it "
        "reads"
      )
  return found


def _has_embeddings(model: ju.Model, row: Any) -> bool:
  """Whether the model has `features` by that name; nothing is computed."""
  if model.features is None:
    return False
  find = lambda key, x: model.features(model.init(key, x), x)  # type: ignore[misc]
  return "features" in jax.eval_shape(find, jax.random.key(0), row)


def settings_of(options: classifiers.Options) -> Mapping[str, Setting]:
  """Those of the study; "smoke" shortens steps as much as training."""
  kind = classifiers.kind_of(options)
  scale = 1.0
  if options.preset == "smoke":
    smoke, quick = (RECIPES[kind][p].num_steps for p in ("smoke", "quick"))
    scale = smoke / quick
  return settings_for(kind, options.preset, scale)


def fit(plan: Plan) -> Plan:
  """Leaves out the methods that these requests or data do not suit.

  Raises:
    ValueError: such a method was asked for by name.
  """
  options, asked = plan.options, plan.requests
  dataset = classifiers.setup_of(options).dataset
  lacks = _lacking(
    plan,
    leaves_classes=classifiers.touched(plan, asked.forget)
    < dataset.num_classes,
    takes_floats=dataset.train["x"].dtype.kind == "f",
    has_embeddings=_has_embeddings(plan.model, dataset.train["x"][:1]),
  )
  plan = plan._replace(notes=tuple(classifiers.notes(plan)))
  plan = leave_out(plan, lacks)
  settings = dict(plan.settings)
  if "unsir" in settings:
    most = classifiers.touched(plan, asked.added)
    settings["unsir"] = {**settings["unsir"], "max_classes": most}
  strategy = plan.strategy
  if options.strategy is None and strategy == "vmap" and options.model != "mlp":
    strategy = 4
  return plan._replace(settings=settings, strategy=strategy)
