"""Model inversion in the study of zero-shot unlearning: its columns and figure."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxunlearn import attacks, report
from jaxunlearn.attacks.inversion import INVERSION
from jaxunlearn.core.keys import derive
from jaxunlearn.report import draw

from ..bench import Case, Evidence, Measure, Plan

METRICS = (
  report.Metric(
    "inverted_likeness",
    "Inverted likeness, forgotten classes",
    "Correlation between the mean of inputs that the model was made to take for a "
    "forgotten class (model inversion) and the mean of its rows, both less the "
    "mean over classes; near 1 the class can be read out of the model.",
    "",
    2,
    headline=True,
  ),
  report.Metric(
    "inverted_likeness_kept",
    "Inverted likeness, kept classes",
    "The same of the classes that stay.",
    "",
    2,
  ),
  report.Metric(
    "inverted_probability",
    "Probability on inverted inputs",
    "What the model gives a forgotten class on the inputs that were made for it.",
    "%",
    1,
  ),
)
_SHOWN, _REAL = "inverted", "inverted_real"
_STARTS = 4  # Shown of each model, beside the mean of all.


def measures(plan: Plan, num_steps: int) -> list[Measure]:
  """Of every class; none where inputs are integers, which have no gradient."""
  if plan.dataset.train["x"].dtype.kind != "f":
    return []

  def run(case: Case) -> dict[str, Any]:
    bed, count = case.bed, case.bed.extra.num_classes
    x, label, every = bed.data["x"], bed.data["label"], jnp.arange(count)
    found = attacks.invert(
      bed.model,
      case.variables,
      every,
      derive(case.key, "inversion"),
      INVERSION._replace(num_steps=num_steps),
      input_shape=x.shape[1:],
    )
    alike = attacks.likeness(found.x, x, label, every)
    gone = jnp.zeros(count, bool).at[label].max(case.forget)
    mean = lambda values, of: jnp.where(of, values, 0).sum() / of.sum()
    first = gone.argmax()
    made = found.x[first]
    of_class = (label == first).astype(x.dtype)
    return {
      "inverted_likeness": mean(alike, gone),
      "inverted_likeness_kept": mean(alike, ~gone),
      "inverted_probability": mean(found.probability.mean(axis=1), gone),
      _SHOWN: jnp.concatenate([made.mean(axis=0)[None], made[:_STARTS]]),
      _REAL: jnp.tensordot(of_class, x, 1) / of_class.sum(),
    }

  return [Measure(METRICS, run, (_SHOWN, _REAL), costly=True)]


def figures(evidence: Evidence) -> dict[str, tuple[report.Chart, str]]:
  """What each model shows of the first forgotten class; of images alone."""
  shown = {
    name: np.asarray(found.values[_SHOWN][0], np.float64)
    for name, found in evidence.found.items()
    if _SHOWN in found.values
  }
  shape = next(iter(shown.values())).shape[1:] if shown else ()
  if len(shape) != 3 or shape[-1] not in (1, 3):
    return {}
  real = np.asarray(next(iter(evidence.found.values())).values[_REAL][0])
  rows = [*shown.values(), np.broadcast_to(real, (1 + _STARTS, *shape))]
  grid = [[_bright(image) for image in row] for row in rows]
  grid[-1][1:] = [np.ones_like(real)] * _STARTS
  across = ["mean", *(f"start {i + 1}" for i in range(_STARTS))]
  name = evidence.plan.requests.names[0]
  return {
    "inversion": (
      report.Chart((draw.pictures(grid, [*shown, "its rows"], across),)),
      f"Model inversion of {name}: inputs that each model was made to take for "
      "the class, from the same noise. Left the mean of "
      f"{INVERSION.batch_size}, below the mean of the class's rows. What "
      "the retrained row shows as well was never in the deleted rows.",
    )
  }


def _bright(image: np.ndarray) -> np.ndarray:
  """From its darkest to its brightest value."""
  low, high = np.nanmin(image), np.nanmax(image)
  return np.nan_to_num((image - low) / max(high - low, 1e-9))
