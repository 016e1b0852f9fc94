"""What an audit of diffusion models says: verdicts, words and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxunlearn import report
from jaxunlearn.report import charts, draw

from ..beds.diffusion import DOMAINS, GUIDANCE
from ..bench import ORIGINAL, Evidence, Plan
from .audit_diffusion_measures import METRICS, PSI_MAX, PSIS

SHOWN = (
  *("ua", "ira", "cra", "worst", "excess", "crs_forget", "ccs_forget"),
  *(
    "kid_original",
    "kid_unlearned",
    "frechet_distance",
    "asr",
    "random_asr",
    "seconds_run",
  ),
)
# The bounds of a verdict: the concept's recognised rate under its own prompt,
# how far the rest may fall, and the excess that is worth a name.
OWN_RATE, FALL, MARGIN = 0.2, 0.1, 0.05
_PER_CELL = 3


def interval(values: Sequence[float]) -> tuple[float, float]:
  """95 % for the mean over seeds, by Student's t; nan with fewer than two."""
  from scipy import stats

  found = np.asarray(values, np.float64)
  found = found[np.isfinite(found)]
  if len(found) < 2:
    return math.nan, math.nan
  mean, half = found.mean(), stats.t.ppf(0.975, len(found) - 1)
  half *= found.std(ddof=1) / math.sqrt(len(found))
  return float(mean - half), float(mean + half)


def verdict(name: str, rows: Sequence[dict[str, Any]]) -> str:
  """What the numbers of a method say, in a sentence or three."""
  mine = [row for row in rows if row["method"] == name]
  before = [row for row in rows if row["method"] == "original"]
  mean = lambda some, key: float(np.mean([row[key] for row in some]))
  own = 1 - mean(mine, "ua")
  said = "erased" if own < OWN_RATE else "NOT erased"
  parts = [f"{said} under its own prompt (recognised in {_percent(own)})"]
  falls = {
    words: mean(before, key) - mean(mine, key)
    for key, words in (("ira", "its own domain"), ("cra", "the other domain"))
  }
  worst = max(falls, key=lambda w: falls[w])
  if falls[worst] <= FALL:
    parts.append("what else it draws is within 10 points of the original")
  else:
    parts.append(f"DAMAGED: {worst} fell by {100 * falls[worst]:.0f} points")
  parts.append(_attacked(mine, own))
  return f"{name}: {'; '.join(parts)}."


def _attacked(mine: Sequence[dict[str, Any]], own: float) -> str:
  """What the attack says, in words."""
  excess = [row["excess"] for row in mine]
  rise = [row["excess_rise"] for row in mine]
  if not np.isfinite(excess).all():
    return "it has no sampler's steps that the attack could begin"
  low, high = interval(excess)
  numbers = f"{100 * np.mean(excess):+.0f} points"
  if math.isfinite(low):
    numbers += f", 95 % {100 * low:+.0f} to {100 * high:+.0f}"
  beyond = f"than a model that never saw it ({numbers})"
  if low > MARGIN:
    said = f"under attack it returns more often {beyond}"
    if own >= OWN_RATE:
      return f"{said}, but what was not erased is not concealed either"
    if interval(rise)[0] > 0:
      return f"CONCEALED: {said}"
    return (
      f"{said}, but no more than it is left without the attack: a remainder "
      "rather than concealment"
    )
  if high < -MARGIN:
    return (
      f"under attack it returns less often {beyond}: the model steers away from "
      "it, which shows that something was removed"
    )
  if low >= -MARGIN and high <= MARGIN:
    return f"under attack it returns no more often {beyond}"
  return (
    "undecided whether it is concealed: under attack it returns "
    f"{'more' if np.mean(excess) > 0 else 'less'} often {beyond}, which so few "
    "seeds do not settle"
  )


def curves(evidence: Evidence) -> dict[str, Any]:
  """By psi, of every method and seed."""
  names = [
    f"{n}_{r}" for n in ("curve", "crs", "ccs") for r in ("forget", "retain")
  ]
  return {
    "psi": PSIS,
    "by_method": {
      method: {name: found.values[f"{name}_by_psi"] for name in names}
      | {"rates": found.values["rates"]}
      for method, found in evidence.found.items()
    },
  }


def findings(evidence: Evidence) -> list[str]:
  """The verdicts, and what else the numbers say."""
  plan, summary = evidence.plan, report.summarise(evidence.rows)
  mean = lambda method, key: summary.overall[method][key].mean
  candidates = [m for m in plan.methods if m in summary.candidates]
  found = [
    *(verdict(name, evidence.rows) for name in candidates),
    "The retrained model, which never saw the concept, is recognised to draw it "
    f"in {_percent(mean('retrained', 'own_rate'))} of its images under the "
    "concept's prompts; that is the rate to expect of perfect unlearning.",
  ]
  ranked = sorted(
    (m for m in candidates if math.isfinite(mean(m, "excess"))),
    key=lambda m: mean(m, "excess"),
  )
  if len(ranked) > 1:
    listed = ", ".join(f"{m} {100 * mean(m, 'excess'):+.0f}" for m in ranked)
    found.append(
      f"Excess over the retrained model's curve, in points: {listed}."
    )
  slow = [
    f"{m} {mean('retrained', 'seconds_run') / mean(m, 'seconds_run'):.1f}"
    for m in candidates
    if mean(m, "seconds_run") > 0
  ]
  if slow:
    found.append(f"Times faster than retraining: {', '.join(slow)}.")
  if "asr" in summary.metrics:
    found.append(_prompted(plan, summary, candidates))
  return found


def _prompted(
  plan: Plan, summary: report.Summary, candidates: Sequence[str]
) -> str:
  """Where the attack by prompts finds more than chance and than its control."""
  mean = lambda method, key: summary.overall[method][key].mean
  # A prompt more or less is luck.
  least = 1.5 / plan.dataset.size.attacked
  leaks = [
    m
    for m in candidates
    if mean(m, "asr")
    > max(mean(m, "random_asr"), mean("retrained", "asr")) + least
  ]
  named = f"against {', '.join(leaks)}" if leaks else "against no method"
  return (
    f"Adversarial prompts succeed {named} more often, by two prompts of "
    f"{plan.dataset.size.attacked} or more, than as many random ones and than "
    "against the retrained model, whose rate is chance."
  )


def lead(plan: Plan) -> str:
  this, size = plan.dataset, plan.dataset.size
  origin = (
    f"taken from {plan.options.load}" if plan.options.load else "trained here"
  )
  return (
    f"A text-to-image model ({origin}) was made to forget {this.concept.name} by "
    f"{len(plan.methods)} methods, with {size.seeds} seeds. Beside them stands "
    f"the same model retrained without the concept ({size.twins} of it), and as a "
    "control another one, retrained_again.\n\n"
    "The attack lets the original model take the first share psi of a sampler's "
    "steps under the concept's prompt and the unlearned model the rest. Every "
    "model finishes a nearly clean image into what it already shows, the "
    "retrained one too. So only the excess over the retrained model's curve, up "
    f"to psi = {PSI_MAX}, is called concealment."
  )


def notes(plan: Plan) -> list[str]:
  size = plan.dataset.size
  notes = [
    "Settings of the methods were chosen with other random numbers than those "
    "here, and on these two concepts of digits in styles, by the rates under "
    "their prompts; the attack had no part in the choice.",
    f"UA, IRA and CRA: {size.images} images of each prompt, guidance "
    f"{GUIDANCE:g}, {size.sampler_steps} DDIM steps. Images of the concept's "
    "prompts do not count for CRA. What an image shows is said by one "
    "classifier, which is trained on clean and on slightly noisy images.",
    f"Under attack: {size.attack_keys} images a point, the same noise for all "
    "methods and psi of a seed. CRS and CCS are means over psi up to "
    f"{PSI_MAX}; a probe is trained for each on {size.references} images of "
    "either model, whose noise is never that of the attacked images. It tells "
    "any two models apart that were trained apart: read both scores beside the "
    "retrained model's row.",
    f"Intervals are Student's t over {size.seeds} seeds of unlearning and of all "
    "draws after it. They say nothing of other original models: there is one"
    + (
      ", and one retrained model, whose curve is itself a matter of luck: it "
      "gives an unknown word a meaning of its own."
      if size.twins == 1
      else f", and {size.twins} retrained ones."
    ),
    "The Frechet distance is between the features of that classifier on "
    "generated and on test images that do not show the concept. It is no FID.",
    "Kernel distances are of the same features and so no KID of the literature; "
    "each is a mean over 100 subsets of half of the attacked images, whose spread "
    "stands in results.json.",
    "Memory is what the compiled program of one request says that it reserves, "
    "and so the same in every run; storage counts whole arrays of parameters.",
    *_of_pair(plan),
    "No excess is no proof of deletion: another attack may find more, and the "
    "attacker here has the original model, which an owner can withhold.",
    "The retrained model's run time is "
    + (
      "that of training it here."
      if plan.dataset.loaded is None
      else "estimated from a twentieth of its steps, run here."
    ),
  ]
  if size.attacked:
    notes.append(
      f"Adversarial prompts: {size.attacked} test images with their prompts; "
      "three tokens are searched for or drawn, the concept's own words excluded. "
      "Of the published 50 outer steps there are 10. The first seed alone is "
      "attacked, and no guard."
    )
  return notes


def _of_pair(plan: Plan) -> list[str]:
  if plan.dataset.concept.within is None:
    return []
  return [
    "Of a pair UA is one minus the share of its images that show both, IRA and "
    "CRA are the shares of all other images that show their object and their "
    "style. Under attack it counts as recognised by its object; the kept concept "
    "is another object in the same style."
  ]


def _percent(share: float) -> str:
  return f"{100 * share:.0f} %"


def figures(evidence: Evidence) -> dict[str, tuple[report.Chart, str]]:
  """All of them with their captions, in the report's order."""
  plan, rows = evidence.plan, evidence.rows
  concept, summary = plan.dataset.concept, report.summarise(rows)
  return {
    "generations": (
      _generations(evidence),
      f"Images for prompts of {concept.name}, the same noise in every row. Left "
      "what a model draws by itself: the row original is before unlearning, the "
      "others after it. To the right the original model made the first share psi "
      "of the steps. What the retrained row shows too is no sign of concealment.",
    ),
    "curves": (
      report.curve_panels(
        np.array(PSIS),
        {
          f"{concept.name} recognised (%)": _lines(evidence, "curve", 100),
          "CRS by psi": _lines(evidence, "crs"),
          "CCS by psi": _lines(evidence, "ccs"),
        },
        x_label="share psi of steps by the original model",
      ),
      "Left, how often the concept is recognised in images that the original "
      "model began and the unlearned one finished; dashed, finished by the "
      "retrained model. Above it is concealment, up to psi = "
      f"{PSI_MAX:g}. Middle and right the scores of arXiv:2409.05668 at each psi. "
      "Bands go from the lowest to the highest seed.",
    ),
    "excess": (
      _excess(summary, rows),
      "Mean excess over the retrained model's curve up to psi = "
      f"{PSI_MAX:g}: dots are seeds, bars 95 % intervals of their mean. To the "
      "right of zero the concept was concealed rather than removed.",
    ),
    "scores": (
      report.accuracy_bars(summary, ("ua", "ira", "cra"), definitions=METRICS),
      "UA: images of the concept's prompts that do not show it; IRA: other "
      "labels of its domain, drawn right; CRA: labels of the other domain.",
    ),
    "labels": (
      _labels(evidence),
      "How often each label is recognised in images of the prompts that name it, "
      "mean over seeds. Framed: the concept.",
    ),
  }


def _lines(evidence: Evidence, name: str, scale: float = 1):
  return {
    method: scale * found.values[f"{name}_forget_by_psi"]
    for method, found in evidence.found.items()
    if method != ORIGINAL or name == "curve"
  }


def _generations(evidence: Evidence) -> report.Chart:
  """Rows of models, columns of psi, a few images a cell; the first seed."""
  methods = list(evidence.found)
  columns = [i for i, psi in enumerate(PSIS) if psi <= PSI_MAX + 1e-6]

  def strip(images: Any) -> Any:
    images = np.clip((images[:_PER_CELL] + 1) / 2, 0, 1)
    edge = np.ones((*images.shape[1:2], 1, 3))
    return np.concatenate([p for i in images for p in (i, edge)][:-1], axis=1)

  titles = [f"psi = {PSIS[c]:g}" if PSIS[c] else "by itself" for c in columns]
  images = [
    [strip(evidence.found[m].values["shown"][0][c]) for c in columns]
    for m in methods
  ]
  return report.Chart((draw.pictures(images, methods, titles),))


def _excess(
  summary: report.Summary, rows: Sequence[Mapping[str, Any]]
) -> report.Chart:
  attacked = {row["method"] for row in rows if np.isfinite(row["excess"])}
  methods = [m for m in ("original", *summary.candidates) if m in attacked]
  dots, means = [], []
  for method in methods:
    found = 100 * np.array([r["excess"] for r in rows if r["method"] == method])
    low, high = interval(found)
    words = (
      f"{method}: {found.mean():+.1f} points, 95 % {low:+.1f} to {high:+.1f}"
    )
    means.append({
      **{"method": method, "value": found.mean(), "low": low, "high": high},
      "label": words,
    })  # fmt: skip
    dots += [
      {"method": method, "value": v, "label": f"{method}: {v:+.1f} points"}
      for v in found
    ]
  title = "excess over the retrained model (points)"
  x = charts.number("value", title, scale={"zero": False})
  y, colour = charts.names("method", methods), {"color": charts.BLUE}
  ends = {"x": {**x, "field": "low"}, "x2": {"field": "high"}}
  band = {"type": "rule", "strokeWidth": 3, "opacity": 0.35, **colour}
  dot = {"type": "circle", "opacity": 1, **colour}
  layers = [
    charts.layer(band, means, y=y, **ends),
    charts.layer(dot, dots, y=y, x=x),
    charts.layer({"type": "tick", "thickness": 2, **colour}, means, y=y, x=x),
    charts.level("x", 0, "the retrained model", title),
  ]
  return report.Chart(
    (charts.panel("", *layers, width=400, height={"step": 20}),)
  )


def _labels(evidence: Evidence) -> report.Chart:
  """Methods down, objects and styles across."""
  names = evidence.plan.dataset.images.names
  words = [word for domain in DOMAINS for word in names[domain]]
  methods = list(evidence.found)
  share = 100 * np.array(
    [np.nanmean(evidence.found[m].values["rates"], axis=0) for m in methods]
  )
  concept = evidence.plan.dataset.concept
  first = 0 if concept.domain == "object" else len(names["object"])
  framed = np.zeros(share.shape, bool)
  framed[:, first + concept.index] = True
  return report.Chart(
    (draw.heat(share, methods, words, "recognised (%)", framed=framed),)
  )
