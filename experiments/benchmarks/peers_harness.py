"""How `peers` times two sides: cold, warm, in turns, and only if they agree."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

Scores = dict[str, float]
Tick = Callable[[str], None]

# A run shorter than this is timed again and the second time counts: the first
# pays for waking threads and fetching code.
_SHORT = 1.0


class Peer(NamedTuple):
  """Another implementation of a case's work.

  Attributes:
    name: what it is called in the table.
    run: `seed -> result`, the whole work.
    scores: what a result achieves, by the names that the library's has.
    probe: None, or a small part of the work, on which the number of PyTorch's
      threads is chosen.
    target: None, or how many times faster the library must be.
  """

  name: str
  run: Callable[[int], Any]
  scores: Callable[[Any], Scores]
  probe: Callable[[], Any] | None = None
  target: float | None = None


class Case(NamedTuple):
  """Work that the library and its peers do.

  Attributes:
    part: which part of the benchmark it belongs to.
    work: what is done, with its sizes.
    library: a pure function, compiled anew for every round.
    args: `seed -> arguments` of it.
    scores: what the library's result achieves.
    peers: who else does it.
    tolerance: by which the mean scores of two sides may differ.
  """

  part: str
  work: str
  library: Callable[..., Any]
  args: Callable[[int], tuple[Any, ...]]
  scores: Callable[[Any], Scores]
  peers: tuple[Peer, ...]
  tolerance: Scores


class Spread(NamedTuple):
  """A figure over rounds: its median, and the least and greatest of them."""

  median: float
  low: float
  high: float


def spread(values: Sequence[float]) -> Spread:
  return Spread(statistics.median(values), min(values), max(values))


def measure(
  case: Case, repeats: int, threads: Sequence[int], tick: Tick
) -> list[dict[str, Any]]:
  """Times a case; the sides take turns, with another seed each round.

  A ratio is that of the two sides' seconds in the same round: `ratio` counts
  the library's tracing, compiling and first run, `warm_ratio` a run alone.

  Args:
    case: what to time.
    repeats: rounds.
    threads: numbers of threads that PyTorch may use; the better is taken.
    tick: is told what comes next.

  Returns:
    A row for each peer.
  """
  chosen = {}
  for peer in case.peers:
    if peer.probe is not None:
      tick(f"{case.work}, {peer.name}: threads")
      chosen[peer.name] = _fastest_threads(peer.probe, threads)
  compiling, cold, warm, ours = [], [], [], []
  seconds: dict[str, list[float]] = {peer.name: [] for peer in case.peers}
  theirs: dict[str, list[Scores]] = {peer.name: [] for peer in case.peers}
  for seed in range(repeats):
    tick(f"{case.work}, the library, round {seed + 1} of {repeats}")
    args = case.args(seed)
    jax.clear_caches()  # As in a fresh process: traced and compiled anew.
    first = _timed(lambda: _compiled(case.library, args))  # noqa: B023
    run = first.value
    value, once, again = _twice(lambda: jax.block_until_ready(run(*args)))  # noqa: B023
    compiling.append(first.seconds)
    cold.append(first.seconds + once)
    warm.append(again)
    ours.append(case.scores(value))
    for peer in case.peers:
      tick(f"{case.work}, {peer.name}, round {seed + 1} of {repeats}")
      if peer.name in chosen:
        _set_threads(chosen[peer.name])
      value, _, took = _twice(lambda: peer.run(seed))  # noqa: B023
      seconds[peer.name].append(took)
      theirs[peer.name].append(peer.scores(value))
  achieved = _mean(ours)
  rows = []
  for peer in case.peers:
    their = _mean(theirs[peer.name])
    ratio = spread([p / t for p, t in zip(seconds[peer.name], cold)])
    row = {
      "part": case.part,
      "work": case.work,
      "peer": peer.name,
      "threads": chosen.get(peer.name),
      "seconds_compile": statistics.median(compiling),
      "seconds_run": statistics.median(warm),
      "seconds_cold": statistics.median(cold),
      "seconds_peer": statistics.median(seconds[peer.name]),
      "ratio": ratio._asdict(),
      "warm_ratio": spread(
        [p / t for p, t in zip(seconds[peer.name], warm)]
      )._asdict(),
      "target": peer.target,
      "scores": achieved,
      "peer_scores": their,
      "agrees": agree(achieved, their, case.tolerance),
      "rounds": repeats,
    }
    rows.append(row)
  return rows


def agree(mine: Scores, theirs: Scores, tolerance: Scores) -> bool:
  """Whether two sides achieve the same, score by score; nan never does."""
  return all(
    abs(mine[name] - theirs[name]) <= tolerance[name] for name in tolerance
  )


class _Timed(NamedTuple):
  value: Any
  seconds: float


def _timed(run: Callable[[], Any]) -> _Timed:
  began = time.perf_counter()
  value = run()
  return _Timed(value, time.perf_counter() - began)


def _twice(run: Callable[[], Any]) -> tuple[Any, float, float]:
  """The value, the seconds of the first run and those of a warm one."""
  first = _timed(run)
  again = _timed(run) if first.seconds < _SHORT else first
  return first.value, first.seconds, again.seconds


def _compiled(fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
  return jax.jit(fn).lower(*args).compile()


def _fastest_threads(probe: Callable[[], Any], threads: Sequence[int]) -> int:
  best, least = threads[0], float("inf")
  for count in threads:
    _set_threads(count)
    probe()
    seconds = _timed(probe).seconds
    if seconds < least:
      best, least = count, seconds
  return best


def _set_threads(count: int) -> None:
  import torch

  torch.set_num_threads(count)


def _mean(scores: Sequence[Scores]) -> Scores:
  return {
    name: statistics.fmean(each[name] for each in scores) for name in scores[0]
  }
