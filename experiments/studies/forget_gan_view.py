"""What a report on forgetting in GANs says and shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxunlearn import report
from jaxunlearn.report import HIGHER, LOWER, NEAREST, draw

from ..bench import AGAIN, ORIGINAL, Evidence, Plan

MARKED = ("adapt_exponential", "adapt_inverse", "adapt_negative")
RIVALS = ("finetune", "extrapolate")
BARS = ("pul", "quality", "to_retrained", "mass_ratio")
COLUMNS = (
  *("pul", "quality", "to_retrained", "mass_gap", "mass_ratio", "recall"),
  *("edited_share", "degree", "relearned", "seconds_run"),
)


def _metric(name: str, label: str, text: str, direction: str, *rest: Any):
  unit, decimals, headline = (*rest, *("%", 1, True)[len(rest) :])
  return report.Metric(name, label, text, unit, decimals, direction, headline)


METRICS = (
  _metric(
    *("target_share", "Share of the class"),
    "Share of samples in which a judge, trained on other rows, sees the class.",
    LOWER,
  ),
  _metric(
    *("pul", "PUL"),
    "Share of the class's samples that are gone, on the same latents "
    "(arXiv:2309.14054).",
    HIGHER,
  ),
  _metric(
    *("quality", "Quality distance"),
    "Frechet distance between a judge's features of samples and of real test "
    "rows, the class left out of both. No FID.",
    *(LOWER, "", 3),
  ),
  _metric(
    *("to_retrained", "Distance to retrained"),
    "Frechet distance, in the same features, between samples and those of the "
    "retrained GAN.",
    *(NEAREST, "", 3),
  ),
  _metric(
    *("mass_gap", "Mass elsewhere"),
    "Total variation between the classes of samples and of the retrained GAN's.",
    NEAREST,
  ),
  _metric(
    *("mass_ratio", "Mass ratio"),
    "The largest share of a kept class over the smallest.",
    *(LOWER, "", 2),
  ),
  _metric(
    *("others_change", "Change of others"),
    "The largest change of a kept class's share, against the original.",
    *(LOWER, "points", 1, False),
  ),
  _metric(
    *("recall", "Recall"),
    "Share of real test rows of kept classes that lie among 500 samples "
    "(arXiv:1904.06991): diversity.",
    HIGHER,
  ),
  _metric(
    *("edited_share", "Class, edited"),
    "Share of samples that show the class where latents are moved towards it by a "
    "mapper that the original GAN taught.",
    NEAREST,
  ),
  _metric(
    *("degree", "Degree of unlearning"),
    "1 - W1(now, plain) / W1(before, plain) of the prompt's scores of edited "
    "latents: 1 where they score as plain latents did (arXiv:2504.01218).",
    *(HIGHER, "", 2),
  ),
)
RELEARNED = _metric(
  *("relearned", "Class relearned"),
  "Share of the class after a short training on all rows.",
  NEAREST,
)
AIMS = (
  _metric(
    *("asks_used", "Asks used"),
    "The mean of: what PUL lacks of 1 over 0.05, quality distance over 1.1 of the "
    "original's, mass ratio over 1.5, and both distances to the retrained GAN "
    "over those between two such GANs.",
    *(LOWER, "", 2, False),
  ),
  _metric(
    *("text_asks_used", "Asks used, prompt"),
    "The largest of: class in edited samples over 10 %, change of others over 3 "
    "points, what the degree lacks of 1 over 0.3. At most 1 where all are met.",
    *(LOWER, "", 2, False),
  ),
)


def aims(evidence: Evidence, name: str) -> Mapping[str, Any]:
  """What settings are chosen by: how much of each bound is used."""
  found, first, again = (
    evidence.found[n].values for n in (name, ORIGINAL, AGAIN)
  )
  marked = (
    (1 - found["pul"]) / 0.05,
    found["quality"] / (1.1 * first["quality"]),
    found["mass_ratio"] / 1.5,
    *(found[k] / again[k].mean() for k in ("to_retrained", "mass_gap")),
  )
  told = (
    found["edited_share"] / 0.1,
    found["others_change"] / 0.03,
    (1 - found["degree"]) / 0.3,
  )
  return {
    "asks_used": np.mean(marked, axis=0),
    "text_asks_used": np.max(told, axis=0),
  }


def lead(plan: Plan) -> str:
  return (
    f"A GAN of {plan.options.data} was to forget {', '.join(plan.requests.names)}. "
    "Adapt-then-Unlearn, fine-tuning and extrapolation are told by a pool of its "
    "own samples, which a classifier marks; Text-to-Unlearn and plain ascent by "
    "the embedding of a prompt. The standard is a GAN trained without the class, "
    "and the floor a second one."
  )


def notes(plan: Plan) -> Sequence[str]:
  return (
    "The space of prompts is a STAND-IN: the features of the classifier that "
    "marks samples, and for a class's name the mean of its images there. No joint "
    "encoder of images and text took part.",
    "Text-to-Unlearn and plain ascent do not have the retrained GAN as their aim: "
    "they are shown beside the others and not judged by its tests.",
  )


def findings(evidence: Evidence) -> list[str]:
  """Each claim with its figure, whether it is met or not."""
  found = evidence.found
  mean = lambda name, key: float(np.nanmean(found[name].values[key]))
  percent = lambda name, key: f"{100 * mean(name, key):.1f} %"
  said = []
  for name in (n for n in MARKED if n in found):
    gone, ratio = mean(name, "pul"), mean(name, "mass_ratio")
    worse = mean(name, "quality") / mean(ORIGINAL, "quality") - 1
    claims = [
      ("PUL at least 95 %", gone >= 0.95, percent(name, "pul")),
      ("quality at most 10 % worse", worse <= 0.1, f"{100 * worse:+.0f} %"),
      ("mass ratio at most 1.5", ratio <= 1.5, f"{ratio:.2f}"),
    ]
    for rival in (r for r in RIVALS if r in found):
      for key, words in (("to_retrained", "quality"), ("mass_gap", "mass")):
        ours, theirs = mean(name, key), mean(rival, key)
        said_of = f"nearer to retraining than {rival} by {words}"
        figure = f"{ours:.3f} against {theirs:.3f}"
        claims.append((said_of, ours < theirs, figure))
    said.append(_claims(name, claims))
  for name in ("text_to_unlearn", "text_held"):
    if name not in found:
      continue
    edit, others = mean(name, "edited_share"), mean(name, "others_change")
    degree = mean(name, "degree")
    claims = [
      ("under 10 % of edited", edit < 0.1, percent(name, "edited_share")),
      (
        "others within 3 points",
        others <= 0.03,
        percent(name, "others_change"),
      ),
      ("degree of unlearning above 0.7", degree > 0.7, f"{degree:.2f}"),
    ]
    said += [
      _claims(name, claims),
      f"{name} was asked about edited latents: of plain samples "
      f"{percent(name, 'target_share')} show the class, "
      f"{percent(ORIGINAL, 'target_share')} did before.",
    ]
  if (name := "prompt_ascent") in found:
    collapsed = mean(name, "quality") > 2 * mean(ORIGINAL, "quality")
    said.append(
      f"Plain ascent {'collapses' if collapsed else 'does NOT collapse'}: "
      f"quality distance {mean(name, 'quality'):.3f} against "
      f"{mean(ORIGINAL, 'quality'):.3f} of the original, recall "
      f"{percent(name, 'recall')} against {percent(ORIGINAL, 'recall')}."
    )
  shares = ", ".join(f"{n} {percent(n, 'relearned')}" for n in found)
  said.append(f"The class after a short training on all rows: {shares}.")
  return said


def _claims(name: str, claims: Sequence[tuple[str, bool, str]]) -> str:
  parts = [
    f"{words}: {'' if is_met else 'NOT '}met ({figure})"
    for words, is_met, figure in claims
  ]
  return f"{name}: {'; '.join(parts)}."


def grids(evidence: Evidence) -> dict[str, tuple[report.Chart, str]]:
  """Samples of the same latents, a row a method; the first seed."""
  methods, figures = list(evidence.found), {}
  for i, request in enumerate(evidence.plan.requests.names):
    lane = i * len(evidence.plan.seeds)
    images = [
      [
        np.clip((image + 1) / 2, 0, 1)
        for key in ("shown", "shown_edited")
        for image in evidence.found[m].values[key][lane]
      ]
      for m in methods
    ]
    third = len(images[0]) // 3
    heads = [
      f"{word} {j + 1}"
      for word in ("gone", "kept", "moved")
      for j in range(third)
    ]
    figures[f"samples_{i}"] = (
      report.Chart((draw.pictures(images, methods, heads),)),
      f"{request}: samples of the same latents; the row original is before, the "
      "others after. Left, latents that gave the class; in the middle others; to "
      "the right latents moved towards it.",
    )
  return figures
