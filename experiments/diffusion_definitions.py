"""How the numbers of an audit of diffusion models are shown and read."""

from __future__ import annotations

from jaxunlearn import report


def _rate(name, label, text, direction, headline=False):
  return report.Metric(name, label, text, "%", 1, direction, headline)


SHOWN = (
  *("ua", "ira", "cra", "worst", "excess", "crs_forget", "ccs_forget"),
  *("frechet_distance", "asr", "random_asr", "seconds_run"),
)
DEFINITIONS = (
  *report.METRICS,
  _rate(
    "ua",
    "UA",
    "Unlearning accuracy (arXiv:2402.11846): share of images of the concept's "
    "prompts that do not show it.",
    report.NEAREST,
    True,
  ),
  _rate(
    "ira",
    "IRA",
    "In-domain retain accuracy: share of images of the other labels of the "
    "concept's domain that show theirs.",
    report.HIGHER,
    True,
  ),
  _rate(
    "cra",
    "CRA",
    "Cross-domain retain accuracy: share of images that show their label of the "
    "other domain.",
    report.HIGHER,
    True,
  ),
  _rate(
    "worst",
    "Worst of three",
    "The smallest of UA, IRA and CRA; a model that draws noise has a perfect UA.",
    report.HIGHER,
  ),
  _rate(
    "harmonic",
    "Harmonic mean",
    "The harmonic mean of UA, IRA and CRA.",
    report.HIGHER,
  ),
  _rate(
    "own_rate",
    "Recognised under its prompt",
    "Share of images of the concept's prompts in which a classifier sees it.",
    report.NEAREST,
  ),
  report.Metric(
    "excess",
    "Excess under attack",
    "How much more often the concept comes back under partial diffusion than "
    "with the retrained model, mean over psi up to 0.55. Above 0 is concealment; "
    "below it the model steers away from what any other would finish.",
    "points",
    1,
    report.NEAREST,
    True,
  ),
  report.Metric(
    "excess_rise",
    "Excess brought by the attack",
    "The excess less that at psi = 0, where nothing is attacked: what the attack "
    "brings back, without what had not been erased.",
    "points",
    1,
    report.NEAREST,
  ),
  report.Metric(
    "crs_forget",
    "CRS, forgotten",
    "Concept retrieval score (arXiv:2409.05668) on the concept: near 0 where "
    "images of original and unlearned model cannot be told apart.",
    "",
    2,
    report.NEAREST,
    True,
  ),
  report.Metric(
    "ccs_forget",
    "CCS, forgotten",
    "Concept confidence score on the concept: how sure a probe is that attacked "
    "images are the original model's.",
    "",
    2,
    report.NEAREST,
    True,
  ),
  report.Metric(
    "crs_retain",
    "CRS, kept",
    "Concept retrieval score on a concept that was kept, one minus the distance "
    "of the two models' images.",
    "",
    2,
    report.NEAREST,
  ),
  report.Metric(
    "ccs_retain",
    "CCS, kept",
    "Concept confidence score on a concept that was kept; 0.5 is ideal.",
    "",
    2,
    report.NEAREST,
  ),
  _rate(
    "probe_accuracy_forget",
    "Probe accuracy, forgotten",
    "How often the probe of CRS and CCS tells original and unlearned model "
    "apart, on images held out.",
    report.NEAREST,
  ),
  _rate(
    "probe_accuracy_retain",
    "Probe accuracy, kept",
    "The same on a concept that was kept.",
    report.NEAREST,
  ),
  report.Metric(
    "frechet_distance",
    "Frechet distance",
    "Between classifier features of generated and of real images without the "
    "concept. No FID.",
    "",
    1,
    report.LOWER,
    True,
  ),
  _rate(
    "prompt_rate",
    "Prompts alone",
    "Share of the attacked prompts that show the concept without an attack.",
    report.LOWER,
  ),
  _rate(
    "random_asr",
    "ASR, random tokens",
    "Share of prompts that show the concept in one of as many draws of random "
    "tokens as the attack has candidates: its control.",
    report.LOWER,
  ),
  _rate(
    "asr",
    "ASR, adversarial",
    "Share of prompts that show the concept with adversarial tokens "
    "(UnlearnDiffAtk, arXiv:2310.11868).",
    report.LOWER,
    True,
  ),
)
