"""ROCR on a language model, its settings chosen on other subjects; see `guard_text`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxunlearn as ju
from jaxunlearn import language
from jaxunlearn.language.rows import encode_documents
from jaxunlearn.language.types import Text
from jaxunlearn.metrics.forms import FORMS, form_independence

from ..datasets.capitals import CAPITALS
from .guard_text_forms import EXAMPLE, ask

_TARGET = "Donald Trump"  # As in the released settings.
# The beginning of a text in this model's chat format, and a space: see `subjects`.
_PREFIX = "<|im_start|> "
# How directions are weighed, by how much, and the ridge: the share of directions that
# ordinary text uses least, as published but for the number; or softly, see
# `null_projector`, by a threshold.
SETTINGS = (
  ("hard", 0.5, 0.01),
  ("hard", 0.1, 1.0),
  ("soft", 1e-3, 1e-4),
  ("soft", 2e-4, 1e-4),
)
ABOUT = (
  "My friends from {0} flew home to {0}.",
  "The history of {0} is long, and its people are proud. Trade with {0} grew.",
  "In 1990 the government of {0} signed a treaty. It is said that {0} is beautiful.",
  "She wrote a book about {0}. He lives in {0} with his family.",
  "The largest cities of {0} and its rivers are shown on a map of {0}.",
  "{0} is a country, and the capital city of {0} is well known.",
)


def ordinary_text(
  tokenizer: Any, pairs: Any, count: int, countries: Sequence[str]
) -> Text:
  """Answers of TOFU, and sentences on countries, as an encyclopaedia has them."""
  step = max(1, len(pairs.answers) // max(count, 1))
  answers = pairs.answers[::step][:count]
  about = [form.format(c) for c in countries for form in ABOUT]
  return encode_documents(tokenizer, [*answers, *about], max_length=48)[0]


def redirect(
  lm: Any,
  variables: Any,
  tokenizer: Any,
  forget: Sequence[str],
  windows: Sequence[tuple[int, int]],
  ordinary: Text,
) -> dict[str, Any]:
  """In all forms, beside neighbours; settings are chosen on other subjects.

  Args:
    lm: the model.
    variables: its values.
    tokenizer: its own.
    forget: names.
    windows: first and last blocks that may be edited, of which one is chosen.
    ordinary: text that edits leave alone; see `split`.
  """
  parts = split(forget)
  first, last = min(a for a, _ in windows), max(b for _, b in windows)
  moments = jax.jit(
    lambda v: language.key_moments(
      lm, v, ordinary, range(first, last + 1), chunk_size=8
    )
  )(variables)
  values, vectors = jax.jit(jnp.linalg.eigh)(moments)
  size = values.shape[-1]
  programs: dict[tuple[int, int], Any] = {}

  def edited(
    window: Any, kind: str, level: float, ridge: float, names: Any
  ) -> Any:
    if window not in programs:
      a, b = window
      of = slice(a - first, b - first + 1)
      programs[window] = jax.jit(
        lambda v, weights, ridge, names: language.rocr(
          lm,
          jnp.einsum("nmd,nd,nkd->nmk", vectors[of], weights[of], vectors[of]),
          range(a, b + 1),
          ridge=ridge,
        )(v, None, ju.Request(concept=names), jax.random.key(0))
      )
    soft = level / (level + jnp.maximum(values, 0))
    least = jnp.broadcast_to(
      jnp.arange(size) < round(level * size), values.shape
    )
    weights = jnp.where(kind == "soft", soft, least.astype(values.dtype))
    return programs[window](variables, weights, jnp.float32(ridge), names)

  def looker(part: str) -> Any:
    subjects, near, unnamed = parts[part]
    names = language.subjects(
      tokenizer, subjects, _TARGET, max_length=16, prefix=_PREFIX
    )
    names = jax.tree.map(jnp.asarray, names)
    asked, kept = (ask(lm, tokenizer, e) for e in (subjects, [*near, *unnamed]))
    before, stays = asked(variables), kept(variables)

    def look(window: Any, *setting: Any) -> dict[str, Any]:
      began = time.perf_counter()
      made, shares = jax.block_until_ready(edited(window, *setting, names))
      seconds = time.perf_counter() - began  # The first compiles.
      forms = form_independence(asked(made), before)
      moved = kept(made) - stays
      lost = lambda p: float(jnp.abs(p.mean(axis=1)).max())
      return {
        "part": part,
        "blocks": f"{window[0]} to {window[1]}",
        **dict(zip(("directions", "level", "ridge"), setting)),
        "share_of_way": float(shares.mean()),
        "seconds_for_all": seconds,
        **dict(zip(FORMS, map(float, forms.kept))),
        "gap": float(forms.gap),
        "neighbours": lost(moved[:, : len(near)]),
        "neighbours_unnamed": lost(moved[:, len(near) :]),
        "all_fall": bool((forms.kept < 1).all()),
      }

    return look, before, stays

  look, _, _ = looker("chosen on")
  tried = [
    ((window, *setting), look(window, *setting))
    for window in windows
    for setting in SETTINGS
  ]
  setting = min(tried, key=lambda pair: _cost(pair[1]))[0]
  look, before, stays = looker("reported")
  mean = lambda p: dict(zip(FORMS, map(float, p.mean(axis=1))))
  return {
    "before": {"subjects": mean(before), "neighbours": mean(stays)},
    "tokens": int(ordinary.length.sum()),
    "under_published_threshold": (np.asarray(values) < 2e-2)
    .mean(axis=1)
    .tolist(),
    "tried": [row for _, row in tried],
    "reported": look(*setting),
  }


def split(forget: Sequence[str]) -> dict[str, tuple[list[str], ...]]:
  """Subjects and two kinds of neighbours, to report and to choose settings on.

  Ordinary text names those of the first kind, as an encyclopaedia does, and none of
  the second, nor subjects: "named" has the names.
  """
  others = [c for c in CAPITALS if c not in (*forget, EXAMPLE)]
  take = lambda count: [others.pop(0) for _ in range(min(count, len(others)))]
  parts = {
    "reported": (list(forget), take(4), take(3)),
    "chosen on": (take(3), take(3), take(2)),
  }
  return {
    **parts,
    "named": ([*others, *parts["reported"][1], *parts["chosen on"][1]],),
  }


def holds(row: dict[str, Any]) -> bool:
  """What the paper claims, at the issue's bound."""
  return row["all_fall"] and row["neighbours"] <= 0.05


def _cost(row: dict[str, Any]) -> tuple[bool, float]:
  """Settings that hold first; then what is kept of forms and lost beside them."""
  kept = np.mean([row[form] for form in FORMS])
  return not holds(row), kept + row["neighbours"]
