"""Can a graph network forget edges or nodes, and how near does it come?

Question: D2DGN (arXiv:2309.16173) teaches a graph network to keep by one teacher
and to forget by another; GNNDelete (arXiv:2302.13406) freezes it and trains small
maps around what was deleted. How near do they come to a model trained without the
deleted part, beside plain unlinking, gradient ascent, descent on the rest and a
partition, and at what cost?

    python -m experiments.forget_graph --out out/graph

forgets edges, and then nodes, of a link predictor on the nearest neighbours of
scikit-learn's digits;

    python -m experiments.forget_graph --data cora --data-dir DIR
    python -m experiments.forget_graph --data cora --data-dir DIR --task nodes

does so with citations of Cora, and with a classifier of its papers. Writes
results.json, table.md, plots/, params/ and report.html, in two to three minutes
on two idle CPU cores.

How to read it: a method should have the retrained model's numbers. A high AUC of
kept over deleted edges is OVER-FORGETTING: links that were deleted stay plausible,
and the retrained model gives them nearly the probability of the others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import jax
import numpy as np
from rich.progress import Progress

from experiments import common, flags, forget_graph_study, graph_data
from experiments import forget_graph_output as output
from experiments.flags import described
from experiments.forget_graph_measure import (
  Measured,
  fit_attack,
  make_measure,
)
from experiments.forget_graph_methods import METHODS, serve, time_alone, train
from experiments.forget_graph_study import Recipe, Study

USUAL = METHODS[:-1]
DEFAULT_SEEDS = {"smoke": 2, "quick": 3, "paper": 5}
RECIPES: Mapping[str, Recipe] = {
  "smoke": Recipe((16, 8), 1e-2, 40, 3, 4, 8, 8, 2),
  "quick": Recipe((128, 64), 1e-2, 200, 10, 40, 500, 40, 4),
  "paper": Recipe((128, 64), 1e-2, 200, 10, 40, 1000, 40, 8),
}
_SMOKE_NODES = 200
_EVERY_SHARE = tuple(
  f"{kind}:{share}" for kind in ("in", "out") for share in (0.005, 0.025, 0.05)
)


def default_request(task: str, data: str, preset: str) -> str:
  """What is forgotten where nothing is asked for."""
  if task == "nodes":
    return "nodes:0.1;class:0"
  if data != "cora":
    return "edges:0.05;nodes:0.05"
  if preset == "paper":
    return ";".join((*_EVERY_SHARE, "nodes:0.05", "class:0"))
  return "in:0.05;out:0.05"


@dataclasses.dataclass(frozen=True)
class Options:
  """Forget edges, nodes or a class of nodes of a graph."""

  data: Annotated[
    str,
    described(
      "Graph: digits (scikit-learn's, each joined to its nearest), karate "
      "(Zachary's club, 34 members), cora, or npz:PATH, a file with features "
      "[n, d], edges [E, 2], each once, perhaps integer classes label [n], and "
      "perhaps ids [n] of the nodes, which the edges are then between."
    ),
  ] = "digits"

  task: Annotated[
    Literal["links", "nodes"],
    described(
      "What the network predicts: links between nodes, or the classes of nodes."
    ),
  ] = "links"

  request: Annotated[
    str | None,
    described(
      "What to forget: edges:FILE (two nodes on every line), nodes:ID,ID, "
      "index:FILE (rows of the edges, or of the nodes with --task nodes), "
      "edges:0.05 (5 % of the edges), in:0.05 or out:0.05 (as many, inside or "
      "outside the 2-hop neighbourhood of the test edges), nodes:0.1 (a tenth of "
      "the nodes), class:3; several with semicolons between. A node takes its edges along. By default some that suit the data.",
      "TEXT",
    ),
  ] = None

  layer: Annotated[
    Literal["gcn", "gat", "gin"], described("Kind of graph layer.")
  ] = "gcn"

  methods: Annotated[
    str,
    described(
      "Methods: usual, all (d2dgn_feature too), or names as in unlink,d2dgn."
    ),
  ] = "usual"

  seeds: flags.Seeds = None

  first_seed: flags.FirstSeed = 0

  preset: flags.Preset = "quick"

  strategy: Annotated[
    Literal["vmap", "map"] | None,
    described(
      "How requests and seeds share the device: all at once or one after the "
      "other; by default the former on a GPU, the latter on a CPU."
    ),
  ] = None

  data_dir: flags.DataDir = None

  out: flags.Out = "out/graph"


class Plan(NamedTuple):
  """Options that were checked, and what they name."""

  options: Options
  study: Study
  methods: tuple[str, ...]


class Outcome(NamedTuple):
  """What was found, by name of a method, "original" and "retrained".

  Attributes:
    measured: see `forget_graph_measure.Measured`.
    seconds: of compiling, and of running one lane.
    alone: seconds of one request by itself, float [S]; not of the original.
    first: the models of the first lane.
  """

  measured: dict[str, Measured]
  seconds: dict[str, tuple[float, float]]
  alone: dict[str, np.ndarray]
  first: dict[str, Any]


def prepare(options: Options) -> Plan:
  """Checks everything that can be checked before training.

  Raises:
    ValueError: one line that names the option, what was found and wanted.
  """
  flags.check_seeds(options.seeds, options.first_seed)
  names = flags.chosen(options.methods, METHODS, groups={"usual": USUAL})
  data = graph_data.load(
    options.data,
    data_dir=options.data_dir,
    max_nodes=_SMOKE_NODES if options.preset == "smoke" else None,
  )
  text = options.request
  if text is None:
    text = default_request(options.task, options.data, options.preset)
  seeds = options.seeds or DEFAULT_SEEDS[options.preset]
  on_cpu = jax.default_backend() == "cpu"
  study = forget_graph_study.make(
    data,
    graph_data.parse(text, data, options.task),
    task=options.task,
    layer=options.layer,
    recipe=RECIPES[options.preset],
    seeds=options.first_seed + np.arange(seeds),
    strategy=options.strategy or ("map" if on_cpu else "vmap"),
  )
  return Plan(options, study, names)


def run(plan: Plan, progress: Progress) -> Outcome:
  """Trains, unlearns and measures; writes nothing."""
  study, names = plan.study, plan.methods
  total = 4 + 2 * len(names)
  task = progress.add_task("training the original model", total=total)
  original = train(study)
  progress.update(task, advance=1, description="retraining")
  retrained = serve(study, "retrained", original.value)
  progress.update(task, advance=1, description="measuring both")
  attack = fit_attack(study) if study.task == "links" else None
  measure = make_measure(study, original.value, retrained.value, attack)
  lane_seed = study.lanes[1]
  start = jax.tree.map(lambda leaf: leaf[lane_seed], original.value)
  made = {
    "original": original._replace(value=start),
    "retrained": retrained,
  }
  measured = {name: measure(name, part.value) for name, part in made.items()}
  progress.advance(task)
  for name in names:
    progress.update(task, description=f"unlearning by {name}")
    made[name] = serve(study, name, original.value)
    progress.update(task, advance=1, description=f"measuring {name}")
    measured[name] = measure(name, made[name].value)
    progress.advance(task)
  progress.update(task, description="timing one request alone")
  alone = time_alone(study, ("retrained", *names), original.value)
  progress.advance(task)
  lanes = {name: len(lane_seed) for name in made}
  lanes["original"] = len(study.seeds)
  return Outcome(
    measured,
    {
      name: (part.seconds_compile, part.seconds_run / lanes[name])
      for name, part in made.items()
    },
    alone,
    {
      name: jax.tree.map(lambda v: v[0], part.value)
      for name, part in made.items()
    },
  )


def main(argv: Sequence[str] | None = None) -> None:
  """The program; bad input ends it with one line and exit status 2."""
  asked = flags.parse(Options, "python -m experiments.forget_graph", argv)
  plan, summary = common.run_program(asked, prepare, run, output.write)
  output.show(common.wide_console(), plan, summary)


if __name__ == "__main__":
  main()
