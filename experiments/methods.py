"""The methods under comparison and their settings, in tables to edit.

A setting that ends in `steps` is shortened for the preset "smoke"; a rate is that
of the optimiser that the method is built with below.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax

import jaxunlearn as ju

Settings = Mapping[str, Any]


class Recipe(NamedTuple):
  """How the original and the retrained model are trained: with Adam."""

  num_steps: int
  learning_rate: float
  batch_size: int

  def kwargs(self) -> dict[str, Any]:
    return {
      "optimizer": optax.adam(self.learning_rate),
      "num_steps": self.num_steps,
      "batch_size": self.batch_size,
    }


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


# Training by model and preset. Own models take the row "mlp" if their inputs
# are vectors, else the row "cnn".
RECIPES: Mapping[str, Mapping[str, Recipe]] = {
  "mlp": {
    "smoke": Recipe(120, 2e-3, 64),
    "quick": Recipe(600, 1e-3, 128),
    "paper": Recipe(3000, 1e-3, 128),
  },
  "cnn": {
    "smoke": Recipe(20, 2e-3, 32),
    "quick": Recipe(300, 1.5e-3, 64),
    "paper": Recipe(12000, 1e-3, 256),
  },
  "resnet": {
    "smoke": Recipe(10, 2e-3, 32),
    "quick": Recipe(150, 2e-3, 64),
    "paper": Recipe(12000, 1e-3, 256),
  },
  "vit": {
    "smoke": Recipe(20, 2e-3, 32),
    "quick": Recipe(300, 1e-3, 64),
    "paper": Recipe(20000, 5e-4, 256),
  },
}

# Settings of the methods by model, for the recipe "quick" of that model. They
# were chosen by hand on digits and on a part of CIFAR-10, by the same numbers
# that the report shows for them; on other data they are a first guess.
_MLP: Mapping[str, Settings] = {
  "finetune": {"rate": 1e-3, "steps": 60},
  "gradient_ascent": {"rate": 0.05, "steps": 10, "loss_ceiling": 3.0},
  "neggrad_plus": {"rate": 0.05, "steps": 100, "retain_share": 0.98},
  "random_label": {"rate": 1e-3, "steps": 60},
  "amnesiac": {"rate": 1e-3, "repair_steps": 60},
  "cf_k": {"rate": 1e-3, "steps": 100, "num_layers": 1},
  "eu_k": {"rate": 1e-3, "steps": 300, "num_layers": 1},
  "fisher_forgetting": {"noise_scale": 3e-6},
  "scrub": {
    "rate": 1e-3,
    "num_epochs": 10,
    "max_epochs": 3,
    "max_steps": 5,
    "min_steps": 10,
  },
  "unsir": {
    "noise_batch": 128,
    "noise_steps": 40,
    "copies": 1.0,
    "retain_per_class": None,
    "impair_rate": 0.01,
    "impair_steps": 10,
    "repair_rate": 0.005,
    "repair_steps": 80,
  },
  # Few steps, as in the paper's single epoch: with many the student takes over
  # the untrained teacher's chance accuracy, one in ten.
  "bad_teacher": {"rate": 3e-3, "steps": 10, "retain_fraction": 0.3},
}
_CNN: Mapping[str, Settings] = {
  **_MLP,
  "finetune": {"rate": 1.5e-3, "steps": 40},
  "gradient_ascent": {"rate": 0.005, "steps": 8, "loss_ceiling": 3.0},
  "neggrad_plus": {"rate": 0.01, "steps": 40, "retain_share": 0.95},
  "random_label": {"rate": 1.5e-3, "steps": 40},
  "amnesiac": {"rate": 1.5e-3, "repair_steps": 80},
  "cf_k": {"rate": 1.5e-3, "steps": 40, "num_layers": 1},
  "eu_k": {"rate": 1e-2, "steps": 100, "num_layers": 1},
  "scrub": {
    "rate": 1e-3,
    "num_epochs": 5,
    "max_epochs": 2,
    "max_steps": 4,
    "min_steps": 8,
  },
  "unsir": {
    "noise_batch": 64,
    "noise_steps": 30,
    "copies": 1.0,
    "retain_per_class": None,
    "impair_rate": 0.005,
    "impair_steps": 10,
    "repair_rate": 0.0015,
    "repair_steps": 40,
  },
  "bad_teacher": {"rate": 1.5e-3, "steps": 20, "retain_fraction": 0.3},
}
# For "paper" on image models, from the publications where they say: batches of
# 256, so about 190 steps are an epoch of CIFAR-10.
_PAPER: Mapping[str, Settings] = {
  "finetune": {"rate": 1e-3, "steps": 950},
  "gradient_ascent": {"rate": 0.005, "steps": 40, "loss_ceiling": 3.0},
  "neggrad_plus": {"rate": 0.01, "steps": 950, "retain_share": 0.99},
  "random_label": {"rate": 1e-4, "steps": 590},
  "amnesiac": {"rate": 1e-3, "repair_steps": 190},
  "cf_k": {"rate": 1e-3, "steps": 1900, "num_layers": 1},
  "eu_k": {"rate": 1e-3, "steps": 6000, "num_layers": 1},
  "fisher_forgetting": {"noise_scale": 1e-6},
  "scrub": {
    "rate": 5e-4,
    "num_epochs": 10,
    "max_epochs": 3,
    "max_steps": 20,
    "min_steps": 190,
  },
  "unsir": {
    "noise_batch": 256,
    "noise_steps": 40,
    "copies": 20.0,
    "retain_per_class": 1000,
    "impair_rate": 0.02,
    "impair_steps": 72,
    "repair_rate": 0.01,
    "repair_steps": 32,
  },
  "bad_teacher": {"rate": 1e-4, "steps": 60, "retain_fraction": 0.3},
}
SETTINGS: Mapping[str, Mapping[str, Settings]] = {
  "mlp": _MLP,
  "cnn": _CNN,
  "resnet": _CNN,
  "vit": _CNN,
}


class Method(NamedTuple):
  """A way to unlearn.

  Attributes:
    make: `(access, settings) -> Transform`.
    data: what it must have access to, in words.
    settings: whose settings it takes, if not those of its own name.
    needs_ledger: whether the training must have kept something for it.
  """

  make: Callable[[Access, Settings], ju.Transform]
  data: str
  settings: str = ""
  needs_ledger: bool = False


def _fit(access: Access, settings: Settings, steps: str = "steps"):
  """The three arguments that most methods share."""
  return {
    "optimizer": optax.adam(settings["rate"]),
    "num_steps": settings[steps],
    "batch_size": access.recipe.batch_size,
  }


def _retrain(a: Access, s: Settings) -> ju.Transform:
  return ju.retrain(a.model, **a.recipe.kwargs())


def _finetune(a: Access, s: Settings) -> ju.Transform:
  return ju.finetune(a.model, **_fit(a, s))


def _gradient_ascent(a: Access, s: Settings) -> ju.Transform:
  fit = {**_fit(a, s), "optimizer": optax.sgd(s["rate"])}
  return ju.gradient_ascent(a.model, loss_ceiling=s["loss_ceiling"], **fit)


def _neggrad_plus(a: Access, s: Settings) -> ju.Transform:
  return ju.neggrad_plus(
    a.model,
    optimizer=optax.sgd(s["rate"]),
    num_steps=s["steps"],
    forget_batch_size=max(1, a.recipe.batch_size // 2),
    retain_batch_size=a.recipe.batch_size,
    retain_share=s["retain_share"],
  )


def _random_label(a: Access, s: Settings) -> ju.Transform:
  return ju.random_label(a.model, num_classes=a.num_classes, **_fit(a, s))


def _amnesiac(a: Access, s: Settings) -> ju.Transform:
  return ju.amnesiac(a.model, a.ledger, **_fit(a, s, "repair_steps"))


def _cf_k(a: Access, s: Settings) -> ju.Transform:
  return ju.cf_k(a.model, num_layers=s["num_layers"], **_fit(a, s))


def _eu_k(a: Access, s: Settings) -> ju.Transform:
  return ju.eu_k(a.model, num_layers=s["num_layers"], **_fit(a, s))


def _fisher_forgetting(a: Access, s: Settings) -> ju.Transform:
  return ju.fisher_forgetting(
    a.model, num_classes=a.num_classes, noise_scale=s["noise_scale"]
  )


def _scrub(a: Access, s: Settings, rewind_data: Any = None) -> ju.Transform:
  return ju.scrub(
    a.model,
    optimizer=optax.adam(s["rate"]),
    num_epochs=s["num_epochs"],
    max_epochs=s["max_epochs"],
    max_steps=s["max_steps"],
    min_steps=s["min_steps"],
    forget_batch_size=a.recipe.batch_size,
    retain_batch_size=a.recipe.batch_size,
    rewind_data=rewind_data,
  )


def _scrub_rewind(a: Access, s: Settings) -> ju.Transform:
  return _scrub(a, s, a.held_out)


def _unsir(a: Access, s: Settings) -> ju.Transform:
  return ju.unsir(
    a.model,
    num_classes=a.num_classes,
    max_classes=a.max_classes,
    noise_steps=s["noise_steps"],
    noise_batch=s["noise_batch"],
    copies=s["copies"],
    retain_per_class=s["retain_per_class"],
    impair_optimizer=optax.adam(s["impair_rate"]),
    impair_steps=s["impair_steps"],
    repair_optimizer=optax.adam(s["repair_rate"]),
    repair_steps=s["repair_steps"],
    batch_size=a.recipe.batch_size,
  )


def _bad_teacher(a: Access, s: Settings) -> ju.Transform:
  return ju.bad_teacher(
    a.model, retain_fraction=s["retain_fraction"], **_fit(a, s)
  )


METHODS: Mapping[str, Method] = {
  "finetune": Method(_finetune, "retain rows"),
  "gradient_ascent": Method(_gradient_ascent, "forget rows"),
  "neggrad_plus": Method(_neggrad_plus, "forget and retain rows"),
  "random_label": Method(_random_label, "forget and retain rows"),
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
  "unsir": Method(_unsir, "retain rows"),
  "bad_teacher": Method(_bad_teacher, "forget and some retain rows"),
  "retrain": Method(_retrain, "retain rows"),
}
# Retraining with another seed is a yardstick, to be had by name.
_NOT_IN_ALL = ("retrain",)


def choose(text: str, *, has_ledger: bool) -> tuple[str, ...]:
  """The methods that a flag's text names.

  Args:
    text: "all", or names with commas between.
    has_ledger: whether the original model is trained here, with the ledger
      that amnesiac unlearning needs; "all" leaves it out otherwise.

  Raises:
    ValueError: an unknown name, with the nearest one; none at all; amnesiac
      unlearning of a model that was trained elsewhere.
  """
  if text == "all":
    return tuple(
      name
      for name, method in METHODS.items()
      if name not in _NOT_IN_ALL and (has_ledger or not method.needs_ledger)
    )
  names = tuple(dict.fromkeys(n.strip() for n in text.split(",") if n.strip()))
  if not names:
    raise ValueError(f"Expected --methods all or names, got {text!r}.")
  for name in names:
    if name not in METHODS:
      near = difflib.get_close_matches(name, [*METHODS, "all"], 1, 0.0)
      raise ValueError(
        f"Expected --methods among all, {', '.join(METHODS)}, got {name!r}; "
        f"did you mean {near[0]!r}?"
      )
    if METHODS[name].needs_ledger and not has_ledger:
      raise ValueError(
        f"Expected --methods without {name} beside --checkpoint, since it "
        f"needs updates kept while training, got {name!r}."
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
  table = _PAPER if preset == "paper" and kind != "mlp" else SETTINGS[kind]
  base = table.get(METHODS[name].settings or name, {})
  recipes = RECIPES[kind]
  scale = 1.0
  if preset == "smoke":
    scale = recipes[preset].num_steps / recipes["quick"].num_steps

  def scaled(key: str, value: Any) -> Any:
    return max(1, round(value * scale)) if key.endswith("steps") else value

  return {key: scaled(key, value) for key, value in base.items()}
