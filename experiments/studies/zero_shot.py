"""When does a class that nobody showed the student come back?

Question: gated knowledge transfer (arXiv:2201.05629) drops every input in which
the teacher sees the forgotten class. Does its student stay ignorant, cycle after
cycle, with and without the gate, with and without the attention term?

    python -m experiments.zero_shot --preset quick --out out/zero_shot

trains an MLP on scikit-learn's digits, transfers it without class 0 in four ways
and by learned noise, and writes results.json, table.md, plots/ and report.html.
It takes two to three minutes on two CPU cores.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import jaxunlearn as ju
from jaxunlearn import metrics, report
from jaxunlearn.methods.gated_transfer import GENERATE, LEARN
from jaxunlearn.methods.zero_shot import DIGITS_IMPAIR, DIGITS_REPAIR
from jaxunlearn.models.generator import default_generator, vector_generator
from jaxunlearn.report.verdict import DAMAGE, NOTHING, TELLTALE, TRACE

from .. import bench, flags
from ..beds import classifiers
from ..bench import Bed, Case, Evidence, Measure, Method, table
from ..flags import described
from . import zero_shot_inversion as inversion


class Size(NamedTuple):
  """How much work a preset is."""

  cycles: int
  every: int
  batch_size: int
  z_dim: int
  seeds: int
  inversion: int


SIZES: Mapping[str, Size] = {
  "smoke": Size(6, 2, 32, 8, 2, 5),
  "quick": Size(400, 10, 256, 32, 3, 200),
  "paper": Size(4000, 50, 256, 128, 5, 1000),
}
# Weight of the attention term, and threshold of the gate.
VARIANTS = {
  "gkt": (0.0, 0.01),
  "gkt_no_gate": (0.0, 1.0),
  "gkt_attention": (250.0, 0.01),
  "gkt_attention_no_gate": (250.0, 1.0),
}
# The layers whose maps are compared; all of a model that is not listed.
FEATURES: Mapping[str, tuple[str, ...]] = {
  "mlp": ("hidden0", "hidden1"),
  "cnn": ("stage0", "stage1"),
}
HIGHEST = "forget_test_accuracy_highest"
_PARTS = ("forget_test_accuracy", "retain_test_accuracy")
_COLUMNS = ("forget_accuracy", "retain_accuracy", "test_accuracy", *_PARTS)


@dataclasses.dataclass(frozen=True)
class Options(classifiers.Options):
  """Follow zero-shot unlearning of classes from cycle to cycle."""

  request: Annotated[
    str | None,
    described(
      "What to forget: class:0,8 (both at once), or each-class (every class by "
      "itself); class:0 by default.",
      "TEXT",
    ),
  ] = None

  cycles: Annotated[
    int | None,
    described(
      "Rounds of generator and student; the preset's by default.", "INT"
    ),
  ] = None

  out: flags.Out = "out/zero_shot"


def size_of(options: Options) -> Size:
  """The preset's, with the flags."""
  if options.cycles is not None and options.cycles < 1:
    raise ValueError(f"Expected --cycles > 0, got {options.cycles}.")
  size = SIZES[options.preset]
  cycles = options.cycles or size.cycles
  return size._replace(cycles=cycles, every=min(size.every, cycles))


def settings_of(options: Options) -> dict[str, bench.Setting]:
  size = size_of(options)._asdict()
  del size["seeds"], size["inversion"]
  shared = {
    **size,
    "layers": FEATURES.get(options.model),
    "vector": classifiers.kind_of(options) == "mlp",
  }
  variants = {
    name: {**shared, "attention": attention, "gate": gate}
    for name, (attention, gate) in VARIANTS.items()
  }
  return {**variants, "zero_shot_noise": {"batch_size": size["batch_size"]}}


def _on_classes(bed: Bed, make: Any):
  """A method that is given the classes of the request, and no row."""
  count = bed.extra.num_classes
  label = bed.data["label"]

  def method(variables: Any, data: Any, forget: Any, key: Any):
    asked = jnp.zeros(count, bool).at[label].max(forget)
    transform = make(asked[bed.test["label"]])
    return transform(variables, {"label": jnp.arange(count)}, asked, key)

  return method


def _transfer(bed: Bed, s: bench.Setting):
  make = vector_generator if s["vector"] else default_generator

  def build(gone: Any) -> ju.Transform:
    return ju.methods.gkt(
      bed.model,
      num_classes=bed.extra.num_classes,
      cycles=s["cycles"],
      generate=GENERATE._replace(batch_size=s["batch_size"]),
      learn=LEARN._replace(batch_size=s["batch_size"]),
      gate=s["gate"],
      generator=make,
      evaluate=lambda variables: _test_accuracies(bed, variables, gone),
      options=ju.methods.GktOptions(
        z_dim=s["z_dim"],
        attention=jnp.float32(s["attention"]),
        attention_features=s["layers"],
        # The released scale of the losses, to which beta 250 belongs.
        reduction="released",
        evaluate_every=s["every"],
        input_shape=bed.data["x"].shape[1:],
      ),
    )

  return _on_classes(bed, build)


def _noise(bed: Bed, s: bench.Setting):
  rows = s["batch_size"]

  def build(gone: Any) -> ju.Transform:
    del gone
    return ju.methods.zero_shot_noise(
      bed.model,
      num_classes=bed.extra.num_classes,
      impair=DIGITS_IMPAIR._replace(batch_size=rows),
      repair=DIGITS_REPAIR._replace(batch_size=rows),
      input_shape=bed.data["x"].shape[1:],
    )

  return _on_classes(bed, build)


def _test_accuracies(bed: Bed, variables: Any, gone: Any) -> dict[str, Any]:
  logits = ju.predict(bed.model, variables, bed.test["x"])
  right = lambda rows: metrics.accuracy(logits, bed.test["label"], rows)
  return dict(zip(_PARTS, (right(gone), right(~gone))))


def _traces(info: Any) -> dict[str, Any]:
  """Of a transfer its curve, at every so many cycles."""
  if not isinstance(info, Mapping) or "cycles" not in info:
    return {}
  cycles = info["cycles"]
  share = cycles["kept"]
  every = share.shape[-1] // cycles["curve"][_PARTS[0]].shape[-1]
  return {**cycles["curve"], "kept": share[every - 1 :: every]}


def fit(plan: bench.Plan) -> bench.Plan:
  """Refuses requests that are no classes, or a part of a superclass."""
  splits, asked = plan.beds.sources, plan.requests
  is_whole = all(
    np.isin(split.train["label"][~mask], split.train["label"][mask]).sum() == 0
    for of_seed in asked.forget
    for split, mask in zip(splits, of_seed)
  )
  if not (is_whole and asked.marks.any(axis=-1).all()):
    raise ValueError(
      "Expected --request class:0,8 or each-class, since these methods forget "
      f"whole classes, got {plan.options.request!r}."
    )
  return plan._replace(notes=classifiers.notes(plan))


def measures(plan: bench.Plan) -> list[Measure]:
  """Accuracies, the highest on the way, and what inversion brings out."""

  def run(case: Case) -> dict[str, Any]:
    bed, forget = case.bed, case.forget
    logits = ju.predict(bed.model, case.variables, bed.data["x"])
    right = lambda rows: metrics.accuracy(logits, bed.data["label"], rows)
    outputs = ju.predict(bed.model, case.variables, bed.test["x"])
    return {
      "is_finite": jnp.isfinite(logits).all(),
      "forget_accuracy": right(forget),
      "retain_accuracy": right(~forget),
      "test_accuracy": metrics.accuracy(outputs, bed.test["label"]),
      **_test_accuracies(bed, case.variables, case.marks),
    }

  def highest(evidence: Evidence, method: str) -> dict[str, np.ndarray]:
    curve = evidence.found[method].traces.get(_PARTS[0])
    lanes = len(plan.lanes[0])
    return {HIGHEST: np.full(lanes, np.nan) if curve is None else curve.max(1)}

  metric = report.Metric(
    HIGHEST,
    "Highest on the way, forgotten classes",
    "The test accuracy on the forgotten classes at the cycle where it was "
    "highest; what a method risks that stops at a bad time.",
    "%",
    1,
    report.LOWER,
    headline=True,
  )
  return [
    Measure(
      (*map(table.shared, _COLUMNS), metric),
      run,
      after=highest,
      rules=(
        bench.Rule(_PARTS[0], 0.05, above=TRACE, below=TELLTALE),
        bench.Rule(_PARTS[1], 0.05, above=NOTHING, below=DAMAGE),
      ),
    ),
    table.gap(
      _COLUMNS,
      "Mean absolute difference to the retrained model over the accuracies.",
    ),
    *inversion.measures(plan, size_of(plan.options).inversion),
  ]


def curves(evidence: Evidence) -> dict[str, tuple[Any, str]]:
  """Accuracies over cycles, requests and seeds together, and the gate."""
  size = size_of(evidence.plan.options)
  shown = {
    name: found.traces
    for name, found in evidence.found.items()
    if "kept" in found.traces
  }
  if not shown:
    return {}
  panels = {
    heading: {name: 100 * traces[key] for name, traces in shown.items()}
    for heading, key in (
      ("Test accuracy, forgotten classes (%)", _PARTS[0]),
      ("Test accuracy, kept classes (%)", _PARTS[1]),
      ("Inputs that pass the gate (%)", "kept"),
    )
  }
  at = np.arange(size.every, size.cycles + 1, size.every)
  return {
    "curves": (
      report.curve_panels(at, panels, x_label="cycle"),
      "Ways to transfer, over the cycles. Lines are means over requests and "
      "seeds, bands go from the lowest to the highest. The forgotten classes "
      "should stay at 0 % on the left while the kept ones rise in the middle. On "
      "the right, how many of the generator's inputs the student is taught.",
    )
  }


def files(evidence: Evidence) -> dict[str, Any]:
  """The curves as numbers, [R, S, T] by variant and name."""
  plan = evidence.plan
  size, shape = size_of(plan.options), (-1, len(plan.seeds))
  lines = {
    name: {
      key: values.reshape(*shape, values.shape[-1])
      for key, values in found.traces.items()
    }
    for name, found in evidence.found.items()
    if "kept" in found.traces
  }
  at = np.arange(size.every, size.cycles + 1, size.every)
  names = plan.requests.names
  return {"curves.json": {"requests": names, "cycle": at, "curves": lines}}


_NONE = "no rows, only which classes to forget"
STUDY = bench.Study(
  name="zero_shot",
  options=Options,
  beds=classifiers.beds,
  kinds=classifiers.kinds(),
  request=lambda options: "class:0",
  spell=classifiers.spell,
  train=classifiers.train,
  methods={
    **{name: Method(_transfer, access=_NONE, blind=True) for name in VARIANTS},
    "zero_shot_noise": Method(_noise, access=_NONE, blind=True),
  },
  smoke=("gkt", "zero_shot_noise"),
  settings=settings_of,
  fit=fit,
  traces=_traces,
  measures=measures,
  seeds=lambda options: SIZES[options.preset].seeds,
  title=lambda plan: (
    f"Forgetting {'; '.join(plan.requests.names)} of {plan.options.data} without "
    "data"
  ),
  lead=lambda plan: (
    "Gated knowledge transfer teaches a fresh network all that a model knows but "
    "some classes, on inputs of a generator, without a row of data: inputs in "
    "which the model sees a forgotten class are dropped. Shown is how much of "
    "these classes the student learns all the same, from cycle to cycle, with "
    "the gate and without it, with the attention term of the source (beta 250) "
    "and without."
  ),
  notes=lambda plan: (
    "The original and the retrained model are trained on data; all others see "
    "the original model, the numbers of the classes and the shape of an input. "
    "Test rows serve to measure them.",
    "All four ways use the released scale of the losses, to which beta 250 "
    "belongs.",
    "Model inversion starts from the same noise for every model and class. The "
    "retrained model has a likeness too, by what its other classes have in common "
    "with the forgotten one; only what is above it was remembered.",
  ),
  panels=(curves, inversion.figures),
  files=files,
)
