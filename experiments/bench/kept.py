"""Models and figures of a long run, kept as they are made: a stopped one goes on.

They lie in the run's output folder until it has finished, each with what tells it
from any other: the program that made it, learning rates and all, and checksums of
what it was made of (`core.fingerprints`, steps of `core.checkpoints`, as those of
`jaxunlearn.stream`). State of another run is never gone on with.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxunlearn.core import checkpoints, fingerprints

from .. import common

_ALL = 1 << 30  # Of the lanes of a program every one is kept.


class Kept(NamedTuple):
  """Where a run keeps what it makes until it has finished.

  Attributes:
    folder: of the results; what is kept is in `common.KEPT` below it.
    run: what an error says of the run, by name.
  """

  folder: Path
  run: Mapping[str, str]

  def timed_all(
    self, name: str, fn: Any, lanes: Sequence[Mapping[str, Any]]
  ) -> list[common.Timed]:
    """`common.timed_all` of the lanes that are not there yet; each is kept at once.

    Args:
      name: of the program, for the folder.
      fn: of pytrees of arrays, as many as a lane has.
      lanes: by name what it is called with; of one shape.

    Returns:
      A result for each lane. The times and memory of those that were there are
      those of when they were made.

    Raises:
      UnusableError: what is there was left by another run.
    """
    fn, place = jax.jit(fn), self.folder / common.KEPT / name
    program, like = fingerprints.program(fn, *lanes[0].values())
    whole = lambda lane: {
      **{k: fingerprints.checksum(v) for k, v in lane.items()},
      "settings": program,
    }
    found: list[common.Timed] = []
    with _opened(place) as store:
      last = checkpoints.latest(store)
      for i, lane in enumerate(lanes[: 0 if last is None else last + 1]):
        told: Any = checkpoints.read_metadata(store, i)
        self._check(place, told, whole(lane))
        value, _ = checkpoints.restore_step(store, i, like)
        found.append(common.Timed(value, *told["seconds"], told["memory"]))

      def keep(i: Any, made: common.Timed) -> None:
        found.append(made)
        told = {"seconds": made.seconds, "memory": made.memory}
        told |= {"run": dict(self.run), "made_of": whole(lanes[i])}
        checkpoints.save_step(store, i, made.value, told)

      rest = {i: lanes[i] for i in range(len(found), len(lanes))}
      common.timed_all(
        fn, {i: tuple(lane.values()) for i, lane in rest.items()}, keep
      )
    return found

  def _check(self, place: Path, told: Any, wanted: Mapping[str, str]) -> None:
    theirs, made_of = told["run"], told["made_of"]
    differs = [
      *(
        f"{k} {theirs.get(k)}"
        for k, v in self.run.items()
        if theirs.get(k) != v
      ),
      *(f"other {k}" for k, v in wanted.items() if made_of.get(k) != v),
    ]
    if differs:
      raise common.UnusableError(
        "Expected --out to hold models of this run, or of none that was stopped, "
        f"got {place} with {', '.join(differs)}; delete {place.parent}, or name "
        "another folder."
      )


@contextlib.contextmanager
def _opened(place: Path) -> Iterator[checkpoints.StepStore]:
  store = checkpoints.open_store(place, keep=_ALL)
  try:
    yield store
  finally:
    checkpoints.close_store(store)
