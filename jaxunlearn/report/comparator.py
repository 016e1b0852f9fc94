"""Any two models side by side, in one HTML file.

An equivalent of the Unlearning Comparator (2025), arXiv:2508.12730: classes, rows,
layers and a simulated attack, of every pair of some models. The file opens
offline; its pictures are Vega-Lite's, and what a reader sees at first, for one
pair, is there without scripts too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxunlearn.report import (
  charts,
  compare_curves,
  compare_panels,
  draw,
  files,
)
from jaxunlearn.report.charts import BLUE, GREY, ORANGE, Chart, Spec
from jaxunlearn.report.compare_data import (
  Compared,
  ComparedRows,
  cards,
  class_marks,
  datasets,
  thinned,
)
from jaxunlearn.report.definitions import (
  METRICS,
  Metric,
  describe,
  format_value,
)
from jaxunlearn.report.results import ORIGINAL, REFERENCES, RETRAINED

MAX_ROWS = 2000
MAX_BYTES = 6_000_000
_SIGNALS = ("entropy", "confidence")


def compare(
  models: Sequence[Compared],
  rows: ComparedRows,
  *,
  classes: Sequence[str],
  forgotten: Sequence[int] = (),
  layers: Sequence[str],
  title: str,
  lead: str = "",
  pair: tuple[str, str] | None = None,
  definitions: Sequence[Metric] = METRICS,
  path: str | os.PathLike[str] | None = None,
) -> str:
  """A page on which any two of some models are compared.

  Args:
    models: two or more, of equal names of classes and layers.
    rows: those that are shown one by one.
    classes: C names.
    forgotten: numbers of the classes that were to be forgotten, marked.
    layers: L names, of `jaxunlearn.attacks.layer_names`.
    title: heading.
    lead: what was done, in plain words.
    pair: which two are shown at first; by default the retrained one and the
      method that is easiest to tell from it.
    definitions: of the columns of the table.
    path: where it is written to; None for nowhere.

  Returns:
    The page.

  Raises:
    ValueError: fewer than two models or classes, shapes that do not match, two
      models of one name, more rows than `MAX_ROWS`, a page beyond `MAX_BYTES`.

  Example:
    >>> import jax, jax.numpy as jnp, numpy as np
    >>> from jaxunlearn import attacks, report, toy
    >>> problem = toy.classifier()
    >>> record = jax.device_get(attacks.model_record(
    ...   problem.model, problem.variables, [problem.variables] * 2,
    ...   problem.data, problem.data, problem.request, jnp.arange(8),
    ...   num_classes=4))
    >>> models = [report.Compared(n, record) for n in ("before", "after")]
    >>> label = np.arange(8) % 4
    >>> page = report.compare(
    ...   models, report.ComparedRows(label, label == 1, np.arange(8)),
    ...   classes="abcd", layers=("hidden", "outputs"), title="A toy")
    >>> page[:15]
    '<!DOCTYPE html>'
  """
  from jaxunlearn.report import page

  _check(models, rows, classes, layers)
  names = [charts.clean(model.name) for model in models]
  known = RETRAINED in names
  first, second = _pair(models, names, pair)
  values = datasets(models, rows, classes, forgotten, layers)
  marked = class_marks(classes, forgotten)
  params = {
    **{"a": first, "b": second, "names": names, "classes": list(marked)},
    **{"split": 0, "show": "all", "klass": -1, "pinned": -1, "hovered": -1},
    **{"layout": 0, "feature": 0, "direction": 0, "t": 0.0, "at": 0},
  }
  if known:
    params |= _attacker(models[second].record.privacy)
  attacks = list(dict.fromkeys(name for m in models for name in m.rocs))
  sections = {
    "classes": compare_panels.class_panels(marked),
    "rows": [compare_panels.row_panel(which) for which in "ab"],
    "layers": [
      compare_curves.layer_panel(i, f"To {words}", layers)
      for i, words in enumerate((RETRAINED, ORIGINAL))
      if np.isfinite([m.record.cka[i] for m in models]).any()
    ],
    "attack": [
      compare_curves.score_panel("a", names.index(RETRAINED)),
      compare_curves.score_panel("b", names.index(RETRAINED)),
      compare_curves.rate_panel(),
      *(
        compare_curves.attack_panel(i, name) for i, name in enumerate(_SIGNALS)
      ),
      *(compare_curves.roc_panel(i, name) for i, name in enumerate(attacks)),
    ]
    if known
    else [],
  }
  thin = {**values, "rows": thinned(values["rows"])}
  drawn = {
    name: [(_named(p, params), _still(_named(p, params), thin)) for p in panels]
    for name, panels in sections.items()
  }
  heads, table = _table(models, names, definitions)
  text = page.render(
    "compare.html.j2",
    scripts=[*page.scripts(True), page.script("compare.js")],
    title=title,
    lead=lead,
    names=names,
    params=params,
    drawn=drawn,
    overview=overview(models, names) if known else None,
    heads=heads,
    table=table,
    classes=marked,
    by_class=_by_class(models, names, marked),
    by_layer=_by_layer(models, names, layers),
    kinds=compare_panels.KINDS,
    layouts=_layouts(values),
    shared={"datasets": values, "params": params, **cards(models, rows)},
    counts=(len(rows.label), int(np.sum(rows.forget)), MAX_ROWS),
    columns=rows.columns,
  )
  size = len(text.encode())
  if size > MAX_BYTES:
    raise ValueError(
      f"Expected a page of at most {MAX_BYTES / 1e6:g} MB, got {size / 1e6:.1f} "
      f"MB for {len(models)} models and {len(rows.label)} rows; take fewer."
    )
  if path is not None:
    files.write_text(Path(path), text)
  return text


def overview(models: Sequence[Compared], names: Sequence[str]) -> Chart:
  """What accuracy shows, and what an attacker sees, of every model."""
  standard = models[names.index(RETRAINED)].record
  order = np.argsort([-float(m.record.privacy.value) for m in models])
  panels: list[Spec] = []
  # Of another seed it is one as well: "retrained, seed 1".
  is_reference = lambda name: name.partition(",")[0] in REFERENCES
  for title, of in (
    (
      "Accuracy on forget rows, distance (%)",
      lambda r: abs(float(r.forget_accuracy) - float(standard.forget_accuracy)),
    ),
    ("Attack score (%)", lambda r: 1 - float(r.privacy.value)),
  ):
    bars = [
      {
        **{"method": names[i], "value": 100 * of(models[i].record)},
        **{"low": 100 * of(models[i].record), "high": 100 * of(models[i].record)},
        "color": GREY if is_reference(names[i]) else (BLUE, ORANGE)[len(panels)],
        "label": f"{names[i]}: {title} {100 * of(models[i].record):.1f}",
      }
      for i in order
    ]  # fmt: skip
    panels.append(draw.bars(bars, title, domain=(0, 100), width=230))
  return Chart(tuple(panels))


def _check(
  models: Sequence[Compared],
  rows: ComparedRows,
  classes: Sequence[str],
  layers: Sequence[str],
) -> None:
  count = len(rows.label)
  if len(models) < 2:
    raise ValueError(f"Expected models to be two or more, got {len(models)}.")
  if len(classes) < 2:
    raise ValueError(f"Expected classes to be two or more, got {len(classes)}.")
  if count > MAX_ROWS:
    raise ValueError(f"Expected at most {MAX_ROWS} rows, got {count}.")
  names = [charts.clean(model.name) for model in models]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(f"Expected models of different names, got two {name!r}.")
  for model in models:
    for what, found, wanted in (
      ("classes", np.shape(model.record.train[0])[0], len(classes)),
      ("outputs", np.shape(model.record.logits)[-1], len(classes)),
      ("rows", np.shape(model.record.logits)[0], count),
      ("layers", np.shape(model.record.cka)[-1], len(layers)),
    ):
      if found != wanted:
        raise ValueError(
          f"Expected {model.name} to have {wanted} {what}, got {found}."
        )


def _pair(
  models: Sequence[Compared], names: Sequence[str], pair: Any
) -> tuple[int, int]:
  if pair is not None:
    for name in pair:
      if name not in names:
        raise ValueError(f"Expected pair to name two models, got {name!r}.")
    return names.index(pair[0]), names.index(pair[1])
  first = names.index(RETRAINED) if RETRAINED in names else 0
  rest = [i for i, n in enumerate(names) if i != first and n not in REFERENCES]
  rest = rest or [i for i in range(len(names)) if i != first]
  return first, min(rest, key=lambda i: float(models[i].record.privacy.value))


def _attacker(privacy: Any) -> dict[str, Any]:
  """The best of all, where the threshold begins."""
  shape = np.shape(privacy.curves.score)
  i, j, k = (int(v) for v in np.unravel_index(int(privacy.best), shape))
  t = float(np.asarray(privacy.curves.thresholds)[i, j, k])
  return {"feature": i, "direction": j, "at": k, "t": round(t, 4)}


def _named(panel: Spec, params: Mapping[str, Any]) -> Spec:
  """A panel with the params at its top that its expressions name."""
  own = [{"name": name, "value": value} for name, value in params.items()]
  return {**panel, "params": own}


def _still(panel: Spec, values: Mapping[str, Any]) -> str:
  """A panel drawn with what it reads alone."""
  text = repr(panel)
  used = {n: v for n, v in values.items() if f"{{'name': '{n}'}}" in text}
  return charts.panel_svg({**panel, "datasets": used})


def _layouts(values: Mapping[str, Any]) -> tuple[str, ...]:
  return ("PCA", "UMAP")[: len(values["rows"][0]["x"])]


def _table(
  models: Sequence[Compared],
  names: Sequence[str],
  definitions: Sequence[Metric],
) -> tuple[list[tuple[str, str]], list[dict[str, Any]]]:
  """Heads with their explanations, and a row per model."""
  own = ("forget_accuracy", "retain_accuracy", "test_accuracy")
  columns = [*own, *(n for m in models for n in m.numbers)]
  metrics = [describe(n, definitions) for n in dict.fromkeys(columns)]
  told = list(dict.fromkeys(n for m in models for n in m.verdict))
  heads = [(m.heading, m.explanation) for m in metrics]
  heads.insert(3, ("Privacy score", "1 less the best attack score of four; 1: no attacker tells it from the retrained model"))  # fmt: skip
  heads += [(name, "") for name in told]
  table = []
  for name, model in zip(names, models):
    numbers = {
      **{n: float(getattr(model.record, n)) for n in own},
      **model.numbers,
    }
    cells = [
      (format_value(m, v), f"{v:.6g}")
      for m in metrics
      for v in [float(numbers.get(m.name, np.nan))]
    ]
    score = float(model.record.privacy.value)
    cells.insert(3, (f"{score:.2f}", f"{score:.6g}"))
    words: list[Any] = [(model.verdict.get(n, "–"), None) for n in told]
    table.append({"name": name, "cells": cells + words, "provenance": model.provenance})  # fmt: skip
  return heads, table


def _by_class(
  models: Sequence[Compared], names: Sequence[str], classes: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
  rows = []
  for name, model in zip(names, models):
    for words, part in (("training", model.record.train), ("test", model.record.test)):  # fmt: skip
      told = np.diagonal(np.asarray(part[0], float))
      rows.append([f"{name}, {words} rows", *(_percent(v) for v in told)])
  return ["Accuracy (%)", *classes], rows


def _by_layer(
  models: Sequence[Compared], names: Sequence[str], layers: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
  rows = []
  for name, model in zip(names, models):
    cka = np.asarray(model.record.cka, float)
    for ref, words in zip(cka, (RETRAINED, ORIGINAL)):
      for line, group in zip(ref, ("forget", "retain")):
        numbers = ["–" if np.isnan(v) else f"{v:.3f}" for v in line]
        rows.append([f"{name} to {words}, {group} rows", *numbers])
  return ["Linear CKA", *layers], rows


def _percent(value: float) -> str:
  return "–" if np.isnan(value) else f"{100 * value:.1f}"
