"""Can an identity be taken out of a representation, and how is that shown?

Question: five papers put identities into a representation, or claim to keep them
out of one. A person asks to be forgotten. What a method says of itself, by its
own head or its own loss, is held against an audit: probes that are trained
afresh, verification, re-identification and relearning, beside models that never
saw the person.

    python -m experiments.forget_identity --objective dlif --out out/identity
    python -m experiments.forget_identity --data folder:DIR --objective cion

`orthogonal_only` is a warning: it makes the person's embeddings orthogonal to
what they were, which its own loss reports as success whatever is left in them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn import identity
from jaxunlearn.identity.dlif import batch_orthogonality
from jaxunlearn.identity.vectors import unit

from .. import bench, flags
from ..bench import Method, render
from ..bench.tune import Between, Choice
from ..datasets import identities
from ..flags import described
from .forget_identity_models import MODELS
from .forget_identity_parts import Representation
from .forget_identity_view import GAP, findings, measures

STEPS = {"smoke": 40, "quick": 400, "paper": 4000}
BATCH = {"smoke": ju.ALL, "quick": 48, "paper": 128}  # Less to compile.
EACH = {"smoke": 24, "quick": 80, "paper": 170}  # Images of a person.
RELEARN = {"smoke": 4, "quick": 20, "paper": 40}
STEPS_OF = (50, 100, 300)  # Of a method, when it is tuned.


@dataclasses.dataclass(frozen=True)
class Options(bench.CommonOptions):
  """Forget a person in a representation of faces, and audit it."""

  data: Annotated[
    str,
    described(
      "synthetic, digits (by writers) or folder:DIR, DIR/PERSON/IMAGE."
    ),
  ] = "synthetic"

  objective: Annotated[
    Literal["cion", "dlif", "wsc-swap", "disenbooth", "infinite-id"],
    described("What the representation is trained by."),
  ] = "cion"

  out: flags.Out = "out/identity"


def beds(options: Options, seeds: Sequence[int], part: str, asks: Any):
  """People and images of each seed; some people are never trained on."""
  each, is_select = EACH[options.preset], part == bench.SELECT
  made = [
    identities.load(options.data, seed, each, is_select) for seed in seeds
  ]
  known, total = made[0].known, len(made[0].names)
  model = MODELS[options.objective](known)
  stack = lambda *leaves: np.stack(leaves)
  arrays = jax.tree.map(stack, *[(p.train, p.gallery, p.queries) for p in made])
  steps = STEPS[options.preset]
  rate = optax.cosine_decay_schedule(5e-3, steps)
  fit = ju.Fit(optax.adam(rate), steps, BATCH[options.preset])

  def make(shared, own):
    train, gallery, queries = own
    test = {"gallery": gallery, "queries": queries}
    extra = (known, total, RELEARN[options.preset])
    return bench.Bed(model, train, test, fit, extra)

  return bench.Beds(
    *(None, arrays, make, [p.train["label"] for p in made]),
    {"known people": known, "unknown people": total - known, "images": each},
  )


def of_person(text: str, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  if not text.isdecimal() or int(text) not in label:
    raise ValueError(f"Expected a person 0 .. {label.max()}, got {text!r}.")
  return label == int(text), np.int32(text)


def _orthogonal_only(r: Representation, fit: ju.Fit, **options: Any):
  """Its own loss is that of DLIF, between embeddings now and as they were."""
  flat = lambda v, step, key: unit(r.respond(v, step, key))

  def apart(variables, step, key):
    was = flat(step.original, step, key)
    return batch_orthogonality(flat(variables, step, key), was, step.forget)

  return identity.beside_retain(
    r.task, apart, fit, name="orthogonal", **options
  )


def _uniform_teacher(r: Representation, fit: ju.Fit, **options: Any):
  """Of a generator: it draws what it draws of all people at once."""
  if r.logits is None:
    return identity.anchor_to_class(
      r.task, fit, respond=r.respond, anchor=r.anybody, **options
    )
  return identity.uniform_teacher(r.task, fit, logits=r.logits, **options)


def _anchor_to_class(r: Representation, fit: ju.Fit, **options: Any):
  return identity.anchor_to_class(
    r.task, fit, respond=r.respond, anchor=r.anchor, **options
  )


def _method(build: Callable[..., Any], note: str = "", **space: Any) -> Method:
  def made(bed: bench.Bed, setting: bench.Setting) -> ju.Transform:
    rest = dict(setting)
    size = bed.recipe.batch_size
    fit = ju.Fit(optax.adam(rest.pop("rate")), rest.pop("steps"), size)
    return build(bed.model, fit, **rest)

  space = {"rate": Between(1e-4, 3e-2), "steps": Choice(STEPS_OF), **space}
  return Method(made, space, note, "forget and retain rows")


_WEIGHT = {"forget_weight": Between(0.1, 10.0)}
METHODS = {
  "uniform_teacher": _method(_uniform_teacher, **_WEIGHT),
  "anchor_to_class": _method(_anchor_to_class, **_WEIGHT),
  "clipped_reversal": _method(
    lambda r, fit, **o: identity.clipped_reversal(r.task, fit, **o),
    ceiling=Between(1.0, 10.0),
    **_WEIGHT,
  ),
  "finetune": _method(lambda r, fit: ju.methods.finetune(r.task, fit)),
  "orthogonal_only": _method(
    _orthogonal_only,
    "A warning: its own loss is all that says that she is gone.",
  )._replace(space=None),
}
_HAND = {"rate": 5e-3, "steps": 100}
SETTINGS = {
  "uniform_teacher": {**_HAND, "forget_weight": 1.0},
  "anchor_to_class": {**_HAND, "forget_weight": 1.0},
  "clipped_reversal": {**_HAND, "ceiling": 4.0, "forget_weight": 1.0},
  "finetune": _HAND,
  "orthogonal_only": {**_HAND, "forget_weight": 10.0},
}


STUDY = bench.Study(
  name="forget_identity",
  options=Options,
  beds=beds,
  kinds={"person": bench.Kind("person:NUMBER", of_person)},
  request=lambda options: {"smoke": "person:1"}.get(
    options.preset, "person:1;person:3"
  ),
  train=lambda bed, weights, key: ju.train(
    bed.model.task, bed.data, weights, key, bed.recipe
  ),
  methods=METHODS,
  settings=lambda options: SETTINGS,
  chosen=Path(__file__).with_name("forget_identity_settings.json"),
  measures=measures,
  tune_request=lambda options: "person:0;person:2",
  seeds=lambda options: {"smoke": 2, "quick": 5, "paper": 20}[options.preset],
  unranked=("orthogonal_only",),
  title=lambda plan: f"Forgetting a person: {plan.options.objective}",
  lead=lambda plan: (
    f"A representation of {plan.options.data} people was trained by the objective "
    f"of {plan.options.objective}, and one of them asked to be forgotten. Each "
    "method is audited as a stranger would, beside models that never saw the "
    "person."
  ),
  panels=(render.bars(GAP, "means and deviations over seeds and requests."),),
  findings=findings,
)
