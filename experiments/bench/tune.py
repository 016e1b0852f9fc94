"""Settings chosen by rows, requests and seeds that no report is about.

Every method that has a `space` gets the same number of settings: its default and
quasi-random draws. What is lowest in `Study.gap`, or in `Method.aim`, is taken,
which mostly is what lies nearest to retraining; each is charged its standard error
over requests and seeds, since of many settings the lowest mean alone is often a
lucky one. Values that may be traced share a program, so that a draw costs a run
and no compilation.
"""

from __future__ import annotations

import datetime
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxunlearn import report
from jaxunlearn.report.definitions import format_value
from jaxunlearn.report.files import plain
from jaxunlearn.report.tables import Cell, Grid

from .. import common
from ..launch import started
from . import lanes
from .study import (
  AGAIN,
  RETRAINED,
  Evidence,
  Plan,
  Setting,
)

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
    scores: of each draw, the default first: the column that it was chosen by, a
      mean over requests and seeds; inf where a model diverged.
    errors: the standard error of each of them.
    floor: how far two retrained models are apart in it.
    programs: how many were compiled for it.
  """

  setting: Setting
  scores: tuple[float, ...]
  errors: tuple[float, ...]
  floor: float
  programs: int = 1

  @property
  def best(self) -> int:
    """The place of the setting that is low for certain."""
    return int(np.argmin(np.add(self.scores, self.errors)))

  @property
  def num_near(self) -> int:
    """Settings whose score is within a floor of the best: how flat it is."""
    return sum(s - self.scores[self.best] <= self.floor for s in self.scores)


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
) -> Iterator[tuple[str, Tuned]]:
  """Chooses a setting for every method of a plan that has a space, in turn.

  Args:
    plan: of the rows, requests and seeds that choose.
    count: settings per method.
    record: `run.record`.
    progress: told of each method by a line.
  """
  measures = tuple(m for m in plan.measures if not m.costly)
  plan = plan.study.before(plan._replace(measures=measures))
  made, original = lanes.references(plan)
  measure = lanes.make_measure(plan, original, made[RETRAINED].value)
  evidence = Evidence(plan, {})
  record(evidence, measure, made)
  for name in plan.methods:
    space = plan.study.methods[name].space
    if not space:
      continue
    aim, is_gap = _aim(plan.study, name)
    floor = _score(evidence, AGAIN, aim)[0]
    if not is_gap:
      floor = abs(floor - _score(evidence, RETRAINED, aim)[0])
    progress(f"choosing the setting of {name}")
    settings = draws(plan.settings[name], space, count)
    scores = [(np.inf, 0.0)] * len(settings)
    groups = _groups(settings, space)
    for places in groups.values():
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
        scores[i] = _score(evidence, name, aim)
    tuned = Tuned({}, *zip(*scores), floor, len(groups))
    yield name, tuned._replace(setting=settings[tuned.best])


# What settings hold for: the options of these names that say something.
_ROWS = (
  *("data", "superclasses", "benchmark", "task", "concept"),
  *("damage", "swap", "noise"),
)
_MODEL = (
  *("model", "objective", "order", "layer", "weights", "checkpoint", "load"),
  *("classes", "loss"),
)
_RECIPE = ("preset", "train_steps", "learning_rate", "batch_size", "cycles")
_STREAM = ("classes_per_task", "k")
_FOR = (*_ROWS, *_MODEL, *_RECIPE, *_STREAM)


def _holds_for(options: Any) -> dict[str, Any]:
  found = {name: getattr(options, name, None) for name in _FOR}
  return {name: value for name, value in found.items() if value is not None}


def read(path: Path | None) -> list[dict[str, Any]]:
  """What `write` wrote; nothing where there is no file.

  Raises:
    ValueError: a file of another form.
  """
  if path is None or not path.exists():
    return []
  try:
    entries = json.loads(path.read_text())
    return [
      entry
      for entry in entries
      if {"for", "method", "setting", "chosen"} <= entry.keys()
    ]
  except (ValueError, TypeError, AttributeError):
    raise ValueError(
      f"Expected --write-settings to be a file of settings, got {path}."
    ) from None


def defaults(
  study: Any, options: Any, by_hand: Mapping[str, Setting]
) -> tuple[dict[str, Setting], dict[str, Mapping[str, Any]]]:
  """Settings, and how those were chosen that `Study.chosen` has for the options."""
  settings, origins = dict(by_hand), {}
  for entry in read(study.chosen):
    name = entry["method"]
    if name in settings and entry["for"] == _holds_for(options):
      settings[name] = {**settings[name], **entry["setting"]}
      origins[name] = entry["chosen"]
  return settings, origins


def write(
  path: Path,
  entries: list[dict[str, Any]],
  plan: Plan,
  tuned: Mapping[str, Tuned],
) -> None:
  """Adds settings to those in a file, in the place of older ones.

  Args:
    path: of the file.
    entries: what `read` read from it.
    plan: of the rows, requests and seeds that chose.
    tuned: of `choose`.
  """
  holds = _holds_for(plan.options)
  kept = [e for e in entries if e["for"] != holds or e["method"] not in tuned]
  how = {
    "command": f"{started(plan.study.name)} {shlex.join(_portable(sys.argv[1:]))}",
    "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    "versions": common.environment(),
    "requests": plan.requests.names,
    "seeds": plan.seeds,
  }
  for name, found in tuned.items():
    rounded = lambda v: float(f"{v:.4g}") if isinstance(v, float) else v
    space = plan.study.methods[name].space or {}
    setting = {k: rounded(v) for k, v in found.setting.items() if k in space}
    chosen = {k: rounded(v) for k, v in _described(found).items()} | how
    entry = {"for": holds, "method": name, "setting": setting, "chosen": chosen}
    kept.append(entry)
  kept.sort(key=lambda entry: (sorted(entry["for"].items()), entry["method"]))
  report.write_json(path, plain(kept))


def _portable(arguments: list[str]) -> list[str]:
  """The same without where this machine keeps its data."""
  pairs = zip(["", *arguments], arguments)
  return ["DIR" if flag == "--data-dir" else word for flag, word in pairs]


BY_HAND = "default, by hand"


def tables(evidence: Evidence) -> list[report.Comparison]:
  """The settings, which of them are tuned, and how much the choice mattered."""
  plan = evidence.plan
  names = [name for name in plan.methods if plan.study.methods[name].space]
  if not names:
    return []
  rows = []
  for name in names:
    column, is_gap = _aim(plan.study, name)
    aim = report.describe(column, plan.metrics)
    nearest = ", nearest to retraining" if is_gap else ", lowest"
    by = f"{aim.label}{nearest}"
    texts = [_as_text(plan.settings[name]), BY_HAND, by, "", "", "", ""]
    how = plan.origins.get(name)
    if name in evidence.tuned:
      how = {**_described(evidence.tuned[name]), "date": "in this run"}
    if how is not None:
      gaps = (how[f"gap{part}"] for part in ("", "_default", "_floor"))
      shown = ("" if v is None else format_value(aim, v) for v in gaps)
      near = f"{how['as_good']} of {how['budget']}"
      texts[1:] = [f"tuned, {how['date']}", by, *shown, near]
    rows.append((name, tuple(map(Cell, texts))))
  heads = (
    ("setting", "Setting", "What the method ran with."),
    ("origin", "Origin", "Whether it was tuned, and when."),
    ("aim", "Chosen by", "The column that decides, and which of its values."),
    ("gap_chosen", "Chosen", "That of the chosen setting, on selection rows."),
    ("gap_default", "Default", "That of the default setting, there."),
    (
      "gap_floor",
      "Floor",
      "How far two retrained models are apart in it, there.",
    ),
    (
      "flatness",
      "As good",
      "Settings that are within a floor of the best.",
    ),
  )
  found = report.Comparison(
    "How settings were chosen",
    "Tuned: of as many settings per method the best, its standard error "
    "added, on rows, requests and seeds that this report is not about. Where "
    "most of them are as good, the choice matters little. By hand: chosen by "
    "its author, on what may be these very rows.",
    Grid(tuple(report.Metric(*head) for head in heads), tuple(rows), False),
  )
  return [found]


def _as_text(setting: Setting) -> str:
  return ", ".join(
    f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}"
    for k, v in setting.items()
  )


def _described(found: Tuned) -> dict[str, Any]:
  return {
    "gap": found.scores[found.best],
    "gap_default": found.scores[0],
    "gap_floor": found.floor,
    "budget": len(found.scores),
    "as_good": found.num_near,
    "diverged": sum(not np.isfinite(s) for s in found.scores),
    "programs": found.programs,
  }


def _aim(study: Any, name: str) -> tuple[str, bool]:
  """The column that a method is chosen by, and whether retraining has 0 in it."""
  own = study.methods[name].aim
  return own or study.gap, not own and study.is_gap


def _score(evidence: Evidence, name: str, column: str) -> tuple[float, float]:
  """Mean and standard error over requests and seeds."""
  found = evidence.found[name]
  gaps = found.values[column]
  if not (found.is_finite.all() and np.isfinite(gaps).all()):
    return np.inf, 0.0
  spread = np.std(gaps, ddof=1) if len(gaps) > 1 else 0.0
  return float(np.mean(gaps)), float(spread / len(gaps) ** 0.5)


def _traced(space: Mapping[str, Any]) -> tuple[str, ...]:
  return tuple(key for key, part in space.items() if isinstance(part, Between))


def _groups(settings: Any, space: Any) -> dict[tuple[Any, ...], list[int]]:
  """Places of the settings that share a program."""
  fixed = [key for key in space if key not in _traced(space)]
  groups: dict[tuple[Any, ...], list[int]] = {}
  for i, setting in enumerate(settings):
    groups.setdefault(tuple(setting[k] for k in fixed), []).append(i)
  return groups
