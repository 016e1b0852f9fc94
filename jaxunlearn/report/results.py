"""Results of an experiment: their form, their checks, their summary."""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxunlearn.report import files

ORIGINAL = "original"
RETRAINED = "retrained"
# Retrained with other random numbers: how far two retrained models are apart.
RETRAINED_AGAIN = "retrained_again"
# What methods are compared with; shown first and never ranked.
REFERENCES = (ORIGINAL, RETRAINED, RETRAINED_AGAIN)
IDENTITY = ("method", "request", "seed")
SECONDS = ("seconds_compile", "seconds_run")


class Results(NamedTuple):
  """All that an experiment found; the content of `results.json`.

  Attributes:
    experiment: its name.
    preset: "smoke", "quick" or "paper".
    jax: version of JAX.
    device: what it ran on.
    config: every option by name, nested at will.
    rows: one mapping for each (method, request, seed), the methods "original"
      and "retrained" included: `method`, `request` (text), `seed` (int),
      `seconds_compile`, `seconds_run` and metrics by name. Numbers may be
      None or NaN where there is no value.
  """

  experiment: str
  preset: str
  jax: str
  device: str
  config: Mapping[str, Any]
  rows: Sequence[Mapping[str, Any]]


class Statistic(NamedTuple):
  """A number over seeds.

  Attributes:
    mean: over seeds; NaN where there is no value.
    std: standard deviation over seeds (n - 1 in the denominator); NaN for
      fewer than two seeds.
    n: seeds that have a value.
    rows: rows that have a value.
    total: rows altogether; more than `rows` where values are missing.
  """

  mean: float
  std: float
  n: int
  rows: int
  total: int


class Summary(NamedTuple):
  """Results in brief.

  Attributes:
    methods: those of `REFERENCES` first, then by first appearance.
    requests: by first appearance.
    metrics: in the order asked for, else by first appearance.
    cells: statistics by (method, request), then metric.
    overall: statistics by method, then metric: of each seed the mean over
      requests, then mean and standard deviation over seeds. The spread is
      thus that of seeds, not that of requests.
  """

  methods: tuple[str, ...]
  requests: tuple[str, ...]
  metrics: tuple[str, ...]
  cells: Mapping[tuple[str, str], Mapping[str, Statistic]]
  overall: Mapping[str, Mapping[str, Statistic]]

  @property
  def candidates(self) -> tuple[str, ...]:
    """The unlearning methods: all but `REFERENCES`."""
    return tuple(m for m in self.methods if m not in REFERENCES)


def check_results(results: Results) -> Results:
  """Checks results and gives them plain Python values.

  Args:
    results: as an experiment made them; numbers may be NumPy's.

  Returns:
    The same of Python values; numbers without a finite value are NaN.

  Raises:
    ValueError: a field is missing or of the wrong kind; the line names it.

  Example:
    >>> import numpy as np
    >>> from jaxunlearn import report
    >>> row = {"request": "class 1", "seed": 0, "seconds_run": 1.0,
    ...        "seconds_compile": 2.0}
    >>> rows = [
    ...   {**row, "method": "retrained", "forget_accuracy": 0.1},
    ...   {**row, "method": "finetune", "forget_accuracy": np.inf},
    ... ]
    >>> results = report.Results("study", "smoke", "0.10", "cpu", {}, rows)
    >>> report.check_results(results).rows[1]["forget_accuracy"]
    nan
  """
  for name in ("experiment", "preset", "jax", "device"):
    _text(getattr(results, name), name)
  if not isinstance(results.config, Mapping):
    raise ValueError(
      f"Expected config to be a mapping, got {_kind(results.config)}."
    )
  if isinstance(results.rows, str) or not isinstance(results.rows, Sequence):
    raise ValueError(f"Expected rows to be a list, got {_kind(results.rows)}.")
  rows = [_check_row(row, f"rows[{i}]") for i, row in enumerate(results.rows)]
  seen: dict[tuple[Any, ...], int] = {}
  for i, row in enumerate(rows):
    identity = tuple(row[name] for name in IDENTITY)
    if identity in seen:
      raise ValueError(
        "Expected rows to differ in method, request or seed, got "
        f"rows[{seen[identity]}] and rows[{i}] both for {identity}."
      )
    seen[identity] = i
  config = files.plain(results.config, "config")
  return results._replace(config=config, rows=rows)


def results_to_json(results: Results) -> dict[str, Any]:
  """Results as strict JSON has them: plain values, null for NaN.

  Args:
    results: see `Results`.

  Returns:
    The mapping that `files.write_json` writes and `read_results` reads.

  Raises:
    ValueError: see `check_results`.

  Example:
    >>> from jaxunlearn import report
    >>> row = {"request": "class 1", "seed": 0, "seconds_run": 1.0,
    ...        "seconds_compile": 2.0}
    >>> rows = [
    ...   {**row, "method": "retrained", "forget_accuracy": 0.1},
    ...   {**row, "method": "finetune", "forget_accuracy": 0.4},
    ... ]
    >>> results = report.Results("study", "smoke", "0.10", "cpu", {}, rows)
    >>> sorted(report.results_to_json(results))
    ['config', 'device', 'experiment', 'jax', 'preset', 'rows']
  """
  return files.plain(check_results(results)._asdict(), "results")


def read_results(path: str | os.PathLike[str]) -> Results:
  """Reads a `results.json`.

  Args:
    path: the file.

  Returns:
    The results, checked; numbers that are null in the file are NaN.

  Raises:
    ValueError: the file cannot be read, is not strict JSON, or lacks a field
      or has it wrong; one line names the file and the field.

  Example:
    >>> import pathlib, tempfile
    >>> from jaxunlearn import report
    >>> row = {"request": "class 1", "seed": 0, "seconds_run": 1.0,
    ...        "seconds_compile": 2.0}
    >>> rows = [
    ...   {**row, "method": "retrained", "forget_accuracy": 0.1},
    ...   {**row, "method": "finetune", "forget_accuracy": 0.4},
    ... ]
    >>> results = report.Results("study", "smoke", "0.10", "cpu", {}, rows)
    >>> from jaxunlearn.report import files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, "results.json")
    ...   _ = files.write_json(path, report.results_to_json(results))
    ...   report.read_results(path).rows[1]["forget_accuracy"]
    0.4
  """
  try:
    text = Path(path).read_bytes().decode("utf-8")
    value = json.loads(
      text, parse_constant=_reject_constant, parse_float=_parse_float
    )
  except OSError as error:
    raise ValueError(
      f"Expected {os.fspath(path)} to be a readable file, "
      f"got {error.strerror or error}."
    ) from error
  except (ValueError, RecursionError) as error:
    raise ValueError(
      f"Expected {os.fspath(path)} to be strict JSON, got {error}."
    ) from error
  try:
    if not isinstance(value, dict):
      raise ValueError(f"Expected a mapping, got {_kind(value)}.")
    missing = [name for name in Results._fields if name not in value]
    if missing:
      raise ValueError(f"Expected the field {missing[0]}, got none.")
    return check_results(Results(*(value[name] for name in Results._fields)))
  except ValueError as error:
    raise ValueError(f"{os.fspath(path)}: {error}") from error


def summarise(
  rows: Sequence[Mapping[str, Any]], metrics: Sequence[str] | None = None
) -> Summary:
  """Means and standard deviations by method and request, and over requests.

  Args:
    rows: as in `Results`.
    metrics: names to summarise; None takes all that the rows have. A row that
      lacks one counts as without a value.

  Returns:
    The summary.

  Example:
    >>> from jaxunlearn import report
    >>> rows = [
    ...   {"method": "finetune", "request": "all", "seed": seed, "loss": loss}
    ...   for seed, loss in enumerate([1.0, 2.0, 3.0])
    ... ]
    >>> statistic = report.summarise(rows).overall["finetune"]["loss"]
    >>> statistic.mean, statistic.std, statistic.n
    (2.0, 1.0, 3)
  """
  names = _distinct(row["method"] for row in rows)
  first = [name for name in REFERENCES if name in names]
  methods = first + [name for name in names if name not in first]
  requests = _distinct(row["request"] for row in rows)
  if metrics is None:
    keys = _distinct(key for row in rows for key in row)
    metrics = [key for key in keys if key not in IDENTITY]
  groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
  by_method: dict[str, list[Mapping[str, Any]]] = {}
  for row in rows:
    groups.setdefault((row["method"], row["request"]), []).append(row)
    by_method.setdefault(row["method"], []).append(row)
  return Summary(
    tuple(methods),
    tuple(requests),
    tuple(metrics),
    {
      pair: {name: _statistic(group, name) for name in metrics}
      for pair, group in groups.items()
    },
    {
      method: {name: _statistic(by_method[method], name) for name in metrics}
      for method in methods
    },
  )


def _statistic(rows: Sequence[Mapping[str, Any]], name: str) -> Statistic:
  by_seed: dict[Any, list[float]] = {}
  for row in rows:
    value = row.get(name)
    if value is not None and math.isfinite(float(value)):
      by_seed.setdefault(row["seed"], []).append(float(value))
  means = [statistics.fmean(values) for values in by_seed.values()]
  return Statistic(
    statistics.fmean(means) if means else math.nan,
    _deviation(means) if len(means) > 1 else math.nan,
    len(means),
    sum(len(values) for values in by_seed.values()),
    len(rows),
  )


def _deviation(values: Sequence[float]) -> float:
  """As `statistics.stdev`, whose fractions take twenty times as long."""
  mean = values[0] if len(set(values)) == 1 else statistics.fmean(values)
  length = math.hypot(*(value - mean for value in values))
  return length / math.sqrt(len(values) - 1)


def _check_row(row: Any, place: str) -> dict[str, Any]:
  if not isinstance(row, Mapping):
    raise ValueError(f"Expected {place} to be a mapping, got {_kind(row)}.")
  for name in IDENTITY + SECONDS:
    if name not in row:
      raise ValueError(f"Expected {place} to have the field {name}, got none.")
  result: dict[str, Any] = {}
  for name, value in row.items():
    field = f"{place}.{name}"
    if not isinstance(name, str):
      raise ValueError(f"Expected {place} to have names as keys, got {name!r}.")
    if name == "seed":
      plain = files.plain(value, field)
      if isinstance(plain, bool) or not isinstance(plain, int):
        raise ValueError(f"Expected {field} to be an integer, got {value!r}.")
      result[name] = plain
    elif name in IDENTITY:
      result[name] = _text(value, field)
    else:
      result[name] = _number(value, field)
  return result


def _text(value: Any, name: str) -> str:
  if not isinstance(value, str) or not value.strip():
    raise ValueError(f"Expected {name} to be some text, got {value!r}.")
  return str(value)


def _number(value: Any, name: str) -> float:
  """A float; NaN for None and for what is not finite."""
  if value is None:
    return math.nan
  message = f"Expected {name} to be a number or null, got {_kind(value)}."
  plain = files.plain(value, name)
  if plain is None:
    return math.nan
  if not isinstance(plain, bool | int | float):
    raise ValueError(message)
  try:
    return float(plain)
  except OverflowError as error:
    raise ValueError(message) from error


def _kind(value: Any) -> str:
  """A value in a few words, whatever its size."""
  text = repr(value) if isinstance(value, str | int | float) else ""
  short = text if len(text) <= 40 else text[:37] + "..."
  name = "null" if value is None else type(value).__name__
  return f"{name} {short}".strip()


def _distinct(values: Any) -> list[Any]:
  return list(dict.fromkeys(values))


def _reject_constant(name: str) -> float:
  raise ValueError(f"the constant {name}, which strict JSON does not have")


def _parse_float(text: str) -> float:
  value = float(text)
  if not math.isfinite(value):
    raise ValueError(f"the number {text}, which is too large")
  return value
