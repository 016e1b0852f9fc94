"""What the numbers of streams mean."""

from __future__ import annotations

from jaxunlearn import report


def _metric(name, label, explanation, unit, decimals, direction, **more):
  return report.Metric(
    name, label, explanation, unit, decimals, direction, **more
  )


_OWN = (
  _metric(
    "forget_test_accuracy",
    "Test accuracy, forgotten tasks",
    "Share of test rows of the tasks forgotten that are predicted correctly "
    "after the last event, all classes competing.",
    "%",
    1,
    report.NEAREST,
    headline=True,
  ),
  _metric(
    "retain_test_accuracy",
    "Test accuracy, kept tasks",
    "Share of test rows of the tasks to be known that are predicted correctly "
    "after the last event, all classes competing.",
    "%",
    1,
    report.HIGHER,
    headline=True,
  ),
  _metric(
    "request_accuracy",
    "Right after the request",
    "Test accuracy on a task in the moment after the request to forget it, mean "
    "over the requests.",
    "%",
    1,
    report.NEAREST,
    headline=True,
  ),
  _metric(
    "retrained_gap",
    "Gap to retrained",
    "Mean absolute difference to the retrained model's test accuracy over all "
    "tasks seen, kept or forgotten, after the last event.",
    "points",
    1,
    report.LOWER,
    headline=True,
  ),
  _metric(
    "membership_auc",
    "Membership AUC",
    "How well the loss tells training rows of the forgotten tasks from test rows "
    "of them: 0.5 is guessing.",
    "",
    3,
    report.NEAREST,
    headline=True,
  ),
  _metric(
    "forgetting",
    "Catastrophic forgetting",
    "How much accuracy was lost on tasks to be known since its best.",
    "points",
    1,
    report.LOWER,
    headline=True,
  ),
  _metric(
    "backward_transfer",
    "Backward transfer",
    "Accuracy on tasks to be known, less that right after learning them.",
    "points",
    1,
    report.HIGHER,
  ),
  _metric(
    "seconds_event",
    "Time an event",
    "Time of a stream, compilation and evaluation apart, by its events.",
    "s",
    3,
    report.LOWER,
    headline=True,
  ),
  _metric(
    "state_kilobytes",
    "Kept between events",
    "Models, buffer, sums and masks; the training rows, which retraining needs, "
    "are not counted.",
    "kB",
    0,
    report.LOWER,
  ),
)
_REDEFINED = {metric.name for metric in _OWN} | {
  "forget_accuracy",
  "retain_accuracy",
}
DEFINITIONS = (
  *_OWN,
  *(m for m in report.METRICS if m.name not in _REDEFINED),
  *(
    m._replace(headline=False)
    for m in report.METRICS
    if m.name in ("forget_accuracy", "retain_accuracy")
  ),
)
