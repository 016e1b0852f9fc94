"""Are unlearned models distributed like retrained ones, row by row?

Question: datamodel matching (arXiv:2410.23232) fine-tunes a model towards what
linear models of training predict that retraining would say. Margins of many
unlearned models on a row are compared with those of as many retrained ones
(KLoM). How near does it come, beside matching retrained models themselves?

    python -m experiments.match_oracles --out out/oracles

trains 50 small networks on scikit-learn's digits, 100 more without 40 images of
an 8 that look alike, and 1,000 on random halves of the rows for the datamodels.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxunlearn as ju
from jaxunlearn import metrics, report
from jaxunlearn.core.keys import derive
from jaxunlearn.valuation import datamodels

from .. import bench, flags
from ..beds import classifier_methods, classifiers
from ..bench import Bed, Case, Evidence, Kind, Measure, Method
from ..bench.tune import Between
from ..datasets.classes import Split
from ..files import whole
from ..flags import described
from ..requests import Ask

PARTS = {
  "forget": "rows to be forgotten",
  "retain": "training rows to be kept",
  "test": "test rows",
}
WIDTH = 32  # Of the one hidden layer.
_LANES = 50  # Trained side by side.


class Size(NamedTuple):
  """How much work a preset is."""

  models: int
  fitted: int
  oracles: int
  ridge: float


SIZES = {
  "smoke": Size(6, 40, 4, 10.0),
  "quick": Size(50, 1000, 10, 100.0),
  "paper": Size(100, 5000, 10, 100.0),
}


@dataclasses.dataclass(frozen=True)
class Options(classifiers.Options):
  """Compare the distributions of unlearned and of retrained models."""

  request: Annotated[
    str | None,
    described(
      "What to forget: close:CLASS,COUNT (so many rows of a class that look "
      "alike), or as in experiments.forget; close:8,40 by default.",
      "TEXT",
    ),
  ] = None

  methods: Annotated[
    str, described("How to forget: all, or names as in dmm,oracle_matching.")
  ] = "all"

  out: flags.Out = "out/oracles"


class Source(NamedTuple):
  """What requests look at: rows, and how to train on some of them."""

  split: Split
  train: Any
  oracles: int


def network(dataset: Any) -> ju.Model:
  from jaxunlearn.adapters.flax import from_module
  from jaxunlearn.models.mlp import MLP

  return from_module(MLP(num_classes=dataset.num_classes, hidden=(WIDTH,)))


def beds(
  options: Options, seeds: Sequence[int], part: str, asks: Sequence[Ask]
) -> bench.Beds:
  """All seeds have the same rows, and datamodels that were fitted once."""
  if options.model != "mlp" or options.checkpoint is not None:
    raise ValueError(
      "Expected no --model and no --checkpoint, since many small networks are "
      f"trained here, got {options.checkpoint or options.model!r}."
    )
  plain = classifiers.beds(options, seeds, part, asks, one_split=True)
  model, recipe = network(plain.dataset), classifiers.recipe_of(options)
  recipe = recipe._replace(num_steps=max(1, recipe.num_steps // 2))
  split, size = plain.sources[0], SIZES[options.preset]
  rows = jax.tree.map(jnp.asarray, split.train)

  @jax.jit
  def outputs(masks: jax.Array, key: jax.Array) -> jax.Array:
    """Of models trained on some rows each: [M, N, C] on all of them."""
    keys = jax.random.split(key, len(masks))
    found, _ = ju.train_many(
      model, rows, masks, keys, recipe.fit, strategy=min(_LANES, len(masks))
    )
    return jax.lax.map(lambda v: model.predict(v, rows["x"]), found)

  key = derive(jax.random.key(seeds[0]), "datamodels")
  masks = datamodels.subset_masks(
    derive(key, "subsets"),
    num_masks=size.fitted,
    num_rows=len(rows["label"]),
    fixed_size=False,
  )
  found = outputs(masks, derive(key, "train"))
  fitted = jax.jit(datamodels.fit_ridge)(
    masks, found.reshape(size.fitted, -1), l2=size.ridge
  )
  shape = (len(rows["label"]), *found.shape[1:])
  extra = plain.make(plain.shared, None).extra

  def make(shared: Any, own: Any) -> Bed:
    (train, test, _), attribution = shared
    return Bed(model, train, test, recipe, (extra.num_classes, attribution))

  source = Source(split, outputs, size.oracles)
  return plain._replace(
    shared=(plain.shared, fitted.weights.reshape(shape)),
    make=make,
    sources=[source] * len(seeds),
    facts={**plain.facts, "recipe": recipe._asdict(), **size._asdict()},
    model=model,
  )


@functools.lru_cache(maxsize=8)
def _targets(outputs: Any, count: int, forget: bytes) -> np.ndarray:
  """Mean outputs of models trained without some rows, [N, C]."""
  gone = np.frombuffer(forget, bool)
  masks = jnp.broadcast_to(jnp.asarray(~gone), (count, len(gone)))
  key = derive(jax.random.key(0), "oracles")
  return np.asarray(outputs(masks, key).mean(axis=0))


def close(value: str, split: Split) -> np.ndarray:
  """The rows of a class that lie nearest to each other."""
  first, _, second = value.partition(",")
  wanted = whole(first, "a class"), whole(second, "a number of rows")
  rows = np.flatnonzero(split.train["label"] == wanted[0])
  if not 1 <= wanted[1] < len(rows):
    raise ValueError(
      f"Expected close:CLASS,COUNT with fewer than the {len(rows)} rows of the "
      f"class, got {value!r}."
    )
  x = split.train["x"][rows].reshape(len(rows), -1)
  apart = ((x[:, None] - x[None]) ** 2).sum(-1)
  centre = np.sort(apart, axis=1)[:, wanted[1] - 1].argmin()
  mask = np.zeros(len(split.train["label"]), bool)
  mask[rows[np.argsort(apart[centre])[: wanted[1]]]] = True
  return mask


def _kind(form: str, find: Any) -> Kind:
  """A kind of request whose marks are the oracles' mean outputs."""

  def mask(value: str, source: Source) -> tuple[np.ndarray, np.ndarray]:
    forget = np.asarray(find(value, source.split))
    return forget, _targets(source.train, source.oracles, forget.tobytes())

  return Kind(form, mask)


KINDS = {
  "close": _kind("close:CLASS,COUNT", close),
  **{
    name: _kind(kind.form, lambda value, split, k=kind: k.mask(value, split)[0])
    for name, kind in classifiers.kinds().items()
  },
}


def _fit(bed: Bed, s: bench.Setting) -> ju.Fit:
  return ju.Fit(optax.adam(s["rate"]), s["steps"], bed.recipe.batch_size)


_RATE = {"rate": Between(1e-5, 1e-2)}
METHODS = {
  "dmm": Method(
    lambda bed, s: ju.methods.dmm(
      bed.model, bed.extra[1], _fit(bed, s), strength=s["strength"]
    ),
    {**_RATE, "strength": Between(0.5, 2.0, log=False)},
    access="forget and retain rows without labels, datamodels",
  ),
  "oracle_matching": Method(
    lambda bed, s: ju.methods.oracle_matching(
      bed.model, bed.marks, _fit(bed, s)
    ),
    _RATE,
    note="is told what retrained models say, and shows what matching can reach.",
  ),
  **{
    name: classifier_methods.METHODS[name]
    for name in ("finetune", "gradient_ascent")
  },
}


_BY_HAND = (
  "Settings of dmm and oracle_matching were chosen by a search, on other rows, "
  "another class and other seeds; those of finetune and gradient_ascent were set "
  "by hand for another network, which may hold them back. --tune chooses all "
  "four alike."
)


def settings_of(options: Options) -> dict[str, bench.Setting]:
  known = classifier_methods.settings_of(options)
  steps = 20 if options.preset == "smoke" else 200
  # Those of the first two were chosen by the tuner on 20 other seeds, other rows
  # and 40 images of a 3; the others by hand, for another network.
  return {
    "dmm": {"rate": 1.8e-3, "steps": steps, "strength": 1.5},
    "oracle_matching": {"rate": 3e-4, "steps": steps},
    "finetune": known["finetune"],
    "gradient_ascent": known["gradient_ascent"],
  }


def measures(plan: bench.Plan) -> list[Measure]:
  """KLoM on three kinds of rows; the floor is that of retraining again."""

  def run(case: Case) -> dict[str, Any]:
    found = {}
    for name, rows in (("train", case.bed.data), ("test", case.bed.test)):
      logits = ju.predict(case.bed.model, case.variables, rows["x"])
      found[f"margins_{name}"] = metrics.logit_confidence(logits, rows["label"])
      found[f"accuracy_{name}"] = metrics.accuracy(logits, rows["label"])
    return found

  def after(evidence: Evidence, method: str) -> dict[str, np.ndarray]:
    own = evidence.found[method].values
    oracles = evidence.found[bench.RETRAINED].values
    request, _ = plan.lanes
    added = {f"klom_{part}": np.full(len(request), np.nan) for part in PARTS}
    for r in np.unique(request):
      lanes = request == r
      forget = plan.forget[lanes][0]
      klom = {
        rows: np.asarray(
          metrics.klom(
            own[f"margins_{rows}"][lanes], oracles[f"margins_{rows}"][lanes]
          )
        )
        for rows in ("train", "test")
      }
      for part, values in (
        ("forget", klom["train"][forget]),
        ("retain", klom["train"][~forget]),
        ("test", klom["test"]),
      ):
        added[f"klom_{part}"][lanes] = np.percentile(values, 95)
    return added

  return [
    Measure(
      (
        *(
          report.Metric(
            f"klom_{part}",
            f"KLoM, {part}",
            "KL divergence of the margins of all models on a row from those of "
            f"the retrained ones; the 95th percentile over {rows}. Retraining "
            "again has what no method can be expected to be below.",
            "nats",
            2,
            report.LOWER,
            headline=True,
          )
          for part, rows in PARTS.items()
        ),
        *(
          report.Metric(
            f"accuracy_{name}",
            f"Accuracy, {name}",
            f"Share of right answers on all {name} rows.",
            "%",
            1,
            report.HIGHER,
          )
          for name in ("train", "test")
        ),
      ),
      run,
      arrays=("margins_train", "margins_test"),
      after=after,
    )
  ]


def findings(evidence: Evidence) -> list[str]:
  """Forget KLoM of all beside the original's and the floor."""
  value = lambda name: evidence.found[name].values["klom_forget"].mean()
  floor, original = value(bench.AGAIN), value(bench.ORIGINAL)
  return [
    f"{name}: KLoM of {value(name):.2f} nats on what was to be forgotten, "
    f"{value(name) / original:.2f} of the original's {original:.2f}; the floor is "
    f"{floor:.2f}."
    for name in evidence.plan.methods
  ]


def tune_request(options: Options) -> str:
  """As many images of a class that is not asked for: of a 3, or one near it."""
  text = options.request or STUDY.request(options)
  asked = re.findall(r"close:\s*(\d+)\s*,\s*(\d+)", text)
  label = classifiers.setup_of(options).dataset.train["label"]
  known = sorted(np.unique(label).tolist(), key=lambda c: (abs(c - 3), c))
  free = [c for c in known if str(c) not in {first for first, _ in asked}]
  return f"close:{(free or known)[0]},{asked[0][1] if asked else 40}"


STUDY = bench.Study(
  name="match_oracles",
  options=Options,
  beds=beds,
  kinds=KINDS,
  request=lambda options: "close:8,40",
  train=classifiers.train,
  methods=METHODS,
  settings=settings_of,
  measures=measures,
  gap="klom_forget",
  tune_request=tune_request,
  # Of fewer models there is no distribution.
  tune_seeds=20,
  notes=lambda plan: [
    *plan.dataset.notes,
    *([_BY_HAND] if plan.selection is None else []),
  ],
  unanswered=(
    "This page cannot say: KLoM is how far models are from retrained ones, row "
    "by row, and no test decides what is near enough."
  ),
  seeds=lambda options: SIZES[options.preset].models,
  title=lambda plan: f"Matching retrained models on {plan.options.data}",
  lead=lambda plan: (
    "Every seed is an original model of its own, which each method makes forget. "
    "For each row the margins of all these models are held against those of as "
    "many models retrained without the request. Datamodels were fitted to "
    f"{plan.beds.facts['fitted']} models, each trained on a random half of the "
    "rows."
  ),
  findings=findings,
)
