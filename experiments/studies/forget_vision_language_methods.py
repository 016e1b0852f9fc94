"""The methods of `forget_vision_language`, by benchmark, and their settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

import jaxunlearn as ju
from jaxunlearn import language, vision_language
from jaxunlearn.vision_language import fact_defences

from ..beds.texts import adamw
from ..bench import Bed, Method, Setting
from ..bench.tune import Between

LAYERS = (1, 2, 3)  # Read out by UnLOK's attacks; block 0 is edited.
TAIL = 4
_RATE = {"rate": Between(1e-4, 1e-2)}
_BOTH = "forget and retain rows"


def _retain(bed: Bed, forget: jax.Array) -> ju.Request:
  """The forget rows, and all others but those that are only looked at."""
  return ju.Request(forget, ~forget & ~bed.marks["hold"])


def _tuned(
  make: Callable[..., ju.Transform],
  access: str = _BOTH,
  note: str = "",
  **fixed: Any,
) -> Method:
  """A method that trains projector and decoder; the tower is frozen."""

  def build(bed: Bed, setting: Setting) -> Any:
    rest = dict(setting)
    fit = ju.Fit(adamw(rest.pop("rate")), rest.pop("steps"), 16)
    method = make(bed.model, fit, **rest, **fixed)
    frozen = ju.masked(method, vision_language.FROZEN_TOWER)
    return lambda variables, data, forget, key: frozen(
      variables, data, _retain(bed, forget), key
    )

  return Method(build, _RATE, note, access)


def _decoupled(
  make: Callable[..., ju.Transform], weight: float, **fixed: Any
) -> Method:
  def with_pairs(lm: Any, fit: ju.Fit, **rest: Any) -> ju.Transform:
    method = make(lm, fit, **rest)
    return vision_language.prompt_decoupling(lm, method, weight)

  return _tuned(
    with_pairs, "forget rows and their pairs", "beside the PD loss.", **fixed
  )


def _adapted(make: Callable[..., ju.Transform], **fixed: Any) -> Method:
  def through(lm: Any, fit: ju.Fit) -> ju.Transform:
    view = vision_language.lora_and_projector(rank=8)
    return ju.through(view, lambda part: make(part, fit, **fixed), lm)

  return _tuned(through, note="rank 8, and the projector.")


def _siu(note: str, masked: bool, **weights: Any) -> Method:
  """SIU's rows, and its divergence or another."""

  def build(bed: Bed, setting: Setting) -> Any:
    targets = bed.marks["targets"]
    targets = targets if masked else targets.unmasked
    fit = ju.Fit(adamw(setting["rate"]), setting["steps"], 4)
    method = ju.masked(
      vision_language.siu(bed.model, fit, **weights),
      vision_language.FROZEN_TOWER,
    )
    return lambda variables, data, forget, key: method(
      variables, None, ju.Request(concept=targets), key
    )

  access = "one image, and a few rows of other concepts"
  return Method(build, _RATE, note, access)


def _edit(make: Callable[..., ju.Transform], **fixed: Any) -> Method:
  """One edit a fact, each by itself; the model keeps them beside its params."""

  def build(bed: Bed, setting: Setting) -> Any:
    fit = ju.Fit(adamw(setting["rate"]), setting["steps"], 4)

    def run(variables: Any, data: Any, forget: Any, key: jax.Array) -> Any:
      deltas = vision_language.edit_facts(
        bed.model,
        lambda lm: make(lm, fit, **fixed),
        variables,
        data,
        bed.marks["facts"],
        key,
        keep=~forget,
        layers=LAYERS,
      )
      return variables._replace(frozen={"deltas": deltas}), {}

    return run

  return Method(build, _RATE, "an edit of one kernel.", "a fact, neutral rows")


_ASCENT = language.gradient_ascent
_HEADS = {"layers": LAYERS, "k": TAIL}
METHODS: Mapping[str, Method] = {
  "ga": _tuned(_ASCENT, "forget rows"),
  "gd": _tuned(_ASCENT, retain="nll"),
  "kl": _tuned(_ASCENT, retain="kl"),
  "po": _tuned(language.idk, note="a refusal is trained in."),
  "po_lora": _adapted(language.idk),
  "ga_pd": _decoupled(_ASCENT, 0.5),
  "gd_pd": _decoupled(_ASCENT, 0.5, retain="nll", retain_weight=0.5),
  "kl_pd": _decoupled(_ASCENT, 1.0, retain="kl"),
  "po_pd": _decoupled(language.idk, 1.0),
  "siu": _siu("cross-entropy and the dual masked KL.", True),
  "ce_kl": _siu("cross-entropy and the plain KL.", False),
  "ce": _siu("cross-entropy alone.", False, kl_weight=0.0),
  "erasure": _edit(_ASCENT, retain="kl"),
  "fact_erasure": _edit(fact_defences.fact_erasure),
  "empty_response": _edit(language.idk, retain="kl"),
  "head_projection": _edit(fact_defences.head_projection, **_HEADS),
  "head_and_erasure": _edit(
    fact_defences.head_projection, erasure_weight=1.0, **_HEADS
  ),
  "max_entropy": _edit(fact_defences.max_entropy, layers=LAYERS),
  "input_rephrasing": _edit(fact_defences.input_rephrasing),
}
DEFAULTS = {
  "fiubench": ("ga", "gd", "kl", "po", "po_lora"),
  "safeeraser": ("ga", "ga_pd", "gd", "gd_pd", "kl", "kl_pd", "po", "po_pd"),
  "mmubench": ("ce", "ce_kl", "siu", "ga", "kl", "po"),
  "unlok": tuple(METHODS)[-7:],
}
_PEOPLE = {
  "ga": (3e-4, 15),
  "gd": (3e-4, 30),
  "kl": (3e-4, 30),
  "po": (1e-3, 40),
  "po_lora": (3e-3, 40),
}
_SAFE = {
  "ga": (5e-4, 12),
  "gd": (5e-4, 12),
  "kl": (5e-4, 12),
  "po": (5e-4, 60),
}
_BY_HAND: Mapping[str, Mapping[str, tuple[float, int]]] = {
  "fiubench": _PEOPLE,
  "safeeraser": {**_SAFE, **{f"{n}_pd": s for n, s in _SAFE.items()}},
  "mmubench": {**_PEOPLE, **dict.fromkeys(("ce", "ce_kl", "siu"), (5e-4, 40))},
  "unlok": dict.fromkeys(DEFAULTS["unlok"], (3e-3, 60)),
}


def settings(options: Any) -> dict[str, Setting]:
  """Rates and steps of the benchmark's methods."""
  steps = lambda count: min(count, 4) if options.preset == "smoke" else count
  return {
    name: {"rate": rate, "steps": steps(count)}
    for name, (rate, count) in _BY_HAND[options.benchmark].items()
  }


def deltas_of(variables: Any, facts: jax.Array, kernel: jax.Array) -> jax.Array:
  """The edits that a model brought along, [F, ...]; none are zeros."""
  found = variables.frozen
  if isinstance(found, Mapping) and "deltas" in found:
    return found["deltas"]
  return jnp.zeros((len(facts), *kernel.shape[1:]), kernel.dtype)
