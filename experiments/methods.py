"""The methods under comparison: how each is built from its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax

import jaxunlearn as ju
from experiments import flags
from experiments.settings import PAPER, RECIPES, SETTINGS, Recipe, Settings
from jaxunlearn.methods.unsir import Fits
from jaxunlearn.models.generator import image_generator, vector_generator

_NOISE_RATE = 0.1
_STUDENT_STEPS = 10  # Of each cycle of gated transfer.


class Access(NamedTuple):
  """What a method may be built from.

  Attributes:
    model: the model.
    recipe: of the training.
    num_classes: C.
    max_classes: the most classes that a request touches.
    held_out: rows {"x", "label"} that were never trained on.
    ledger: what amnesiac unlearning kept while training; None elsewhere.
  """

  model: ju.Model
  recipe: Recipe
  num_classes: int
  max_classes: int
  held_out: Any = None
  ledger: Any = None


class Method(NamedTuple):
  """A way to unlearn.

  Attributes:
    make: `(access, settings) -> Transform`.
    data: what it must have access to, in words.
    settings: whose settings it takes, if not those of its own name.
    needs_ledger: whether the training must have kept something for it.
    zero_shot: whether it sees no row at all, only which classes a request has;
      one that has all of them leaves it nothing.
    moves_inputs: whether it moves inputs by their gradient, or makes some, which
      wants floats.
  """

  make: Callable[[Access, Settings], ju.Transform]
  data: str
  settings: str = ""
  needs_ledger: bool = False
  zero_shot: bool = False
  moves_inputs: bool = False


def _fit(
  access: Access, settings: Settings, steps: str = "steps", rate: str = "rate"
) -> ju.Fit:
  """A fit by Adam with the batches of the training."""
  optimizer = optax.adam(settings[rate])
  return ju.Fit(optimizer, settings[steps], access.recipe.batch_size)


def _parts(access: Access, settings: Settings) -> Fits:
  """The fits of a method that learns noise, impairs and repairs."""
  steps, rows = settings["noise_steps"], settings["noise_batch"]
  return {
    "noise": ju.Fit(optax.adam(_NOISE_RATE), steps, rows),
    "impair": _fit(access, settings, "impair_steps", "impair_rate"),
    "repair": _fit(access, settings, "repair_steps", "repair_rate"),
  }


def _sgd(access: Access, settings: Settings) -> ju.Fit:
  rate = optax.sgd(settings["rate"])
  return _fit(access, settings)._replace(optimizer=rate)


def _retrain(a: Access, s: Settings) -> ju.Transform:
  return ju.retrain(a.model, **a.recipe.kwargs())


def _finetune(a: Access, s: Settings) -> ju.Transform:
  return ju.finetune(a.model, _fit(a, s))


def _l1_sparse(a: Access, s: Settings) -> ju.Transform:
  return ju.l1_sparse(
    a.model, _fit(a, s), penalty=s["penalty"], plain_steps=s["plain_steps"]
  )


def _gradient_ascent(a: Access, s: Settings) -> ju.Transform:
  return ju.gradient_ascent(a.model, _sgd(a, s), loss_ceiling=s["loss_ceiling"])


def _neggrad_plus(a: Access, s: Settings) -> ju.Transform:
  return ju.neggrad_plus(
    a.model,
    _sgd(a, s),
    forget_batch_size=max(1, a.recipe.batch_size // 2),
    retain_share=s["retain_share"],
  )


def _random_label(a: Access, s: Settings) -> ju.Transform:
  return ju.random_label(a.model, _fit(a, s), num_classes=a.num_classes)


def _salun(a: Access, s: Settings) -> ju.Transform:
  return ju.salun(
    a.model,
    _fit(a, s, "retain_steps"),
    num_classes=a.num_classes,
    num_epochs=s["num_epochs"],
    forget_steps=s["forget_steps"],
    keep=s["keep"],
  )


def _boundary_shrink(a: Access, s: Settings) -> ju.Transform:
  return ju.boundary_shrink(a.model, _sgd(a, s), radius=s["radius"])


def _boundary_expand(a: Access, s: Settings) -> ju.Transform:
  return ju.boundary_expand(a.model, _sgd(a, s))


def _influence_unlearning(a: Access, s: Settings) -> ju.Transform:
  return ju.influence_unlearning(a.model, **s)


def _ssd(a: Access, s: Settings) -> ju.Transform:
  return ju.ssd_adaptive(a.model, **s)


def _amnesiac(a: Access, s: Settings) -> ju.Transform:
  return ju.amnesiac(a.model, a.ledger, _fit(a, s, "repair_steps"))


def _cf_k(a: Access, s: Settings) -> ju.Transform:
  return ju.cf_k(a.model, _fit(a, s), num_layers=s["num_layers"])


def _eu_k(a: Access, s: Settings) -> ju.Transform:
  return ju.eu_k(a.model, _fit(a, s), num_layers=s["num_layers"])


def _fisher_forgetting(a: Access, s: Settings) -> ju.Transform:
  return ju.fisher_forgetting(
    a.model, num_classes=a.num_classes, noise_scale=s["noise_scale"]
  )


def _scrub(a: Access, s: Settings, rewind_data: Any = None) -> ju.Transform:
  return ju.scrub(
    a.model,
    _fit(a, s, "min_steps"),
    num_epochs=s["num_epochs"],
    max_epochs=s["max_epochs"],
    max_steps=s["max_steps"],
    rewind_data=rewind_data,
  )


def _scrub_rewind(a: Access, s: Settings) -> ju.Transform:
  return _scrub(a, s, a.held_out)


def _unsir(a: Access, s: Settings) -> ju.Transform:
  return ju.unsir(
    a.model,
    num_classes=a.num_classes,
    max_classes=a.max_classes,
    copies=s["copies"],
    retain_per_class=s["retain_per_class"],
    **_parts(a, s),
  )


def _bad_teacher(a: Access, s: Settings) -> ju.Transform:
  return ju.bad_teacher(
    a.model, _fit(a, s), retain_fraction=s["retain_fraction"]
  )


def _zero_shot_noise(a: Access, s: Settings) -> ju.Transform:
  return ju.zero_shot_noise(
    a.model,
    num_classes=a.num_classes,
    forget_penalty=s["forget_penalty"],
    retain_penalty=s["retain_penalty"],
    copies=s["copies"],
    **_parts(a, s),
  )


def _gkt(a: Access, s: Settings) -> ju.Transform:
  make = {"vector": vector_generator, "image": image_generator}
  return ju.gkt(
    a.model,
    num_classes=a.num_classes,
    cycles=s["cycle_steps"],
    learn=ju.Fit(optax.adam(s["rate"]), _STUDENT_STEPS, s["batch_size"]),
    z_dim=s["z_dim"],
    gate=s["gate"],
    generator=make[s["generator"]],
  )


METHODS: Mapping[str, Method] = {
  "finetune": Method(_finetune, "retain rows"),
  "l1_sparse": Method(_l1_sparse, "retain rows"),
  "gradient_ascent": Method(_gradient_ascent, "forget rows"),
  "neggrad_plus": Method(_neggrad_plus, "forget and retain rows"),
  "random_label": Method(_random_label, "forget and retain rows"),
  "salun": Method(_salun, "forget and retain rows"),
  "boundary_shrink": Method(_boundary_shrink, "forget rows", moves_inputs=True),
  "boundary_expand": Method(_boundary_expand, "forget rows"),
  "influence_unlearning": Method(
    _influence_unlearning, "forget and retain rows"
  ),
  "ssd": Method(_ssd, "forget and retain rows"),
  "amnesiac": Method(
    _amnesiac, "retain rows, updates kept while training", "", True
  ),
  "cf_k": Method(_cf_k, "retain rows"),
  "eu_k": Method(_eu_k, "retain rows"),
  "fisher_forgetting": Method(_fisher_forgetting, "retain rows"),
  "scrub": Method(_scrub, "forget and retain rows"),
  "scrub_rewind": Method(
    _scrub_rewind, "forget, retain and held-out rows", "scrub"
  ),
  "unsir": Method(_unsir, "retain rows", moves_inputs=True),
  "bad_teacher": Method(_bad_teacher, "forget and some retain rows"),
  "zero_shot_noise": Method(
    _zero_shot_noise,
    "no rows, only which classes to forget",
    zero_shot=True,
    moves_inputs=True,
  ),
  "gkt": Method(
    _gkt,
    "no rows, only which classes to forget",
    zero_shot=True,
    moves_inputs=True,
  ),
  "retrain": Method(_retrain, "retain rows"),
}
# One of each kind, and few enough to compile within a minute or two.
USUAL = ("finetune", "unsir", "bad_teacher", "scrub", "ssd", "salun")
# Retraining with another seed is a yardstick, to be had by name.
_NOT_IN_ALL = ("retrain",)


def choose(
  text: str,
  *,
  has_ledger: bool,
  leaves_classes: bool = True,
  takes_floats: bool = True,
) -> tuple[str, ...]:
  """The methods that a flag's text names.

  Args:
    text: "usual", "all", or names with commas between.
    has_ledger: whether the original model is trained here, with the ledger
      that amnesiac unlearning needs.
    leaves_classes: whether every request leaves some class alone, without
      which zero-shot methods have nothing to keep.
    takes_floats: whether the inputs are floats, which can be moved.

  Raises:
    ValueError: an unknown name, with the nearest one; none at all; a method
      that lacks one of these. "usual" and "all" leave such methods out.
  """
  lacks = {
    name: why
    for name, method in METHODS.items()
    for is_lacking, why in (
      (
        method.needs_ledger and not has_ledger,
        "beside --checkpoint, since it needs updates kept while training",
      ),
      (
        method.zero_shot and not leaves_classes,
        "for a request with rows of every class, since it forgets whole classes",
      ),
      (
        method.moves_inputs and not takes_floats,
        "for inputs that are integers, since it moves inputs by their gradient",
      ),
    )
    if is_lacking
  }
  everything = [n for n in METHODS if n not in _NOT_IN_ALL and n not in lacks]
  groups = {"usual": [n for n in USUAL if n not in lacks], "all": everything}
  names = flags.chosen(text, METHODS, groups=groups)
  for name in names if text not in groups else ():
    if name in lacks:
      raise ValueError(
        f"Expected --methods without {name} {lacks[name]}, got {text!r}."
      )
  return names


def settings_for(name: str, kind: str, preset: str) -> dict[str, Any]:
  """A method's settings for a preset.

  Args:
    name: of the method.
    kind: row of `SETTINGS`.
    preset: "smoke" shortens the steps of "quick" as much as its training;
      "paper" has settings of its own for image models.
  """
  table = PAPER if preset == "paper" and kind != "mlp" else SETTINGS[kind]
  base = table.get(METHODS[name].settings or name, {})
  recipes = RECIPES[kind]
  scale = 1.0
  if preset == "smoke":
    scale = recipes[preset].num_steps / recipes["quick"].num_steps

  def scaled(key: str, value: Any) -> Any:
    return max(1, round(value * scale)) if key.endswith("steps") else value

  return {key: scaled(key, value) for key, value in base.items()}
