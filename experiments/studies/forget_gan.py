"""Can a GAN forget a class, from its own samples or from a word?

Question: Adapt-then-Unlearn (arXiv:2309.14054) is told by marked samples what must
go, Text-to-Unlearn (arXiv:2504.01218) by a prompt. Does the class go, does the rest
stay, and how near do they come to a GAN that never saw the class?

    python -m experiments.forget_gan --out out/gan

trains GANs of 8x8 digits, retrains them without the three, and writes the report
with grids of samples of the same latents before and after. On CIFAR-10:

    python -m experiments.forget_gan --data cifar10 --preset paper
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn import gan
from jaxunlearn.core.reduction import all_finite
from jaxunlearn.gan.latent_edits import pixels, unit
from jaxunlearn.gan.networks import GENERATOR
from jaxunlearn.metrics import feature_frechet_distance
from jaxunlearn.report.taxonomy import BLACK_BOX, FINE_TUNING
from jaxunlearn.report.verdict import DAMAGE, NOTHING, TRACE

from .. import bench, flags
from ..beds import gans
from ..bench import Bed, Case, Measure, Method, Rule, Setting, render
from ..bench.tune import Between, Choice
from ..flags import described
from ..requests import rows_numbered
from . import forget_gan_view as view

SHOWN = 6  # Samples of the class in a grid, and as many others.


@dataclasses.dataclass(frozen=True)
class Options(bench.CommonOptions):
  """Forget a class of a GAN, by marked samples or by a prompt."""

  data: Annotated[
    Literal["digits", "cifar10"], described("Images with classes.")
  ] = "digits"

  out: flags.Out = "out/gan"


def of_class(text: str, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  return rows_numbered(label, text, "a class"), np.int32(text)


def train(bed: Bed, weights: Any, key: Any):
  return gan.train(bed.model, bed.data, weights, key, bed.recipe.fit)


def encoder(bed: Bed) -> Callable[[jax.Array], jax.Array]:
  """Images to the marker's features: in the place of a joint encoder's."""
  return lambda x: unit(bed.extra[0].features(x))


def prompt(bed: Bed) -> jax.Array:
  """In the place of a class's name: its images' mean embedding."""
  rows = bed.data["label"] == bed.marks
  return jnp.where(rows[:, None], encoder(bed)(bed.data["x"]), 0).sum(axis=0)


def mapper(bed: Bed) -> gan.Mapper:
  fit = ju.Fit(gans.adam(MAPPER_RATE), bed.recipe.mapper, 32)
  return gan.Mapper(fit, near=0.1)


MAPPER_RATE = 1e-2


def _stage(bed: Bed, rate: Any = 1e-3, times: int = 1) -> gan.GanFit:
  """A rate that falls to nothing: what comes out is at rest."""
  steps = times * bed.recipe.stage
  return bed.recipe.fit._replace(
    optimizer=gans.adam(optax.linear_schedule(rate, 0.0, steps)),
    num_steps=steps,
    ema=0.5 ** (6 / steps),
  )


def _marked(build: Callable[[Bed, dict[str, Any]], Any], space: Any) -> Method:
  """A method that sees samples, marked by the user's classifier."""

  def make(bed: Bed, setting: Setting):
    method = build(bed, dict(setting))

    def run(variables, data, request, key):
      del data, request  # It sees no row.
      many = bed.recipe.pool
      x = gan.pool(bed.model, variables, ju.derive(key, "pool"), many)["x"]
      return method(
        variables, {"x": x}, bed.extra[0].names(x) == bed.marks, key
      )

    return run

  access = "marked samples of the original"
  return Method(make, space, access=access, aim="asks_used")


def _adapted(repulsion: Callable[..., Any], **space: Between) -> Method:
  def build(bed: Bed, setting: dict[str, Any]):
    return gan.adapt_unlearn(
      bed.model,
      _stage(bed, setting["rate"], setting["times"]),
      adapt=_stage(bed),
      repulsion=repulsion(**{name: setting[name] for name in space}),
    )

  return _marked(build, {**_STAGE, **space})


def _told(build: Callable[[Bed, dict[str, Any]], Any], space: Any) -> Method:
  """A method that is told by a prompt, and reads no sample."""

  def make(bed: Bed, setting: Setting):
    method = build(bed, dict(setting))
    told = ju.Request(concept=prompt(bed))
    return lambda variables, data, request, key: method(
      variables, None, told, key
    )

  access = "the embedding of a prompt"
  return Method(make, space, access=access, aim="text_asks_used")


def _text_fit(bed: Bed, rate: Any, times: int = 1) -> ju.Fit:
  return ju.Fit(gans.adam(rate), times * bed.recipe.text, 32)


def _text(bed: Bed, rest: dict[str, Any], is_held: bool = False):
  """Text-to-Unlearn; where held, what it edits is to look like samples too."""
  keep = (gan.Keep(rest["keep"], pixels),)
  return gan.text_to_unlearn(
    bed.model,
    encoder(bed),
    _text_fit(bed, rest["rate"], rest["times"]),
    mapper=mapper(bed),
    keep=keep,
    keep_edited=keep if is_held else (),
    hinge=rest["hinge"],
  )


_TEXT = {
  "rate": Between(2e-4, 4e-3),
  "times": Choice((1, 3, 10)),
  "keep": Between(1.0, 100.0),
  "hinge": Between(0.5, 10.0),
}


# Ten times the steps of stage 1: on selection seeds better than three times.
_STAGE = {"rate": Between(2e-4, 1e-3)}
METHODS = {
  # A small alpha reaches far: the slope is still there where anchors are left.
  "adapt_exponential": _adapted(
    gan.exponential, gamma=Between(0.5, 5.0), alpha=Between(0.02, 0.3)
  ),
  "adapt_inverse": _adapted(gan.inverse, gamma=Between(1.0, 10.0)),
  "adapt_negative": _adapted(gan.negative, gamma=Between(0.02, 0.5)),
  "finetune": _marked(
    lambda bed, s: gan.finetune(bed.model, _stage(bed, s["rate"], s["times"])),
    _STAGE,
  ),
  "extrapolate": _marked(
    lambda bed, s: gan.extrapolate(bed.model, _stage(bed), gamma=s["gamma"]),
    {"gamma": Between(0.03, 1.0)},
  ),
  "text_to_unlearn": _told(_text, _TEXT),
  "text_held": _told(lambda bed, s: _text(bed, s, is_held=True), _TEXT),
  "prompt_ascent": _told(
    lambda bed, s: gan.prompt_ascent(
      bed.model, encoder(bed), _text_fit(bed, s["rate"])
    ),
    None,
  ),
}
# By hand; those of the file `chosen` stand above them.
_PLAIN = {"rate": 4e-4, "times": 10}
_TOLD = {"rate": 2e-3, "times": 1, "keep": 10.0, "hinge": 5.0}
SETTINGS = {
  "adapt_exponential": {**_PLAIN, "gamma": 1.9, "alpha": 0.04},
  "adapt_inverse": {**_PLAIN, "gamma": 3.8},
  "adapt_negative": {**_PLAIN, "gamma": 0.1},
  "finetune": _PLAIN,
  "extrapolate": {"gamma": 0.3},
  "text_to_unlearn": _TOLD,
  "text_held": _TOLD,
  "prompt_ascent": {"rate": 2e-3},
}


def measure(case: Case) -> dict[str, Any]:
  """All numbers of a generator; latents are the same for all of a lane."""
  bed, c = case.bed, case.marks
  model, recipe, (_, judge) = bed.model, bed.recipe, bed.extra
  key = lambda name: ju.derive(case.key, name)
  z = model.noise(jax.random.split(key("z"), recipe.measured))
  made = lambda v: model.generate(v.params[GENERATOR], z)
  x, first, theirs = map(made, (case.variables, case.original, case.retrained))
  named, before = judge.names(x), judge.names(first)
  shares, old, wanted = map(_shares, (named, before, judge.names(theirs)))
  is_kept = jnp.arange(10) != c
  real, real_kept = judge.features(bed.test["x"]), bed.test["label"] != c
  quality = feature_frechet_distance(
    *(judge.features(x), real),
    weights=named != c,
    reference_weights=real_kept,
    ridge=1e-3,
  )
  apart = feature_frechet_distance(
    judge.features(x), judge.features(theirs), ridge=1e-3
  )
  # Rows that are not kept lie nowhere near a sample.
  kept_real = jnp.where(real_kept[:, None], real, 1e6)
  found = gan.recall(judge.features(x)[:500], kept_real)
  return {
    "is_finite": all_finite(x),
    "target_share": shares[c],
    "pul": gan.unlearned_share(before == c, named == c),
    "quality": quality,
    "to_retrained": apart,
    "mass_gap": 0.5 * jnp.abs(shares - wanted).sum(),
    # With at least half a sample, or one lost class would be infinite.
    "mass_ratio": jnp.where(is_kept, shares, 0).max()
    / jnp.maximum(jnp.where(is_kept, shares, 1).min(), 0.5 / len(z)),
    "others_change": jnp.where(is_kept, jnp.abs(shares - old), 0).max(),
    "recall": found * len(real_kept) / real_kept.sum(),
    "shown": x[_grid(before == c)],
    "shares": shares,
    **_edited(case, z, key("mapper")),
  }


def _shares(named: jax.Array) -> jax.Array:
  return jax.nn.one_hot(named, 10).mean(axis=0)


def _grid(is_target: jax.Array) -> jax.Array:
  """Latents that gave the class before, and then others; int [2 SHOWN]."""
  order = jnp.argsort(~is_target, stable=True)
  return jnp.concatenate([order[:SHOWN], order[-SHOWN:]])


def relearned(case: Case) -> dict[str, Any]:
  """The class's share after some steps of training on all rows."""
  bed, recipe = case.bed, case.bed.recipe
  z_key, key = (ju.derive(case.key, name) for name in ("z", "relearn"))
  z = bed.model.noise(jax.random.split(z_key, recipe.measured))
  fit = recipe.fit._replace(num_steps=recipe.relearn, ema=0.8)
  rows, nothing = {"x": bed.data["x"]}, jnp.zeros_like(case.forget)
  again, _ = gan.finetune(bed.model, fit)(case.variables, rows, nothing, key)
  x = bed.model.generate(again.params[GENERATOR], z)
  return {"relearned": (bed.extra[1].names(x) == case.marks).mean()}


def _edited(case: Case, z: jax.Array, key: jax.Array) -> dict[str, Any]:
  """Latents moved towards the prompt by a mapper of the original generator.

  It is trained with another key than a method's own.
  """
  bed = case.bed._replace(marks=case.marks)
  model, encode, towards = bed.model, encoder(bed), unit(prompt(bed))
  moves = gan.train_mapper(
    model, encode, case.original, towards, key, mapper(bed)
  )
  now, before = (v.params[GENERATOR] for v in (case.variables, case.original))
  w = model.mapping(before, z)
  v = gan.edited(moves, w)
  x = model.synthesis(now, v)
  score = lambda x: encode(x) @ towards
  return {
    "edited_share": (bed.extra[1].names(x) == case.marks).mean(),
    "degree": gan.degree_of_unlearning(
      *map(score, (x, model.synthesis(before, v), model.synthesis(before, w)))
    ),
    "shown_edited": x[-SHOWN:],
  }


MEASURE = Measure(
  view.METRICS,
  measure,
  arrays=("shown", "shown_edited", "shares"),
  rules=(
    Rule("target_share", 0.01, TRACE, NOTHING),
    Rule("edited_share", 0.05, TRACE, NOTHING, threat=BLACK_BOX),
    # About an eighth of the original's distance from real rows.
    Rule("quality", 1.0, DAMAGE, NOTHING),
    bench.distance("to_retrained", 1.0),
    bench.distance("mass_gap", 0.03),
  ),
)
RELEARN = Measure(
  (view.RELEARNED,),
  relearned,
  rules=(Rule("relearned", 0.02, TRACE, NOTHING, threat=FINE_TUNING),),
  costly=True,
)
AIMS = Measure(view.AIMS, after=view.aims)


def beds(options: Options, seeds: Sequence[int], part: str, asks: Any):
  del asks
  return gans.load(options.data, options.preset, options.data_dir, seeds, part)


STUDY = bench.Study(
  name="forget_gan",
  options=Options,
  beds=beds,
  kinds={"class": bench.Kind("class:C", of_class)},
  request=lambda options: "class:3",
  train=train,
  methods=METHODS,
  smoke=("adapt_exponential", "finetune", "text_to_unlearn"),
  settings=lambda options: SETTINGS,
  chosen=Path(__file__).with_name("forget_gan_settings.json"),
  measures=lambda plan: [MEASURE, RELEARN, AIMS],
  gap="to_retrained",
  tune_request=lambda options: "class:5;class:8",
  seeds=lambda options: {"smoke": 2, "quick": 5, "paper": 5}[options.preset],
  title=lambda plan: f"A GAN of {plan.options.data} forgets a class",
  lead=view.lead,
  columns=lambda plan: view.COLUMNS,
  notes=view.notes,
  panels=(
    view.grids,
    render.bars(view.BARS, "means and deviations over seeds."),
  ),
  findings=view.findings,
  unranked=("text_to_unlearn", "prompt_ascent"),
)
