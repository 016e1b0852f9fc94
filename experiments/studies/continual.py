"""Learning and forgetting in one stream: who keeps what should stay, only that?

Question: tasks come one after the other, and now and then one has to be
forgotten. How near do CLU (arXiv:2408.11374), analytic continual unlearning
(ACU, 2505.12239) and TAME (2210.03869, which is not told when tasks change) come
to a model that is trained anew after every event on what should be known, and how
near do learners without an unlearning rule come, which can only stop rehearsing:
experience replay, DER++, LwF, EWC, fine-tuning?

    python -m experiments.continual --preset quick --out out/continual

cuts scikit-learn's digits into five tasks of two classes, runs two streams with
five seeds and writes results.json, table.md, plots/ (heat maps events x tasks),
params/ and report.html. It takes about five minutes on two CPU cores.

    python -m experiments.continual --data cifar10 --data-dir DIR

does so on random-filter features of CIFAR-10, and

    python -m experiments.continual \\
      --events "learn:0 learn:1 forget:0 learn:2+forget:1"

on a stream of your own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jaxunlearn import Variables, attacks, metrics, models, report
from jaxunlearn import continual as co
from jaxunlearn.adapters.flax import from_module
from jaxunlearn.continual import metrics as stream_metrics
from jaxunlearn.continual.metrics import FORGOTTEN, RETAINED, UNSEEN
from jaxunlearn.report import HIGHER, LOWER
from jaxunlearn.report.taxonomy import WHITE_BOX
from jaxunlearn.report.verdict import DAMAGE, NOTHING, TELLTALE, TRACE

from .. import bench, flags
from ..bench import Case, Evidence, Measure, Rule, table
from ..datasets import classes, splits, tasks
from ..flags import described
from . import continual_events as words
from . import continual_learners as learners
from . import continual_streams as streams
from . import continual_view as view

SEEDS = {"smoke": 2, "quick": 5, "paper": 10}
DEFAULT_STREAMS = {
  "smoke": "published",
  "quick": "published,requests_last",
  "paper": "published,requests_last,mixed,random",
}
MANY_REQUESTS = {"smoke": 0, "quick": 1000, "paper": 1000}


@dataclasses.dataclass(frozen=True)
class Options(bench.CommonOptions):
  """Learn tasks and forget some of them, in one stream, by a dozen learners."""

  # What is asked for is a stream, and has flags of its own.
  request: Annotated[str | None, tyro.conf.Suppress] = None

  data: Annotated[
    str,
    described(
      "Rows, cut into tasks by class: digits (ships with scikit-learn), cifar10 "
      "(features of random filters), or npz:PATH, a file with x [N, ...], "
      "integer classes y [N] and perhaps task [N], which must put every class "
      "in one task."
    ),
  ] = "digits"

  classes_per_task: Annotated[
    int, described("Classes of a task, where the data have no task.", "INT")
  ] = 2

  streams: Annotated[
    str | None,
    described(
      "What happens, one or more of published (learn all tasks but the last; "
      "then forget the odd ones, learn the even ones again; learn the last), "
      "requests_last (learn all, then forget the odd ones), mixed, random "
      "(another one for every seed), with commas between; the preset's by "
      "default.",
      "NAMES",
    ),
  ] = None

  events: Annotated[
    str | None,
    described(
      "A stream of your own instead, in quotes: 'learn:0 learn:1,2 forget:0 "
      "learn:3+forget:1'. Tasks count from 0; a comma names several, a plus "
      "joins what happens at once.",
      "EVENTS",
    ),
  ] = None

  methods: Annotated[
    str,
    described("Learners: all, or names as in clu,acu,experience_replay."),
  ] = "all"

  first_seed: flags.FirstSeed = 100

  many_requests: Annotated[
    int | None,
    described(
      "Serve also so many requests of one row each, for their time and memory; "
      "0 leaves it out, the preset's number by default.",
      "INT",
    ),
  ] = None

  out: flags.Out = "out/continual"


def beds(options: Options, seeds: Sequence[int], part: str, asks: Any):
  """Rows, divided once per seed; of own test rows, once and for all."""
  if (options.many_requests or 0) < 0:
    raise ValueError(
      f"Expected --many-requests >= 0, got {options.many_requests}."
    )
  words.parse_streams(options.streams or DEFAULT_STREAMS[options.preset])
  found = tasks.load(
    options.data,
    preset=options.preset,
    data_dir=options.data_dir,
    classes_per_task=options.classes_per_task,
  )
  divided = [classes.split(found.dataset, seed, part) for seed in seeds]
  model = from_module(models.MLP(len(found.of_class)))
  extra = learners.Extra(found.of_class, found.within)
  arrays = [(split.train, split.test) for split in divided]

  def make(shared: Any, own: Any) -> bench.Bed:
    train, test = own if shared is None else shared
    return bench.Bed(model, train, test, extra=extra)

  return bench.Beds(
    *splits.per_seed(arrays, found.dataset.pool is None),
    make,
    divided,
    {
      "size": learners.SIZES[options.preset],
      "num_tasks": found.num_tasks,
      "classes_of_tasks": found.of_class.tolist(),
      "features": found.features,
    },
    dataset=found,
    model=model,
  )


def requests(
  options: Options, seeds: Sequence[int], beds: bench.Beds, text: str
) -> bench.Requests:
  """The streams; a request's rows are those that are forgotten in the end."""
  found = beds.dataset
  asked = words.streams(text, options.events, seeds, found.num_tasks)
  longest = max(len(events) for own in asked.values() for events in own)
  made = []
  for of_stream in asked.values():
    for events, split in zip(of_stream, beds.sources):
      events = words.padded(events, longest)
      task = found.of_class[split.train["label"]]
      learn, forget = (
        np.stack([np.isin(task, getattr(event, kind)) for event in events])
        for kind in ("learn", "forget")
      )
      status = words.status(events, found.num_tasks)
      marks = streams.Marks(learn, forget, status)
      made.append((status[-1][task] == FORGOTTEN, marks))
  stacked = lambda *leaves: np.stack(leaves).reshape(
    len(asked), -1, *leaves[0].shape
  )
  forget, marks = jax.tree.map(stacked, *made)
  return bench.Requests(tuple(asked), forget, forget, marks)


def fit(plan: bench.Plan) -> bench.Plan:
  """Gives ACU room for the largest event."""
  marks = plan.requests.marks
  most = max(1, *(int(m.sum(axis=-1).max()) for m in marks[:2]))
  made = learners.settings(plan.options.preset, most)
  return plan._replace(settings={name: made[name] for name in plan.methods})


def measures(plan: bench.Plan) -> list[Measure]:
  """Of the models after all events, on test rows, all classes competing."""
  num_tasks, num_classes = plan.dataset.num_tasks, len(plan.dataset.of_class)

  def accuracy(logits, rows, task):
    # A model without anything learned gives all classes the same score; that
    # the first one is its answer then does not make it right.
    silent = logits.max(-1, keepdims=True) == logits.min(-1, keepdims=True)
    wrong = jax.nn.one_hot((rows["label"] + 1) % num_classes, num_classes)
    return stream_metrics.task_accuracy(
      jnp.where(silent, wrong, logits), rows["label"], task, num_tasks
    )

  def run(case: Case) -> dict[str, Any]:
    bed, status = case.bed, case.marks.status
    place = jnp.asarray(bed.extra.of_class)
    task, test_task = place[bed.data["label"]], place[bed.test["label"]]
    of = lambda records: jax.tree.map(lambda leaf: leaf[-1], records)
    answer = lambda record, rows: learners.predict(bed, record, rows["x"])
    last = of(case.variables)
    logits, known = answer(last, bed.test), answer(last, bed.data)
    over_events = jax.lax.map(
      lambda r: accuracy(answer(r, bed.test), bed.test, test_task),
      case.variables,
    )
    trained = accuracy(known, bed.data, task)
    kept, gone = status[-1] == RETAINED, status[-1] == FORGOTTEN
    before = jnp.concatenate([jnp.full_like(status[:1], UNSEEN), status[:-1]])
    at_once = (before == RETAINED) & (status == FORGOTTEN)
    loss = lambda z, rows: (
      attacks.membership_signals(z, rows["label"]).negative_loss
    )
    off = stream_metrics.retrained_divergence(
      logits, answer(of(case.retrained), bed.test), test_task, num_tasks
    )
    at_end = lambda metric: metric(over_events, status)[-1]
    found = {
      "accuracy": over_events,
      "retain_test_accuracy": at_end(stream_metrics.retained_accuracy),
      "forget_test_accuracy": at_end(stream_metrics.forgotten_accuracy),
      "request_accuracy": _mean(over_events, at_once),
      "retain_accuracy": _mean(trained, kept),
      "forget_accuracy": _mean(trained, gone),
      "forgetting": at_end(stream_metrics.catastrophic_forgetting),
      "backward_transfer": at_end(stream_metrics.backward_transfer),
      "membership_auc": metrics.separation_auc(
        loss(known, bed.data),
        loss(logits, bed.test),
        gone[task],
        gone[test_task],
      ),
      "js_to_retrained": _mean(off, status[-1] != UNSEEN),
      "is_finite": jnp.isfinite(logits).all(),
    }
    if isinstance(case.variables, co.AcuHead):
      found["ridge_gap"] = streams.ridge_gap(bed, case.variables, status)
      found["ridge_kernel"] = last.kernel
    return found

  def after(evidence: Evidence, method: str) -> dict[str, Any]:
    own = evidence.found[method]
    gap = view.curves(evidence, method)["gap"][:, -1]
    count = np.mean([len(e) for of in view.events(plan) for e in of])
    return {
      "retrained_gap": gap,
      "seconds_event": np.full(len(gap), own.seconds_run / count),
      "state_kilobytes": own.traces["state_bytes"] / 1000,
    }

  rules = (
    Rule("forget_test_accuracy", 0.05, TRACE, TELLTALE),
    Rule("request_accuracy", 0.05, TRACE, TELLTALE),
    Rule("retain_test_accuracy", 0.05, NOTHING, DAMAGE),
    Rule("membership_auc", 0.05, TRACE, TELLTALE, threat=WHITE_BOX),
    bench.distance("js_to_retrained", 0.05),
  )
  arrays = ("accuracy", "ridge_gap", "ridge_kernel")
  return [Measure(METRICS, run, arrays, after, rules)]


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Mean where the mask is set; nan where it is nowhere."""
  total = jnp.where(mask, values, 0).sum()
  return jnp.where(mask.any(), total / jnp.maximum(mask.sum(), 1), jnp.nan)


METRICS = (
  table.shared(
    "forget_test_accuracy",
    label="Test accuracy, forgotten tasks",
    explanation="Share of test rows of the tasks forgotten that are predicted "
    "correctly after the last event, all classes competing.",
    headline=True,
  ),
  table.shared(
    "retain_test_accuracy",
    label="Test accuracy, kept tasks",
    explanation="Share of test rows of the tasks to be known that are predicted "
    "correctly after the last event, all classes competing.",
    headline=True,
  ),
  report.Metric(
    "request_accuracy",
    "Right after the request",
    "Test accuracy on a task in the moment after the request to forget it, mean "
    "over the requests.",
    "%",
    1,
    headline=True,
  ),
  table.shared(
    "retrained_gap",
    explanation="Mean absolute difference to the retrained model's test accuracy "
    "over all tasks seen, kept or forgotten, after the last event.",
  ),
  table.shared(
    "membership_auc",
    explanation="How well the loss tells training rows of the forgotten tasks "
    "from test rows of them: 0.5 is guessing.",
    headline=True,
  ),
  report.Metric(
    "forgetting",
    "Catastrophic forgetting",
    "How much accuracy was lost on tasks to be known since its best.",
    "points",
    1,
    LOWER,
    headline=True,
  ),
  report.Metric(
    "backward_transfer",
    "Backward transfer",
    "Accuracy on tasks to be known, less that right after learning them.",
    "points",
    1,
    HIGHER,
  ),
  table.shared("js_to_retrained"),
  table.shared("forget_accuracy", headline=False),
  table.shared("retain_accuracy", headline=False),
  report.Metric(
    "seconds_event",
    "Time an event",
    "Time of a stream, compilation and evaluation apart, by its events.",
    "s",
    3,
    LOWER,
    headline=True,
  ),
  report.Metric(
    "state_kilobytes",
    "Kept between events",
    "Models, buffer, sums and masks; the training rows, which retraining needs, "
    "are not counted.",
    "kB",
    0,
    LOWER,
  ),
)


def saved(records: Any) -> Variables:
  """What predicts after the last event."""
  last = jax.tree.map(lambda leaf: leaf[-1], records)
  return last if isinstance(last, Variables) else Variables(last._asdict(), {})


def extra(evidence: Evidence) -> dict[str, Any]:
  """The events, and what each learner promises."""
  plan = evidence.plan
  many = plan.options.many_requests
  many = MANY_REQUESTS[plan.options.preset] if many is None else many
  noticed = overflow = None
  if "tame" in evidence.found:
    traces = evidence.found["tame"].traces
    lanes = [own for of_stream in view.events(plan) for own in of_stream]
    noticed = [
      streams.boundaries(events, switched)._asdict()
      for events, switched in zip(lanes, traces["switched"])
    ]
    overflow = bool(traces["overflow"].any())
  return {
    "events": {
      n: view.texts(plan, i) for i, n in enumerate(plan.requests.names)
    },
    "ridge_check": streams.check_ridge(evidence),
    "tame_boundaries": noticed,
    "tame_overflow": overflow,
    "many_requests": streams.serve_many(plan, many) if many else [],
  }


def tune_request(options: Options) -> str:
  """Streams that are not reported; a random one is another for every seed."""
  asked = options.streams or DEFAULT_STREAMS[options.preset]
  return "random" if "mixed" in asked else "mixed,random"


STUDY = bench.Study(
  name="continual",
  options=Options,
  beds=beds,
  request=lambda options: (
    (options.events is not None and words.OWN)
    or options.streams
    or DEFAULT_STREAMS[options.preset]
  ),
  requests=requests,
  serve=streams.serve,
  saved=saved,
  methods=learners.METHODS,
  smoke=("clu", "acu", "experience_replay"),
  settings=lambda options: learners.settings(options.preset),
  fit=fit,
  measures=measures,
  seeds=lambda options: SEEDS[options.preset],
  tune_request=tune_request,
  extra=extra,
  unranked=(learners.REMAINING,),
  title=lambda plan: (
    f"Learning and forgetting tasks of {plan.options.data} in a stream"
  ),
  lead=view.lead,
  columns=lambda plan: view.SHOWN,
  notes=view.notes,
  panels=(view.panels,),
  findings=view.findings,
)
