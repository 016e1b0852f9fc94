"""What the pictures of a comparison read: rows with an entry per model."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxunlearn.report import charts

STATIC_ROWS = 300  # Of the pictures that are there without scripts.
_PIXELS = 1_000_000


class ComparedRows(NamedTuple):
  """The rows that are shown one by one, at most 2,000.

  Attributes:
    label: int [P].
    forget: bool [P].
    id: [P], what each is called.
    images: float [P, H, W] or [P, H, W, 3] in [0, 1]; None for rows of numbers.
    columns: by name [P] values, shown beside a row.
  """

  label: np.ndarray
  forget: np.ndarray
  id: np.ndarray
  images: np.ndarray | None = None
  columns: Mapping[str, Sequence[Any]] = {}


class Compared(NamedTuple):
  """A model.

  Attributes:
    name: what it is called; the first "retrained" is the standard.
    record: what `jaxunlearn.attacks.model_record` found, as NumPy arrays, of the
      rows of `ComparedRows`; its references are the retrained and the original.
    numbers: columns of the table by the names of metrics.
    verdict: what tests say, by column: intention, guarantee, verdict.
    provenance: command, seed, settings, versions and the like.
    rocs: attack -> false and true positive rates, of further attacks.
  """

  name: str
  record: Any
  numbers: Mapping[str, float] = {}
  verdict: Mapping[str, str] = {}
  provenance: Mapping[str, str] = {}
  rocs: Mapping[str, tuple[Any, Any]] = {}


def class_marks(classes: Sequence[str], forgotten: Sequence[int]) -> list[str]:
  """Names of classes, each once, those to be forgotten with a cross."""
  return [
    f"✖ {name}" if i in forgotten else name
    for i, name in enumerate(charts.distinct(classes))
  ]


def datasets(
  models: Sequence[Compared],
  rows: ComparedRows,
  classes: Sequence[str],
  forgotten: Sequence[int],
  layers: Sequence[str],
) -> dict[str, list[dict[str, Any]]]:
  """What the panels read: rows that have an entry per model."""
  names, records = class_marks(classes, forgotten), [m.record for m in models]
  gone = [i in forgotten for i in range(len(classes))]
  split = lambda part: [(r.train, r.test)[part] for r in records]
  found: dict[str, list[dict[str, Any]]] = {"accuracy": [], "classes": []}
  for part in (0, 1):
    shares, sure = (
      np.stack([np.asarray(outcome[i], float) for outcome in split(part)], -1)
      for i in (0, 1)
    )
    for i, name in enumerate(names):
      own = {"split": part, "i": i, "true": name, "gone": gone[i]}
      found["accuracy"].append({**own, "acc": _short(shares[i, i])})
      found["classes"] += [
        {**own, "pred": other, "share": _short(shares[i, j]), "conf": _short(sure[i, j])}
        for j, other in enumerate(names)
      ]  # fmt: skip
  layouts = embeddings(records)
  predicted = np.stack([np.argmax(r.logits, -1) for r in records], -1)
  found["rows"] = [
    {
      **{"row": p, "i": int(rows.label[p]), "true": names[rows.label[p]]},
      "forget": bool(rows.forget[p]),
      "x": [_short(at[:, p, 0]) for at in layouts],
      "y": [_short(at[:, p, 1]) for at in layouts],
      "pred": predicted[p].tolist(),
    }
    for p in range(len(rows.label))
  ]
  cka = np.stack([np.asarray(r.cka, float) for r in records], -1)
  found["layers"] = [
    {"ref": ref, "group": group, "layer": layer, "cka": _short(cka[ref, g, at])}
    for ref in range(len(cka))
    for g, group in enumerate(("forget", "retain"))
    for at, layer in enumerate(layers)
  ]
  signals = np.stack([np.asarray(r.signals, float) for r in records], -1)
  ends = ((0.0, 2.499), (-2.5, 9.999))
  clipped = [np.clip(s, *end) for s, end in zip(signals, ends)]
  found["scores"] = [
    {"row": int(p), "s": [_short(s[p]) for s in clipped]}
    for p in np.flatnonzero(rows.forget)
  ]
  curves = [
    np.stack(leaf, -1) for leaf in zip(*(r.privacy.curves for r in records))
  ]
  found["curves"] = [
    {
      **{"feature": i, "direction": j, "at": k, "t": _short(curves[0][i, j, k, :1])[0]},
      **{n: _short(v[i, j, k]) for n, v in zip(("fpr", "fnr", "score"), (curves[1], curves[2], curves[4]))},
    }
    for i, j, k in np.ndindex(curves[0].shape[:3])
  ]  # fmt: skip
  attacks = list(dict.fromkeys(name for m in models for name in m.rocs))
  found["rocs"] = [
    {"of": of, "attack": attacks.index(name), "order": k, "fpr": x, "tpr": y}
    for of, model in enumerate(models)
    for name, curve in model.rocs.items()
    for k, (x, y) in enumerate(zip(*map(_short, _thin_curve(*curve))))
  ]
  return found


def embeddings(records: Sequence[Any]) -> list[np.ndarray]:
  """Rows of all models on the same axes [M, P, 2], each axis within 0 and 1.

  Principal components of the logarithms of what all models answer, and UMAP where
  the extra `umap` is there, with 9 neighbours, a least distance of 0.45 and seed
  42 as in the paper's code. That takes the last activations, which of models that
  were trained apart have no axes in common; answers have.
  """
  from sklearn.decomposition import PCA

  stacked = np.stack([np.asarray(r.logits, np.float64) for r in records])
  stacked = stacked - stacked.max(-1, keepdims=True)
  stacked -= np.log(np.exp(stacked).sum(-1, keepdims=True))
  whole = np.isfinite(stacked).all((1, 2))
  flat = stacked[whole].reshape(-1, stacked.shape[-1])
  reducers: list[Any] = [PCA(2, svd_solver="covariance_eigh")]
  try:
    from umap import UMAP
  except ImportError:
    pass
  else:
    reducers.append(
      UMAP(n_neighbors=9, min_dist=0.45, init="pca", random_state=42, n_jobs=1)
    )
  found = []
  for reducer in reducers:
    made = np.full((*stacked.shape[:2], 2), np.nan)
    at = reducer.fit_transform(flat)
    low, high = at.min(0), at.max(0)
    made[whole] = ((at - low) / np.maximum(high - low, 1e-12)).reshape(
      -1, stacked.shape[1], 2
    )
    found.append(made)
  return found


def thinned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
  step = max(1, -(-len(rows) // STATIC_ROWS))
  return rows[::step]


def _thin_curve(fpr: Any, tpr: Any) -> tuple[Any, Any]:
  at = np.linspace(0, len(fpr) - 1, min(len(fpr), 60)).round().astype(int)
  return np.asarray(fpr)[at], np.asarray(tpr)[at]


def cards(models: Sequence[Compared], rows: ComparedRows) -> dict[str, Any]:
  """What is shown of a row that is picked: its picture, probabilities, columns.

  Probabilities are at temperature 2, in 255 steps; there are none where they
  would take more than a million.
  """
  made: dict[str, Any] = {
    "ids": [charts.clean(i) for i in np.asarray(rows.id).tolist()],
    "columns": {
      charts.clean(name): [charts.clean(v) for v in np.asarray(values).tolist()]
      for name, values in rows.columns.items()
    },
  }
  logits = np.stack([np.asarray(m.record.logits, float) for m in models])
  if logits.size <= 1_000_000:
    shifted = np.exp((logits - logits.max(-1, keepdims=True)) / 2)
    shares = np.nan_to_num(shifted / shifted.sum(-1, keepdims=True))
    steps = np.round(255 * shares).astype(np.uint8)
    made["chances"] = base64.b64encode(steps.tobytes()).decode()
  if rows.images is not None:
    made |= _sprite(np.asarray(rows.images, float))
  return made


def _sprite(images: np.ndarray) -> dict[str, Any]:
  """All pictures as one, 40 in a line, made smaller until it is small enough."""
  while images.size > _PIXELS and min(images.shape[1:3]) > 8:
    images = images[:, ::2, ::2]
  images = images[..., 0] if images.shape[3:] == (1,) else images
  count, height, width = images.shape[:3]
  lines = -(-count // 40)
  blank = np.zeros((40 * lines - count, *images.shape[1:]))
  grid = np.concatenate([images, blank]).reshape(lines, 40, *images.shape[1:])
  whole = grid.swapaxes(1, 2).reshape(
    lines * height, 40 * width, *images.shape[3:]
  )
  return {"sprite": charts.data_url(whole), "size": [height, width]}


def _short(values: Any) -> list[float | None]:
  """Numbers of four digits, null for what is not finite."""
  return [
    round(float(v), 4) if np.isfinite(v) else None for v in np.ravel(values)
  ]
