"""Settings chosen by rows, requests and seeds that no report is about.

Every method that has a `space` gets the same number of settings: its default and
quasi-random draws. What lies nearest to retraining is taken. Values that may be
traced share a program, so that a draw costs a run and no compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.bench import lanes
from experiments.bench.study import (
  AGAIN,
  RETRAINED,
  Evidence,
  Plan,
  Setting,
)
from jaxunlearn import report
from jaxunlearn.report.definitions import format_value
from jaxunlearn.report.tables import Cell, Grid

FIRST_SEED = 1_000_000  # Far from those of any report.


class Between(NamedTuple):
  """A number that may be traced, such as a rate.

  Attributes:
    low: > 0 on a logarithmic scale.
    high: > low.
    log: whether the scale is logarithmic.
  """

  low: float
  high: float
  log: bool = True

  def at(self, share: float) -> float:
    """The value at a share in [0, 1) of the way."""
    if self.log:
      return float(self.low * (self.high / self.low) ** share)
    return float(self.low + share * (self.high - self.low))


class Choice(NamedTuple):
  """Values of which each is a program of its own, such as numbers of steps."""

  values: tuple[Any, ...]

  def at(self, share: float) -> Any:
    return self.values[int(share * len(self.values))]


class Tuned(NamedTuple):
  """How a method's setting was chosen.

  Attributes:
    setting: the chosen one.
    scores: of each draw, the default first: the gap to retraining, a mean over
      requests and seeds; inf where a model diverged.
    floor: that of a second retrained model.
  """

  setting: Setting
  scores: tuple[float, ...]
  floor: float


def draws(
  default: Setting, space: Mapping[str, Any], count: int
) -> list[dict[str, Any]]:
  """The default, and `count` - 1 settings spread evenly; the same every time."""
  from scipy.stats import qmc

  # The first point is the corner of the space.
  points = qmc.Halton(len(space), scramble=False).random(count)[1:]
  drawn = [
    {key: part.at(share) for (key, part), share in zip(space.items(), point)}
    for point in points
  ]
  return [dict(default), *({**default, **values} for values in drawn)]


def choose(
  plan: Plan,
  count: int,
  record: Callable[[Evidence, Any, Mapping[str, lanes.Made]], None],
  progress: Callable[[str], None],
) -> dict[str, Tuned]:
  """Chooses a setting for every method of a plan that has a space.

  Args:
    plan: of the rows, requests and seeds that choose.
    count: settings per method.
    record: `run.record`.
    progress: told of each method by a line.
  """
  made, original = lanes.references(plan)
  measure = lanes.make_measure(plan, original, made[RETRAINED].value)
  evidence, found = Evidence(plan, {}), {}
  record(evidence, measure, made)
  floor = _score(evidence, AGAIN)
  for name in plan.methods:
    space = plan.study.methods[name].space
    if not space:
      continue
    progress(f"choosing the setting of {name}")
    settings = draws(plan.settings[name], space, count)
    scores = [np.inf] * len(settings)
    for places in _groups(settings, space).values():
      same = {**plan.settings, name: settings[places[0]]}
      traced = {
        key: np.array([settings[i][key] for i in places], np.float32)
        for key in _traced(space)
      }
      own = plan._replace(settings=same)
      many = lanes.served(own, name, original, traced)[name]
      for place, i in enumerate(places):
        one = many._replace(value=lanes.at(many.value, place))
        record(evidence, measure, {name: one})
        scores[i] = _score(evidence, name)
    best = int(np.argmin(scores))
    found[name] = Tuned(settings[best], tuple(scores), floor)
  return found


def table(tuned: Mapping[str, Tuned], gap: report.Metric) -> report.Comparison:
  """The chosen settings, the budget, and how much the choice mattered."""
  rows = []
  for name, chosen in tuned.items():
    best = min(chosen.scores)
    near = sum(score - best <= chosen.floor for score in chosen.scores)
    setting = ", ".join(
      f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}"
      for k, v in chosen.setting.items()
    )
    numbers = (
      format_value(gap, v) for v in (best, chosen.scores[0], chosen.floor)
    )
    texts = setting, *numbers, f"{near} of {len(chosen.scores)}"
    rows.append((name, tuple(map(Cell, texts))))
  heads = (
    (
      "setting",
      "Setting",
      "Chosen on selection rows; what it is not about stays.",
    ),
    ("gap_chosen", gap.label, "Of the chosen setting, on selection rows."),
    ("gap_default", f"{gap.label}, default", "Of the default setting, there."),
    ("gap_floor", f"{gap.label}, floor", "Of a second retraining, there."),
    (
      "flatness",
      "As good",
      "Settings whose gap is within a floor of the best.",
    ),
  )
  return report.Comparison(
    "How settings were chosen",
    "On rows, requests and seeds that this report is not about, every method with "
    "as many settings. Where most of them are as good, the choice matters little.",
    Grid(tuple(report.Metric(*head) for head in heads), tuple(rows), False),
  )


def _score(evidence: Evidence, name: str) -> float:
  found = evidence.found[name]
  if not found.is_finite.all():
    return np.inf
  gaps = found.values[evidence.plan.study.gap]
  return float(np.mean(gaps)) if np.isfinite(gaps).all() else np.inf


def _traced(space: Mapping[str, Any]) -> tuple[str, ...]:
  return tuple(key for key, part in space.items() if isinstance(part, Between))


def _groups(settings: Any, space: Any) -> dict[tuple[Any, ...], list[int]]:
  """Places of the settings that share a program."""
  fixed = [key for key in space if key not in _traced(space)]
  groups: dict[tuple[Any, ...], list[int]] = {}
  for i, setting in enumerate(settings):
    groups.setdefault(tuple(setting[k] for k in fixed), []).append(i)
  return groups
