"""The library beside PyTorch and others, the same work side by side in one run.

Question: how much faster is it to train shadow models, score LiRA, unlearn and
take gradients of single rows here than in plain PyTorch or NumPy, what of that
does compilation eat, and what does the library cost beside bare JAX?

    python -m experiments.benchmarks.peers [--only PART ...] [--out DIR]

Parts: shadows, lira, methods, gradients and overhead; all but the last need
PyTorch, `pip install 'jaxunlearn[experiments,benchmarks]'`. About ten minutes on
two idle cores; on busy ones PyTorch with two threads may stall: `--threads 1`.
With `--devices 2` each core trains shadow models of its own.

Sides take turns, another seed each round; a figure is the median over rounds
with the least and the greatest. "Cold" counts tracing and compiling, which is
done anew each round and without the persistent cache; "warm" is a run alone.
PyTorch has one thread or two, what is faster in a short trial. Both sides must
reach the same accuracy (or the same numbers), else the exit status is 1. A ratio
above 1 says that the library is faster.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import itertools
import statistics
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

import jax
import tyro
from rich.console import Console
from rich.table import Table

from jaxunlearn.models import CNN, MLP
from jaxunlearn.report import write_json
from jaxunlearn.report.files import write_text

from .. import common
from . import (
  peers_harness,
  peers_methods,
  peers_scoring,
  peers_tasks,
  peers_training,
  phase,
)

Part = Literal["shadows", "lira", "methods", "gradients", "overhead"]

MAKERS = {
  "shadows": peers_training.shadows,
  "lira": peers_scoring.scoring,
  "methods": peers_methods.methods,
  "gradients": peers_training.gradients,
}


@dataclasses.dataclass(frozen=True)
class Options:
  """Times the library beside PyTorch, NumPy and bare JAX."""

  preset: Annotated[
    Literal["smoke", "quick"],
    tyro.conf.arg(help="smoke takes seconds a part and says nothing."),
  ] = "quick"
  only: Annotated[
    tuple[Part, ...], tyro.conf.arg(help="Parts to run; all by default.")
  ] = get_args(Part)
  repeats: Annotated[
    int | None,
    tyro.conf.arg(help="Rounds of each case; 3, or 1 of smoke."),
  ] = None
  threads: Annotated[
    tuple[int, ...], tyro.conf.arg(help="Threads PyTorch may use.")
  ] = (1, 2)
  devices: Annotated[
    int | None,
    tyro.conf.arg(
      help="Devices that JAX makes of this machine's CPU; shadow models are "
      "spread over them. One by default, one a core is faster."
    ),
  ] = None
  out: Annotated[
    str | None, tyro.conf.arg(help="Folder for results.json and table.md.")
  ] = None

  @property
  def rounds(self) -> int:
    if self.repeats is not None:
      return self.repeats
    return 1 if self.preset == "smoke" else 3


def check(options: Options) -> None:
  """Raises a ValueError for options that cannot be run."""
  if options.rounds < 1:
    raise ValueError(f"Expected --repeats > 0, got {options.rounds}.")
  if not options.threads or min(options.threads) < 1:
    raise ValueError(f"Expected --threads > 0, got {options.threads}.")
  if options.devices is not None and options.devices < 1:
    raise ValueError(f"Expected --devices > 0, got {options.devices}.")
  needs = [part for part in options.only if part != "overhead"]
  if needs and importlib.util.find_spec("torch") is None:
    raise ValueError(
      f"Expected PyTorch for {', '.join(needs)}, got none: pip install "
      "'jaxunlearn[experiments,benchmarks]', or run --only overhead."
    )


def overhead(options: Options) -> list[dict[str, Any]]:
  """The library's phase beside the same steps in bare JAX, both warm."""
  smoke = options.preset == "smoke"
  cases: list[tuple[str, Any, tuple[int, ...], int]] = [
    ("MLP 64-128-128-10", MLP(num_classes=10), (64,), 128),
    ("MLP 784-512-512-10", MLP(10, hidden=(512, 512)), (784,), 128),
    ("CNN 8x8x1", CNN(num_classes=10), (8, 8, 1), 64),
    ("CNN 32x32x3", CNN(num_classes=10), (32, 32, 3), 32),
  ]
  steps, turns = (5, 1) if smoke else (200, 5)
  rows = []
  for name, module, shape, batch_size in cases[:1] if smoke else cases:
    found = [
      phase.measure(
        name, module, shape, batch_size, phase.Options(turns, steps)
      )
      for _ in range(options.rounds)
    ]
    ratio = peers_harness.spread([1 / each["ratio"] for each in found])
    seconds = {
      side: statistics.median(each[side] for each in found) * steps / 1e3
      for side in ("library", "by hand")
    }
    row = {
      "part": "overhead",
      "work": f"{name}, {steps} steps of {batch_size}",
      "peer": "bare JAX",
      "threads": None,
      "seconds_compile": None,
      "seconds_cold": None,
      "seconds_run": seconds["library"],
      "seconds_peer": seconds["by hand"],
      "ratio": None,
      "warm_ratio": ratio._asdict(),
      "target": None,
      "scores": {},
      "peer_scores": {},
      "agrees": True,
      "rounds": options.rounds,
    }
    rows.append(row)
  return rows


@contextlib.contextmanager
def no_compilation_cache() -> Iterator[None]:
  """Compiled programs are not kept, so that compiling is timed."""
  name = "jax_compilation_cache_dir"
  before = getattr(jax.config, name)
  jax.config.update(name, None)
  try:
    yield
  finally:
    jax.config.update(name, before)


def run(options: Options, console: Console) -> list[dict[str, Any]]:
  """Times all parts asked for, showing each case; a row for each peer."""
  sizes = (
    peers_tasks.SMOKE if options.preset == "smoke" else peers_tasks.Sizes()
  )
  rows: list[dict[str, Any]] = []
  with no_compilation_cache(), common.progress() as progress:
    bar = progress.add_task("", total=None)
    tick = lambda words: progress.update(bar, description=words)
    for part in dict.fromkeys(options.only):
      if part == "overhead":
        tick("the library's own overhead")
        found = overhead(options)
        show(found, console)
        rows += found
        continue
      for case in MAKERS[part](sizes):
        found = peers_harness.measure(
          case, options.rounds, options.threads, tick
        )
        show(found, console)
        rows += found
  console.print(LEGEND)
  return rows


COLUMNS = (
  "beside",
  "seconds here",
  "there",
  "times faster, cold",
  "warm",
)


def cells(row: dict[str, Any]) -> list[str]:
  """A row in words, by `COLUMNS`."""
  threads = row["threads"]
  named = f", {threads} thread{'s' * (threads > 1)}" if threads else ""
  here = f"{row['seconds_run']:.2g}"
  if row["seconds_compile"] is not None:
    here = f"{row['seconds_compile']:.2g} + {here}"
  return [
    row["peer"] + named,
    here,
    f"{row['seconds_peer']:.2g}",
    _ratio(row["ratio"]) + _verdict(row),
    _ratio(row["warm_ratio"]),
  ]


def _ratio(value: dict[str, float] | None) -> str:
  if value is None:
    return "-"
  return f"{value['median']:.2f} ({value['low']:.2f}-{value['high']:.2f})"


def _verdict(row: dict[str, Any]) -> str:
  if row["target"] is None:
    return ""
  word = "met" if row["ratio"]["median"] >= row["target"] else "missed"
  return f", {row['target']:g} {word}"


def reached(row: dict[str, Any]) -> str:
  """What both sides achieve, the library first."""
  found = [
    f"{name.replace('_', ' ')} {value:.3g} and {row['peer_scores'][name]:.3g}"
    for name, value in row["scores"].items()
  ]
  if not found:
    return ""
  return ("" if row["agrees"] else "DISAGREE: ") + ", ".join(found)


LEGEND = (
  "Medians over rounds, least and greatest in brackets. Seconds here: compiling "
  "(with tracing) + a warm run. Cold: there over compiling and the first run "
  "here; warm: there over a run alone. Under each work: what both sides reach, "
  "here and there."
)


def by_work(rows: list[dict[str, Any]]) -> list[tuple[str, list[dict]]]:
  groups = itertools.groupby(rows, key=lambda row: row["work"])
  return [(work, list(group)) for work, group in groups]


def show(rows: list[dict[str, Any]], console: Console) -> None:
  """A table a piece of work, in the terminal."""
  for work, group in by_work(rows):
    table = Table(
      *COLUMNS, title=work, caption="\n".join(_notes(group)) or None
    )
    for row in group:
      table.add_row(*cells(row))
    console.print(table)


def markdown(rows: list[dict[str, Any]]) -> str:
  """The same as Markdown."""
  columns = ("work", *COLUMNS, "both reach")
  lines = [columns, ("---",) * len(columns)]
  lines += [(row["work"], *cells(row), reached(row)) for row in rows]
  table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
  return f"Device: {common.device()}. {LEGEND}\n\n{table}\n"


def _notes(group: list[dict[str, Any]]) -> list[str]:
  """What is reached, once where all peers reach the same."""
  return list(dict.fromkeys(filter(None, map(reached, group))))


def main(options: Options) -> list[dict[str, Any]]:
  with common.failing_on_bad_input():
    check(options)
    if options.devices is not None:
      jax.config.update("jax_num_cpu_devices", options.devices)
    staged = (
      contextlib.nullcontext()
      if options.out is None
      else common.staged_output(options.out)
    )
    with staged as out:
      rows = run(options, Console())
      if out is not None:
        result = {
          "benchmark": "peers",
          "device": common.device(),
          "environment": common.environment(),
          "torch": _version(),
          "config": dataclasses.asdict(options),
          "rows": rows,
        }
        write_json(out / "results.json", result)
        write_text(out / "table.md", markdown(rows))
  if not all(row["agrees"] for row in rows):
    raise SystemExit(1)
  return rows


def _version() -> str | None:
  if importlib.util.find_spec("torch") is None:
    return None
  import torch

  return torch.__version__


if __name__ == "__main__":
  main(tyro.cli(Options, prog="python -m experiments.benchmarks.peers"))
