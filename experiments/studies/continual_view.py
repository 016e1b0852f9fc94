"""Streams in words and figures: heat maps events x tasks, curves over events."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jaxunlearn import continual as co
from jaxunlearn import report
from jaxunlearn.continual.metrics import FORGOTTEN, RETAINED, UNSEEN
from jaxunlearn.report import draw

from ..bench import RETRAINED, Evidence, Plan
from . import continual_events as words
from .continual_streams import NOTICED

CLU_ROWS = ("clu", "clu_teacher", "clu_exclude_label", "clu_published")
# A forgotten task may be this much better known than to the retrained model.
ALLOWED = 0.05
SHOWN = (
  "forget_test_accuracy",
  "retain_test_accuracy",
  "request_accuracy",
  "retrained_gap",
  "membership_auc",
  "seconds_event",
)


def events(plan: Plan) -> list[list[list[co.Event]]]:
  """Of every stream and seed."""
  text = ",".join(plan.requests.names)
  num_tasks = plan.dataset.num_tasks
  own = plan.options.events
  return list(words.streams(text, own, plan.seeds, num_tasks).values())


def texts(plan: Plan, stream: int) -> list[str]:
  """The events of a stream's first seed."""
  return [words.words(event) for event in events(plan)[stream][0]]


def curves(evidence: Evidence, method: str) -> dict[str, np.ndarray]:
  """Accuracies and the gap to retraining after every event, [R * S, T]."""
  own, aim = (evidence.found[m].values["accuracy"] for m in (method, RETRAINED))
  status = evidence.plan.requests.marks.status.reshape(own.shape)
  return {
    "retained": _masked_mean(own, status == RETAINED),
    "forgotten": _masked_mean(own, status == FORGOTTEN),
    "gap": _masked_mean(np.abs(own - aim), status != UNSEEN),
  }


def _masked_mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
  """Mean over the last axis where the mask is set; nan where nowhere."""
  count = mask.sum(axis=-1)
  total = np.where(mask, values, 0.0).sum(axis=-1)
  return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def panels(evidence: Evidence) -> dict[str, tuple[report.Chart, str]]:
  plan = evidence.plan
  figures = {
    "accuracy": (
      report.accuracy_bars(
        report.summarise(evidence.rows),
        ("forget_test_accuracy", "request_accuracy", "retain_test_accuracy"),
        definitions=plan.metrics,
      ),
      "Test accuracy on forgotten tasks after the last event and right after "
      "the request, and on the tasks kept; mean over streams. The aim is to "
      "meet the dashed line, not to be lowest.",
    )
  }
  for number, name in enumerate(plan.requests.names):
    figures[f"map_{name}"] = (
      _heat_maps(evidence, number),
      f"Stream {name}: test accuracy on every task (down) after every event "
      "(across), mean over seeds. Framed: what should be forgotten. Grey: what "
      "has not come yet. A perfect learner looks like retrained.",
    )
    figures[f"curves_{name}"] = (
      _curves(evidence, number),
      f"Stream {name}: accuracy on tasks to be known, on tasks forgotten and gap "
      "to the retrained model after every event. Dashed: retraining. Bands go "
      "from the lowest to the highest seed.",
    )
  return figures


def _shown_lanes(plan: Plan, stream: int) -> slice:
  """All seeds, or the first where each has a stream of its own."""
  count = len(plan.seeds)
  shown = 1 if plan.requests.names[stream] == "random" else count
  return slice(stream * count, stream * count + shown)


def _curves(evidence: Evidence, stream: int) -> report.Chart:
  lanes = _shown_lanes(evidence.plan, stream)
  count = len(texts(evidence.plan, stream))
  found = {name: curves(evidence, name) for name in evidence.found}
  headings = {
    "test accuracy, kept tasks (%)": "retained",
    "test accuracy, forgotten tasks (%)": "forgotten",
    "gap to retrained (points)": "gap",
  }
  return report.curve_panels(
    np.arange(1, count + 1),
    {
      label: {
        name: 100 * own[key][lanes, :count] for name, own in found.items()
      }
      for label, key in headings.items()
    },
    x_label="event",
  )


def _heat_maps(evidence: Evidence, stream: int) -> report.Chart:
  """A panel a row of the results, the retrained model first."""
  plan, shown = evidence.plan, texts(evidence.plan, stream)
  lanes, count = _shown_lanes(plan, stream), len(shown)
  status = plan.requests.marks.status[stream, 0, :count].T
  panels = []
  for name in (RETRAINED, *(n for n in evidence.found if n != RETRAINED)):
    found = evidence.found[name].values["accuracy"][lanes, :count]
    share = np.where(status == UNSEEN, np.nan, 100 * found.mean(axis=0).T)
    tasks = [str(task) for task in range(len(share))]
    framed = status == FORGOTTEN
    panels.append(
      draw.heat(share, tasks, shown, name, framed=framed, axes=("task", ""))
    )
  return report.Chart(tuple(panels), 4 if count <= 10 else 3)


def findings(evidence: Evidence) -> list[str]:
  """The two bounds of CLU and what the others promise, held or not."""
  summary, known = report.summarise(evidence.rows), evidence.extra
  found = []
  for name in summary.requests:
    cells = {m: summary.cells[m, name] for m in summary.methods}
    found += [_bounds(name, m, cells) for m in CLU_ROWS if m in cells]
  if noticed := known["tame_boundaries"]:
    total, near = (sum(b[key] for b in noticed) for key in ("total", "found"))
    alarms = [b["false_alarms"] for b in noticed]
    found.append(
      f"TAME, which is not told, noticed {near} of {total} changes of task in "
      f"{len(alarms)} streams within {NOTICED} batches, with {sum(alarms)} false "
      f"alarms in all and at most {max(alarms)} in a stream."
      + known["tame_overflow"]
      * " It ran out of room for experts at least once."
    )
  if check := known["ridge_check"]:
    found.append(
      "ACU's head differs from the head fitted anew on the remaining rows by at "
      f"most {check['retrained']:.2g} after any event, and from ridge regression "
      f"in float64 by at most {check['float64']:.2g} after the last one (the "
      f"largest weight is {check['size']:.2f})."
    )
  time = lambda m: summary.overall[m]["seconds_event"].mean
  for method in ("clu", "clu_published", "acu", "tame"):
    if method not in summary.methods:
      continue
    ratio = time(RETRAINED) / time(method)
    how = (
      f"{ratio:.1f} times as fast"
      if ratio >= 1
      else f"{1 / ratio:.1f} times as slow"
    )
    found.append(f"{method} serves an event {how} as retraining.")
  for served in known["many_requests"]:
    short, long = (b / 1e6 for b in served["program_bytes"])
    found.append(
      f"{served['method']} served {served['requests']} requests of a row each in "
      f"{1000 * served['seconds']:.3g} ms a request, by the program that had "
      f"served them in another order; working memory {short:.2f} MB for a tenth "
      f"of the requests, {long:.2f} MB for all."
    )
  return found


def _bounds(stream: str, method: str, cells: Any) -> str:
  mean = lambda m, name: cells[m][name].mean
  kept, gone = "retain_test_accuracy", "forget_test_accuracy"
  own, aim = mean(method, gone), mean(RETRAINED, gone)
  sentence = f"{stream}: {method} keeps {100 * mean(method, kept):.1f} %"
  if "experience_replay" in cells:
    more = 100 * (mean(method, kept) - mean("experience_replay", kept))
    sign = "at least as much as" if more >= 0 else "less than"
    sentence += f", {sign} experience replay ({more:+.2f} points)"
  if math.isfinite(own) and math.isfinite(aim):
    within = "within" if own <= aim + ALLOWED else "not within"
    sentence += (
      f"; it still knows {100 * own:.1f} % of what was forgotten, {within} 5 "
      f"points of the retrained model ({100 * aim:.1f} %)"
    )
  return sentence + "."


def lead(plan: Plan) -> str:
  rows, tasks = plan.requests.forget.shape[-1], plan.dataset
  streams = "; ".join(
    f"{name}: {', '.join(texts(plan, i))}"
    for i, name in enumerate(plan.requests.names)
  )
  return (
    f"{plan.options.data} ({rows} training rows, features: {tasks.features}) was "
    f"cut into {tasks.num_tasks} tasks by class. Tasks are learned one after the "
    f"other, and some have to be forgotten, with {len(plan.seeds)} seeds. Streams "
    f"(+ is learned, \N{MINUS SIGN} forgotten): {streams}. The measure of "
    "everything is retraining: a model trained anew, after every event, on the "
    "rows that should be known then. The original model is trained like it, but "
    "on all rows that ever came."
  )


def notes(plan: Plan) -> list[str]:
  size = plan.beds.facts["size"]
  found = [
    "Accuracies are class-incremental: nobody says which task a row is from. "
    "What should be forgotten is as it should be where it is known as little, "
    "and as much, as to the retrained model.",
    f"{size['num_steps']} steps of SGD with rate {size['learning_rate']} an "
    f"event, {size['retrain_steps']} steps a retraining, {size['buffer_size']} "
    "rows in a buffer. Settings that are not the library's were chosen earlier, on "
    "digits and with other seeds; those of EWC and of the random filters' answers "
    "on CIFAR-10. Rows that no report is about choose them with --tune.",
    "The learners without an unlearning rule erase forgotten rows from their "
    "buffer, if they have one, and train on. A low accuracy on what was "
    "forgotten is then catastrophic forgetting, which also takes what should "
    "stay; it is no promise.",
    "acu is a ridge regression on random features and tame a set of small "
    "networks for single tasks: other models than the retrained one, so that "
    "their gap to it is also one between models, and a divergence from its "
    "outputs, which are fitted probabilities and theirs are not, says little. The "
    "measure of acu is ridge regression on the remaining rows.",
    "A membership attack by the loss that fails proves little: the model may know "
    "a class without remembering its rows. On small data all models are near 0.5.",
    "Time an event is that of the program for all streams and seeds, by their "
    "number and by the mean number of events. It was taken once: on a machine "
    "with other work the ratios may be off by a factor of two.",
  ]
  lengths = {len(own) for of_stream in events(plan) for own in of_stream}
  if len(lengths) > 1:
    found.append(
      "Shorter streams are filled up with events in which nothing happens, so "
      "that one program serves all."
    )
  if "random" in plan.requests.names:
    found.append(
      "Of the random stream, another one for every seed, the figures show the "
      "first seed."
    )
  return found
