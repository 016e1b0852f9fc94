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
params/ and report.html. It takes two to three minutes on two CPU cores.

    python -m experiments.continual --data cifar10 --data-dir DIR

does so on random-filter features of CIFAR-10, and

    python -m experiments.continual --events "learn:0 learn:1 forget:0 learn:2+forget:1"

on a stream of your own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np
from rich.progress import Progress

from experiments import common, continual_data, continual_learners, flags
from experiments import continual_checks as checks
from experiments import continual_output as output
from experiments import continual_study as study
from experiments.flags import described

DEFAULT_SEEDS = {"smoke": 2, "quick": 5, "paper": 10}
DEFAULT_STREAMS = {
  "smoke": "published",
  "quick": "published,requests_last",
  "paper": "published,requests_last,mixed,random",
}
MANY_REQUESTS = {"smoke": 20, "quick": 1000, "paper": 1000}
# What has no row of its own in `continual_learners.make`.
ALWAYS = ("retrained",)


@dataclasses.dataclass(frozen=True)
class Options:
  """Learn tasks and forget some of them, in one stream, by ten learners."""

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

  seeds: flags.Seeds = None

  first_seed: flags.FirstSeed = 100

  many_requests: Annotated[
    int | None,
    described(
      "Serve also so many requests of one row each, for their time and memory; "
      "0 leaves it out, the preset's number by default.",
      "INT",
    ),
  ] = None

  preset: flags.Preset = "quick"

  data_dir: flags.DataDir = None

  out: flags.Out = "out/continual"


class Plan(NamedTuple):
  """Options that were checked, and what they name.

  Attributes:
    options: as given.
    tasks: the rows.
    size: how much of everything.
    methods: by name; "retrained" first.
    stream_names: R names.
    lanes: streams times seeds.
    num_seeds: S.
    many_requests: how many; 0 for none.
  """

  options: Options
  tasks: continual_data.Tasks
  size: continual_learners.Size
  methods: dict[str, continual_learners.Method]
  stream_names: tuple[str, ...]
  lanes: study.Lanes
  num_seeds: int
  many_requests: int


def prepare(options: Options) -> Plan:
  """Checks everything that can be checked before training.

  Raises:
    ValueError: one line that names the option, what was found and wanted.
  """
  flags.check_seeds(options.seeds, options.first_seed)
  if (options.many_requests or 0) < 0:
    raise ValueError(
      f"Expected --many-requests >= 0, got {options.many_requests}."
    )
  asked = options.streams or DEFAULT_STREAMS[options.preset]
  names = continual_data.parse_streams(asked)
  tasks = continual_data.load(
    options.data,
    preset=options.preset,
    data_dir=options.data_dir,
    classes_per_task=options.classes_per_task,
  )
  num_seeds = options.seeds or DEFAULT_SEEDS[options.preset]
  seeds = [options.first_seed + i for i in range(num_seeds)]
  if options.events is not None:
    own = continual_data.parse_events(options.events, tasks.num_tasks)
    names, streams = ("events",), [[own] * num_seeds]
  else:
    streams = [
      [continual_data.named_stream(n, tasks.num_tasks, seed) for seed in seeds]
      for n in names
    ]
  longest = max(len(events) for lane in streams for events in lane)
  padded = [
    [continual_data.padded(events, longest) for events in lane]
    for lane in streams
  ]
  size = continual_learners.SIZES[options.preset]
  lanes = study.make_lanes(tasks, padded, seeds)
  made = continual_learners.make(tasks, size, lanes.max_rows)
  optional = [name for name in made if name not in ALWAYS]
  wanted = (*ALWAYS, *flags.chosen(options.methods, optional))
  many = options.many_requests
  return Plan(
    options,
    tasks,
    size,
    {name: method for name, method in made.items() if name in wanted},
    names,
    lanes,
    num_seeds,
    MANY_REQUESTS[options.preset] if many is None else many,
  )


class Outcome(NamedTuple):
  """All that was found; by row of the results.

  Attributes:
    ran: by method; "original" and "retrained" as well.
    rows: the method of every row of the results.
    measured: see `Measured`.
    compared: see `Compared`.
    ridge: how near ACU is to ridge regression, or None.
    boundaries: what TAME noticed, a lane each, or None.
    overflow: whether TAME ran out of slots, in any lane.
    served: the long streams of requests.
  """

  ran: dict[str, study.Ran]
  rows: dict[str, str]
  measured: dict[str, study.Measured]
  compared: dict[str, study.Compared]
  ridge: checks.RidgeCheck | None
  boundaries: list[checks.Boundaries] | None
  overflow: bool
  served: list[checks.Served]


def run(plan: Plan, progress: Progress) -> Outcome:
  """Runs and measures; writes nothing."""
  tasks, lanes = plan.tasks, plan.lanes
  bar = progress.add_task("starting", total=len(plan.methods) + 2)
  ran, rows, measured = {}, {}, {}
  turns = {"original": plan.methods["retrained"], **plan.methods}
  for name, method in turns.items():
    progress.update(bar, description=f"running {name}")
    is_original = name == "original"
    ran[name] = study.run_method(tasks, method, lanes, keep_all=is_original)
    for view, record in ran[name].records.items():
      row = "original" if is_original else view
      rows[row] = name
      measured[row] = study.measure(tasks, method.predict, record, lanes.status)
    progress.advance(bar)
  compared = {
    row: study.compare(tasks, lanes, found, measured["retrained"])
    for row, found in measured.items()
  }
  progress.update(bar, description="serving many requests")
  ridge = noticed = None
  overflow = False
  if "acu" in ran:
    ridge = checks.check_ridge(
      tasks, plan.size, lanes, ran["acu"].records["acu"]
    )
  if "tame" in ran:
    infos = ran["tame"].infos
    noticed = [
      checks.boundaries(events, switched)
      for events, switched in zip(lanes.events, infos.switched)
    ]
    overflow = bool(np.asarray(infos.overflow).any())
  served = []
  if plan.many_requests:
    served = checks.serve_many(tasks, plan.size, plan.many_requests)
  progress.advance(bar)
  return Outcome(
    ran, rows, measured, compared, ridge, noticed, overflow, served
  )


def main(argv: Sequence[str] | None = None) -> None:
  """The program; bad input ends it with one line and exit status 2."""
  asked = flags.parse(Options, "python -m experiments.continual", argv)
  plan, summary = common.run_program(asked, prepare, run, output.write)
  output.show(common.wide_console(), plan, *summary)


if __name__ == "__main__":
  main()
