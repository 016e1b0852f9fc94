"""The methods of studies of language models, their settings and what `--tune` searches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

import jaxunlearn as ju
from jaxunlearn.core.combinators import by_forget_gradient
from jaxunlearn.core.views import through
from jaxunlearn.language.ascent import gradient_ascent, idk
from jaxunlearn.language.causal_isolation import causal_isolation
from jaxunlearn.language.diverge import diverge
from jaxunlearn.language.dpo import dpo
from jaxunlearn.language.eco import eco
from jaxunlearn.language.flat import flat
from jaxunlearn.language.guard import guard
from jaxunlearn.language.loku import inverted_hinge, loku
from jaxunlearn.language.lora import lora
from jaxunlearn.language.o3 import o3
from jaxunlearn.language.pdu import pdu
from jaxunlearn.language.preference import npo, simnpo
from jaxunlearn.language.rewriting import rewrite
from jaxunlearn.language.rmu import rmu
from jaxunlearn.language.smooth import sam
from jaxunlearn.language.token_weights import satimp, wga
from jaxunlearn.language.undial import ceu, undial
from jaxunlearn.language.whp import whp
from jaxunlearn.methods.task_vector import task_vector

from ..bench import Bed, Method, Setting
from ..bench.tune import Between
from .texts import adamw

Make = Callable[..., ju.Transform]


class Entry(NamedTuple):
  """A method before it is a `bench.Method`.

  Attributes:
    make: `(lm, fit, **setting) -> Transform`.
    rate: for the decoder from scratch.
    setting: what else is set.
    space: what else is searched; `times`, a factor of the rate, always is.
    fixed: arguments that stay as they are.
    note: for the reader.
    access: the data that it reads.
    adapters: whether it trains adapters, which start from nothing whatever the
      weights below them are.
  """

  make: Make
  rate: float
  setting: Mapping[str, float] = {}
  space: Mapping[str, Any] = {}
  fixed: Mapping[str, Any] = {}
  note: str = ""
  access: str = "forget and retain rows"
  adapters: bool = False


def _adapted(lm: Any, fit: ju.Fit, beta: Any) -> ju.Transform:
  return through(lora(rank=8), lambda part: npo(part, fit, beta=beta), lm)


def _sharp(lm: Any, fit: ju.Fit, beta: Any, radius: Any) -> ju.Transform:
  return by_forget_gradient(npo(lm, fit, beta=beta), sam(radius))


def _early(lm: Any, fit: ju.Fit, strength: Any) -> ju.Transform:
  """At a quarter of the depth, as the published 7 of 32."""
  layer = lm.config.num_layers // 4
  return rmu(lm, fit, strength=strength, layer=layer)


def _isolated(lm: Any, fit: ju.Fit) -> ju.Transform:
  stop = max(1, lm.config.num_layers // 3)
  return causal_isolation(lm, fit, stop=stop)


def _dp2(bed: Bed, setting: Setting) -> Any:
  """The base, from rewritten rows, and the second phase, on the rest."""
  recipe, lm = bed.recipe, bed.model
  rate = lambda steps: optax.warmup_cosine_decay_schedule(
    0.0, recipe.rate * setting["times"], max(1, steps // 8), steps
  )
  fit = lambda steps: ju.Fit(adamw(rate(steps)), steps, recipe.batch_size)
  second = ju.methods.finetune(lm, fit(max(1, recipe.steps // 2)))

  def serve(variables: Any, data: Any, request: Any, key: Any) -> Any:
    del variables
    x, names = data["x"], bed.extra["names"]
    text = rewrite(
      x,
      names[x.tokens],
      bed.extra["public"],
      setting["epsilon"],
      _BOUNDS,
      ju.derive(key, "rewrite"),
    )
    everything = jnp.ones(x.length.shape, bool)
    base, _ = ju.train(
      lm,
      {**data, "x": text},
      everything,
      ju.derive(key, "base"),
      fit(recipe.steps),
      start=bed.extra["start"],
    )
    return second(base, data, request, ju.derive(key, "second"))

  return serve


_IN_FRONT = "it stands in front and removes nothing from the weights."
_BOUNDS = (-10.0, 0.0)  # Of log p of a token; not read off the rows.
_BETA = {"beta": Between(0.02, 5.0)}
_STRENGTH = {"strength": Between(0.25, 16.0)}
_KEPT = "beside rows to be kept."
_ENTRIES: Mapping[str, Entry] = {
  "finetune": Entry(ju.methods.finetune, 1e-3, access="retain rows"),
  "task_vector": Entry(
    task_vector, 1e-3, {"strength": 1.0}, _STRENGTH, access="forget rows"
  ),
  "whp": Entry(
    whp,
    1e-3,
    {"strength": 4.0},
    _STRENGTH,
    note="a guard: a second model runs beside the first.",
    access="forget rows",
  ),
  "gradient_ascent": Entry(gradient_ascent, 1e-4, access="forget rows"),
  "grad_diff": Entry(
    gradient_ascent, 3e-4, fixed={"retain": "nll"}, note=_KEPT
  ),
  "kl": Entry(gradient_ascent, 3e-4, fixed={"retain": "kl"}),
  "diverge": Entry(diverge, 3e-4, note=_KEPT),
  "idk": Entry(idk, 1e-3, note="a refusal is trained in."),
  "dpo": Entry(dpo, 1e-3, {"beta": 0.1}, _BETA),
  "npo": Entry(npo, 1e-3, {"beta": 0.1}, _BETA, note=_KEPT),
  "npo_alone": Entry(
    npo, 3e-4, {"beta": 0.1}, _BETA, {"retain": None}, access="forget rows"
  ),
  "npo_kl": Entry(npo, 1e-3, {"beta": 0.1}, _BETA, {"retain": "kl"}),
  "simnpo": Entry(simnpo, 1e-3, {"beta": 2.5, "forget_weight": 0.5}, _BETA),
  "npo_lora": Entry(
    _adapted, 3e-3, {"beta": 0.1}, _BETA, note="rank 8.", adapters=True
  ),
  "npo_sam": Entry(
    _sharp, 1e-3, {"beta": 0.1, "radius": 0.01}, note="against relearning."
  ),
  "wga": Entry(wga, 1e-3, {"beta": 1.0}, _BETA),
  "satimp": Entry(satimp, 1e-3, {"forget_weight": 1.0}),
  "ceu": Entry(ceu, 1e-3, fixed={"retain": "nll"}),
  "undial": Entry(undial, 1e-3, {"strength": 10.0}, fixed={"retain": "nll"}),
  "pdu": Entry(pdu, 1e-3),
  "rmu": Entry(_early, 1e-3, {"strength": 20.0}),
  "flat": Entry(flat, 3e-4, access="forget rows"),
  "ihl": Entry(inverted_hinge, 3e-4, note="LoKU's loss, on all weights."),
  "loku": Entry(loku, 3e-3, note="rank 8.", adapters=True),
  "causal_isolation": Entry(
    _isolated, 3e-4, note="perceptrons of the first third of the blocks."
  ),
  "eco": Entry(eco, 3e-2, {"threshold": 0.9}, note=_IN_FRONT, adapters=True),
  "guard": Entry(
    guard,
    3e-2,
    {"threshold": 0.5, "penalty": 10.0, "similarity": 0.8},
    note=_IN_FRONT + " One beam.",
    adapters=True,
  ),
  "o3": Entry(
    o3,
    3e-3,
    {"orthogonality": 0.1},
    fixed={"capacity": 1},
    note="an adapter that is on for inputs like those rows; " + _IN_FRONT,
    access="forget rows",
    adapters=True,
  ),
}
# What stands in front of the weights, which keep their bits.
GUARDS = ("eco", "guard", "o3")
_GIVEN = {False: 1 / 30, True: 1 / 3}
DEFAULT = ("finetune", "grad_diff", "idk", "npo", "simnpo", "undial")


# The share is of the steps that are made, in [0, 1]; all of them without it.
_OF_STEPS = ("rate", "times", "share")


def _method(entry: Entry) -> Method:
  def build(bed: Bed, setting: Setting) -> ju.Transform:
    more = {k: v for k, v in setting.items() if k not in _OF_STEPS}
    recipe = bed.recipe
    rate = setting["rate"] * setting["times"]
    if "share" in setting:
      # The program of all steps serves any share of them.
      last = setting["share"] * recipe.unlearn_steps
      optimizer = adamw(lambda step: rate * (step < last))
    else:
      optimizer = adamw(rate)
    fit = ju.Fit(optimizer, recipe.unlearn_steps, recipe.batch_size)
    return entry.make(bed.model, fit, **more, **entry.fixed)

  space = {"times": Between(0.2, 8), **entry.space}
  return Method(build, space, note=entry.note, access=entry.access)


METHODS = {name: _method(entry) for name, entry in _ENTRIES.items()}
METHODS["dp2"] = Method(
  _dp2,
  {"times": Between(0.3, 3)},
  note="trained anew on rows with names and numbers rewritten, then on retain rows "
  "for half of the steps; its time has both.",
  access="all rows before the request, then retain rows",
)


def localised(name: str) -> Method:
  """A method that reads of corrupted rows those tokens alone that are wrong.

  These are the tokens that the right row does not have; all of a row without one.
  Rows that are right count as before.
  """
  plain = METHODS[name]

  def build(bed: Bed, setting: Setting) -> Any:
    method = plain.build(bed, setting)
    right = bed.extra["clean"].tokens

    def serve(variables: Any, data: Any, request: Any, key: Any) -> Any:
      told = data["x"].tokens
      wrong = (told[:, :, None] != right[:, None, :]).all(axis=-1)
      weight = wrong | ~wrong.any(axis=1, keepdims=True)
      own = {**data, "token_weight": weight.astype(jnp.float32)}
      return method(variables, own, request, key)

    return serve

  return plain._replace(
    build=build, note=f"{name} on false tokens alone.", card=plain.card_of(name)
  )


def settings_of(weights: str) -> dict[str, Setting]:
  """Rates of the decoder from scratch; of given weights a thirtieth of them.

  Adapters of given weights have a third.
  """
  scale = lambda entry: 1.0 if weights == "scratch" else _GIVEN[entry.adapters]
  made: dict[str, Setting] = {
    name: {"rate": scale(entry) * entry.rate, "times": 1.0, **entry.setting}
    for name, entry in _ENTRIES.items()
  }
  return {**made, "dp2": {"times": 1.0, "epsilon": 10.0}}
