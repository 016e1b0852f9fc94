"""From what an audit found to its files and to the terminal."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments import audit_suite, common, relearning, study
from experiments import methods as methods_table
from jaxunlearn import attacks, report
from jaxunlearn.report import verdict as verdicts
from jaxunlearn.report.files import plain
from jaxunlearn.report.tables import Cell, Grid
from jaxunlearn.report.verdict import DAMAGE, TELLTALE, TRACE, Check

if TYPE_CHECKING:
  from experiments.options import Plan

DEFINITIONS = (
  *report.METRICS,
  report.Metric(
    "lira_auc",
    "LiRA AUC",
    "How often LiRA, a likelihood-ratio attack with shadow models, takes a "
    "forgotten row for a member rather than an unseen one.",
    headline=True,
  ),
  report.Metric(
    "lira_tpr_1_percent",
    "LiRA TPR at 1 % FPR",
    "Share of the forgotten rows that LiRA finds while it takes one unseen row "
    "in a hundred for a member.",
    "%",
    1,
  ),
  report.Metric(
    "rmia_auc",
    "RMIA AUC",
    "The same by RMIA, which compares with other rows as well.",
  ),
  report.Metric(
    "rmia_tpr_1_percent",
    "RMIA TPR at 1 % FPR",
    "The same by RMIA.",
    "%",
    1,
  ),
  report.Metric(
    "loss_auc",
    "Loss AUC",
    "How often a forgotten row has a lower loss than an unseen one.",
  ),
  report.Metric(
    "loss_tpr_1_percent", "Loss TPR at 1 % FPR", "The same by the loss.", "%", 1
  ),
  report.Metric(
    "u_lira_auc",
    "U-LiRA AUC",
    "How often an attacker with models of both kinds can tell from one "
    "forgotten row that the model was unlearned, not retrained; 0.5 is best.",
    headline=True,
  ),
  report.Metric(
    "forgetting_quality",
    "Forgetting quality",
    "The score of the 2023 unlearning challenge, before it is multiplied by "
    "accuracies. Its scale depends on the number of models: compare with the "
    "row of the retrained control.",
    direction=report.HIGHER,
  ),
  report.Metric(
    "epsilon",
    "Median epsilon",
    "Of the forgotten rows: how far the models of both kinds can be told apart, "
    "as in differential privacy. Bounded by the number of models.",
    "",
    2,
  ),
  report.Metric(
    "relearn_area",
    "Relearning curve",
    "What the model knows of the rows on average while it learns them again.",
  ),
  report.Metric(
    "knowledge",
    "Knowledge",
    "Accuracy on unseen rows of the forgotten classes; for other requests the "
    "mean probability of the label of the forgotten rows.",
  ),
  report.Metric(
    "quantized_knowledge",
    f"Knowledge at {audit_suite.QUANTIZED_BITS} bits",
    "The same after the weights are rounded, which can undo small changes.",
  ),
  report.Metric(
    "probe_accuracy",
    "Linear probe",
    "Accuracy of the best linear read-out of an inner layer on forgotten "
    "classes or rows. A retrained model's layers tell unseen classes apart too.",
    "%",
    1,
  ),
)
CONTROLS = ("original", "retrained")
_LEVEL = 0.95


class Rule(NamedTuple):
  """When a number counts as a difference to retraining."""

  metric: str
  words: str
  margin: float
  above: str = ""
  below: str = ""


RULES = (
  Rule(
    "forget_accuracy", "accuracy on the forgotten rows", 0.05, TRACE, TELLTALE
  ),
  Rule("lira_auc", "AUC of LiRA", 0.05, TRACE, TELLTALE),
  Rule("rmia_auc", "AUC of RMIA", 0.05, TRACE, TELLTALE),
  Rule("loss_auc", "AUC of the loss", 0.05, TRACE, TELLTALE),
  Rule("relearn_area", "relearning curve", 0.05, TRACE, TELLTALE),
  Rule("quantized_knowledge", "knowledge after rounding", 0.05, TRACE),
  Rule("probe_accuracy", "accuracy of the linear probe", 0.05, TRACE),
  Rule("retain_accuracy", "accuracy on the kept rows", 0.02, "", DAMAGE),
  Rule("test_accuracy", "test accuracy", 0.02, "", DAMAGE),
  # The other rules pass over a seed that has no number.
  Rule("is_finite", "share of models without nan", 0.01, "", DAMAGE),
)
_U_LIRA = Rule("u_lira_auc", "AUC of U-LiRA", 0.1, TELLTALE)


class Outcome(NamedTuple):
  """All that an audit found, by name of a model."""

  setup: audit_suite.Setup
  trained: Mapping[str, study.Trained]
  audits: Mapping[str, study.Audit]
  attacked: Mapping[str, audit_suite.Attacked]
  told: Mapping[str, audit_suite.Told | None]


class Shown(NamedTuple):
  """What the terminal shows."""

  summary: report.Summary
  sentences: list[str]


def write(folder: Path, plan: Plan, outcome: Outcome) -> Shown:
  """Writes results, tables, plots and report into a folder."""
  checks = all_checks(outcome)
  judged = {
    name: report.judge(found, control=checks["original"])
    for name, found in checks.items()
  }
  rows = _rows(plan, outcome)
  config = {
    **_config(plan, outcome),
    "verdicts": {
      name: {"outcome": v.outcome, "sentence": v.sentence, "reasons": v.reasons}
      for name, v in judged.items()
    },
  }
  results = report.Results(
    "audit",
    plan.options.preset,
    jax.__version__,
    common.device(),
    plain(config),
    rows,
  )
  summary = report.summarise(rows)
  sentences = _sentences(judged, checks)
  report.write_report(
    folder,
    results,
    figures=_figures(outcome),
    title=f"Audit: was {plan.options.request} of {plan.options.data} forgotten?",
    lead=_lead(plan, outcome),
    notes=_notes(plan, outcome),
    comparisons=[_tests(checks), _intervals(outcome)],
    verdicts=sentences,
    definitions=DEFINITIONS,
  )
  return Shown(summary, sentences)


def show(console: Console, shown: Shown, out: str) -> None:
  """The main table, the verdicts, and where the rest lies."""
  console.print(report.rich_table(shown.summary, definitions=DEFINITIONS))
  for sentence in shown.sentences:
    console.print(f"- {sentence}", markup=False, highlight=False)
  console.print(
    f"Report: {Path(out) / 'report.html'}", markup=False, soft_wrap=True
  )


def all_checks(outcome: Outcome) -> dict[str, list[Check]]:
  """The checks of every model but the retrained ones."""
  names = [name for name in outcome.attacked if name != "retrained"]
  return {name: _checks(outcome, name) for name in names}


def difference_interval(
  ours: np.ndarray, theirs: np.ndarray, *, one_model: bool = False
) -> tuple[float, float]:
  """A 95 % interval for how far models lie from the retrained ones.

  Args:
    ours: float [L], a seed each.
    theirs: float [L], of the retrained models of the same seeds.
    one_model: whether all of `ours` are the same model, which is then compared
      with the spread of single retrained models (a prediction interval) instead
      of the mean with the mean (a paired t interval).

  Returns:
    (low, high); infinite where fewer than two seeds have a value.
  """
  import scipy.stats

  usable = np.isfinite(ours) & np.isfinite(theirs)
  count = int(usable.sum())
  if count < 2:
    return -math.inf, math.inf
  differences = (ours - theirs)[usable]
  spread = differences.std(ddof=1)
  scale = math.sqrt(1 + 1 / count) if one_model else math.sqrt(1 / count)
  half = scipy.stats.t.ppf(0.5 + _LEVEL / 2, count - 1) * spread * scale
  middle = differences.mean()
  return float(middle - half), float(middle + half)


def _checks(outcome: Outcome, name: str) -> list[Check]:
  values, standard = _values(outcome, name), _values(outcome, "retrained")
  checks = []
  for rule in RULES:
    if rule.metric not in values:
      continue
    ours, theirs = values[rule.metric], standard[rule.metric]
    interval = difference_interval(ours, theirs, one_model=name == "given")
    checks.append(
      Check(
        rule.words,
        _mean(ours),
        _mean(theirs),
        *interval,
        rule.margin,
        rule.above,
        rule.below,
      )
    )
  told = outcome.told.get(name)
  if told is not None:
    low, high = difference_interval(told.auc, np.full(len(told.auc), 0.5))
    # What tells the original from retrained models is that it knows the rows.
    above = TRACE if name == "original" else _U_LIRA.above
    checks.append(
      Check(
        _U_LIRA.words,
        _mean(told.auc),
        0.5,
        low,
        high,
        _U_LIRA.margin,
        above,
      )
    )
  return checks


def _values(outcome: Outcome, name: str) -> dict[str, np.ndarray]:
  """All numbers of a model, [L] each."""
  found = outcome.attacked[name]
  audit = outcome.audits[name]
  area = attacks.relearn_area(audit.relearned.curve)
  return {**audit.metrics, **found.values, "relearn_area": np.asarray(area)}


def _rows(plan: Plan, outcome: Outcome) -> list[dict[str, Any]]:
  rows = []
  for name in outcome.attacked:
    made, told = outcome.trained[name], outcome.told.get(name)
    values, once = _values(outcome, name), {}
    if told is not None:
      values["u_lira_auc"] = told.auc
      once = {
        "forgetting_quality": told.forgetting_quality,
        "epsilon": told.epsilon,
      }
    # A model that was given is one, not one a seed.
    rows += [
      {
        "method": name,
        "request": plan.requests.names[0],
        "seed": seed,
        "seconds_compile": made.seconds_compile,
        "seconds_run": made.seconds_run,
        **{metric: float(v[seed]) for metric, v in values.items()},
        **once,
      }
      for seed in range(1 if name == "given" else plan.num_seeds)
    ]
  return rows


def _intervals(outcome: Outcome) -> report.Comparison:
  """AUCs with their intervals."""
  columns = ("lira_auc", "u_lira_auc")
  key = jax.random.key(0)
  bootstrap = jax.jit(
    functools.partial(
      attacks.bootstrap, statistic=attacks.auc, resample_rows=True
    )
  )
  forget, unseen = (
    np.flatnonzero(np.asarray(rows))
    for rows in (outcome.setup.forget, outcome.setup.unseen)
  )
  rows = []
  for name, found in outcome.attacked.items():
    scores = found.lira[:1] if name == "given" else found.lira
    groups = [
      group.astype(np.float32)
      for group in _finite_seeds(scores[:, forget], scores[:, unseen])
    ]
    texts = ["", ""]
    if len(groups[0]) == 1:
      groups = [group[0] for group in groups]
    if len(groups[0]):
      interval = bootstrap(key, *groups)
      texts[0] = _interval_text(*map(float, interval))
    told = outcome.told.get(name)
    if told is not None:
      ends = difference_interval(told.auc, np.zeros(len(told.auc)))
      texts[1] = _interval_text(_mean(told.auc), *ends)
    rows.append((name, tuple(Cell(text) for text in texts)))
  metrics = tuple(report.describe(name, DEFINITIONS) for name in columns)
  return report.Comparison(
    "Membership attacks, 95 % intervals",
    "LiRA asks whether a row was trained on: bootstrap over models and rows, so "
    "that it holds for other rows of the kind. U-LiRA asks whether a model was "
    "unlearned or retrained, from these very rows: t interval over seeds. 0.5 is "
    "to guess.",
    Grid(metrics, tuple(rows), False),
  )


def _interval_text(estimate: float, low: float, high: float) -> str:
  return f"{estimate:.3f} ({low:.3f} to {high:.3f})"


def _finite_seeds(*groups: np.ndarray) -> list[np.ndarray]:
  """Groups [L, ...] without the seeds of which a number is not finite."""
  kept = np.logical_and.reduce([np.isfinite(g).all(axis=1) for g in groups])
  return [group[kept] for group in groups]


def _sentences(
  judged: Mapping[str, verdicts.Verdict], checks: Mapping[str, list[Check]]
) -> list[str]:
  """The verdict of each model, and which tests it rests on."""
  sentences = []
  for name, found in judged.items():
    parts = [f"{name}: {found.sentence}"]
    for words, outcome in (
      ("A difference shows in", verdicts.FOUND),
      ("Not decided by", verdicts.UNDECIDED),
    ):
      tests = [c.measure for c in checks[name] if c.outcome == outcome]
      if tests:
        parts.append(f"{words}: {', '.join(tests)}.")
    sentences.append(" ".join(parts))
  return sentences


def _tests(checks: Mapping[str, list[Check]]) -> report.Comparison:
  """Every test of every model: the interval and what it says."""
  columns = {
    check.measure: None for found in checks.values() for check in found
  }
  margins = {rule.words: rule.margin for rule in (*RULES, _U_LIRA)}
  signs = {verdicts.ABSENT: "", verdicts.UNDECIDED: "?"}
  rows = []
  for name, found in checks.items():
    texts = {
      check.measure: Cell(
        f"{check.low:+.2f} to {check.high:+.2f} "
        f"{check.finding or signs[check.outcome]}".strip(),
        check.outcome == verdicts.FOUND,
      )
      for check in found
      if math.isfinite(check.low)
    }
    rows.append((name, tuple(texts.get(c, Cell("")) for c in columns)))
  metrics = tuple(
    report.Metric(
      f"test_{number}",
      f"{words[0].upper()}{words[1:]}, margin {margins[words]:g}",
      f"Difference of the {words} to that of the retrained models.",
    )
    for number, words in enumerate(columns)
  )
  return report.Comparison(
    "Tests: difference to the retrained models, 95 % intervals",
    "An interval beyond the margin is a finding: a trace (something is left), a "
    "telltale (the model shows that rows were removed) or damage. One within the "
    "margin excludes a difference of that size; a question mark says that the "
    "test was too weak to tell.",
    Grid(metrics, tuple(rows), False),
  )


def _figures(outcome: Outcome) -> dict[str, tuple[Any, str]]:
  forget, unseen = (
    np.asarray(rows) for rows in (outcome.setup.forget, outcome.setup.unseen)
  )
  retain = ~forget & (
    np.arange(len(forget)) < outcome.setup.study.masks.shape[1]
  )
  lira = {
    name: [
      attacks.roc_curve(row[forget], row[unseen])[:2]
      for row in jnp.asarray(_finite_seeds(found.lira)[0], jnp.float32)[
        : 1 if name == "given" else None
      ]
    ]
    for name, found in outcome.attacked.items()
  }
  figures = {
    "roc_lira": (
      report.roc_curves(lira),
      "LiRA: forgotten rows that are found (up) against unseen rows taken for "
      "members (right), a band of seeds for each model. The dashed line is the "
      "retrained model, which never saw the rows; the diagonal is to guess.",
    )
  }
  told = {name: found for name, found in outcome.told.items() if found}
  if told:
    pooled = {
      name: [
        attacks.roc_curve(
          *(
            jnp.asarray(scores.ravel(), jnp.float32)
            for scores in _finite_seeds(found.member_scores, found.other_scores)
          )
        )[:2]
      ]
      for name, found in told.items()
    }
    figures["roc_u_lira"] = (
      report.roc_curves(pooled),
      "U-LiRA: unlearned models that are told by one forgotten row (up) against "
      "retrained models taken for unlearned ones (right), all seeds and rows "
      "together.",
    )
  figures["scores"] = (
    report.score_histograms(
      {
        name: {
          "forget": found.statistics[:, forget],
          "retain": found.statistics[:, retain],
          "unseen": found.statistics[:, unseen],
        }
        for name, found in outcome.attacked.items()
      },
      x_label="logit-scaled confidence",
    ),
    "How sure each model is of the label, for forgotten rows, rows kept and "
    "rows never seen. Where it forgot, forgotten and unseen rows look alike, as "
    "they do in the retrained model.",
  )
  curves = {name: a.relearned.curve for name, a in outcome.audits.items()}
  steps = np.arange(next(iter(curves.values())).shape[1])
  figures["relearning"] = (
    report.curves(
      steps, curves, x_label="training steps", y_label="knowledge of the rows"
    ),
    "What each model knows of the forgotten rows while it is trained on all rows "
    "again. A model that forgot learns as slowly as the retrained one.",
  )
  return figures


def _lead(plan: Plan, outcome: Outcome) -> str:
  asked = plan.options
  rows = int(plan.requests.masks[0].sum())
  given = (
    ""
    if plan.variables is None
    else f" The model of {asked.checkpoint} was attacked beside them."
  )
  return (
    f"{plan.num_seeds} models ({asked.model}) were trained on "
    f"{len(plan.dataset.train['label'])} rows of {asked.data}, of which {rows} "
    f"({asked.request}) were then to be forgotten; as many were retrained "
    f"without these rows, and {len(outcome.setup.shadow_masks)} shadow models were trained on "
    f"random parts of the data to attack with.{given}\n\n"
    "Each number is compared with that of the retrained models. A difference "
    "counts if its 95 % interval lies beyond a margin, it is excluded if the "
    "interval lies within, and otherwise the test was too weak to tell. The "
    "original model, which forgot nothing, must be found out, and the control "
    "retrain, which was retrained with other random numbers, must pass; if not, "
    "the tests say little about the others."
  )


def _notes(plan: Plan, outcome: Outcome) -> list[str]:
  notes = [
    *plan.notes,
    "What the verdict does not prove: that nothing is left. It speaks of the "
    "attacks that were run, on the models that were trained, with the margins "
    "below; a stronger attack may find more. Copies, logs and models derived "
    "from the original one are not looked at.",
    "Each test of a model stands by itself at 95 %, and there are several: with "
    "few seeds one of them may find by chance what is not there. How often that "
    "happens, the control retrain shows.",
    "Relearning: Adam, rate 0.001, on batches of all training rows, "
    f"{relearning.num_steps(plan.recipe)} steps.",
    "LiRA and RMIA: forgotten rows against unseen ones, by shadow models that "
    "were trained on random parts of training and test rows, as large a part as "
    "the training rows are; one variance for all rows.",
    "U-LiRA: for each forgotten row two normal distributions are fitted to "
    "the models of every other seed, unlearned and retrained, and tried on the "
    "other seeds.",
    "Margins: "
    + "; ".join(f"{r.words} {r.margin:g}" for r in (*RULES, _U_LIRA))
    + ".",
  ]
  if plan.variables is not None:
    notes.append(
      "The model that was given is one model: it is compared with the spread "
      "of single retrained models, trained by the recipe in the configuration, "
      "which may not be its own, and U-LiRA, which wants many models made in "
      "the same way, is left out."
    )
  if any(found is None for found in outcome.told.values()):
    notes.append(
      f"U-LiRA wants {audit_suite.MIN_MODELS} models a method that did not "
      "diverge and was left out where there are fewer."
    )
  return notes


def _config(plan: Plan, outcome: Outcome) -> dict[str, Any]:
  return {
    **dataclasses.asdict(plan.options),
    "seeds": plan.num_seeds,
    "strategy": plan.strategy,
    "training": plan.recipe._asdict(),
    "method_settings": plan.settings,
    "method_data": {
      name: methods_table.METHODS[name].data for name in plan.settings
    },
    "probed_layers": outcome.setup.layers,
    "rules": [rule._asdict() for rule in (*RULES, _U_LIRA)],
    "environment": common.environment(),
  }


def _mean(values: np.ndarray) -> float:
  finite = values[np.isfinite(values)]
  return float(finite.mean()) if len(finite) else math.nan
