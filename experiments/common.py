"""What every experiment needs: caching, timing, progress, errors, output."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
from rich.console import Console
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  Progress,
  SpinnerColumn,
  TaskID,
  TextColumn,
  TimeElapsedColumn,
)
from rich.table import Table

from jaxunlearn.report.files import write_json

from . import flags
from .staging import KEPT as KEPT
from .staging import staged_output


class UnusableError(ValueError):
  """What others are to be compared with is of no use; the caller may change it."""


class Timed(NamedTuple):
  """A result, and what making it took.

  Attributes:
    value: the result.
    seconds_compile: for compiling the program.
    seconds_run: for running it.
    memory: bytes that the program holds beside its arguments, as (temporaries,
      results); nan where the backend does not say.
  """

  value: Any
  seconds_compile: float
  seconds_run: float
  memory: tuple[float, float] = (float("nan"), float("nan"))

  @property
  def seconds(self) -> tuple[float, float]:
    """Of compiling and of running."""
    return self.seconds_compile, self.seconds_run


def use_compilation_cache() -> str:
  """Keeps compiled programs between runs, in .cache/jax of the working folder.

  The environment variable JAX_COMPILATION_CACHE_DIR names another folder.
  Returns the folder.
  """
  folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
  folder = folder or str(Path.cwd() / ".cache" / "jax")
  jax.config.update("jax_compilation_cache_dir", folder)
  # Small programs too: of a smoke run they are most of the waiting.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  return folder


@contextlib.contextmanager
def compiling_for(preset: str) -> Iterator[None]:
  """Compiles a smoke run with less care, which takes half as long.

  Its programs are too small for their speed to matter.
  """
  flag = "jax_disable_most_optimizations"
  before = jax.config.read(flag)
  jax.config.update(flag, before or preset == "smoke")
  try:
    yield
  finally:
    jax.config.update(flag, before)


def timed(fn: Callable[..., Any], *args: Any) -> Timed:
  """Compiles and runs a pure function, timing the two apart.

  Args:
    fn: of pytrees of arrays, not yet jitted.
    *args: what it is called with.

  Returns:
    The result, complete on the device, and the two times.
  """
  return timed_all(fn, {"": args})[""]


def timed_all(
  fn: Callable[..., Any],
  runs: Mapping[Any, tuple[Any, ...]],
  done: Callable[[Any, Timed], None] = lambda name, made: None,
) -> dict[Any, Timed]:
  """The same for several arguments of one shape, by name; compiled once.

  `done` is told of each as soon as it is there.
  """
  if not runs:
    return {}
  start = time.perf_counter()
  compiled = jax.jit(fn).lower(*next(iter(runs.values()))).compile()
  seconds, found = time.perf_counter() - start, {}
  held = compiled.memory_analysis()
  memory = (held.temp_size_in_bytes, held.output_size_in_bytes) if held else ()
  for name, args in runs.items():
    start = time.perf_counter()
    value = jax.block_until_ready(compiled(*args))
    taken = time.perf_counter() - start
    found[name] = Timed(value, seconds, taken, *([memory] if memory else []))
    done(name, found[name])
  return found


def fail(message: object) -> NoReturn:
  """Ends the program: one line on stderr, exit status 2."""
  line = " ".join(str(message).split())
  print(f"error: {line}", file=sys.stderr)
  raise SystemExit(2)


@contextlib.contextmanager
def failing_on_bad_input() -> Iterator[None]:
  """Turns a caller's mistake, a ValueError, into `fail`.

  So are numbers that do not fit and arrays that memory does not hold: both are
  asked for by flags and files.
  """
  try:
    yield
  except (ValueError, OverflowError) as error:
    fail(error)
  except MemoryError as error:
    fail(f"Expected data that fit into memory, got {error or 'more'}.")


@contextlib.contextmanager
def failing_on_system_errors() -> Iterator[None]:
  """Turns what the system refuses, such as room on a full disk, into `fail`."""
  try:
    yield
  except OSError as error:
    place = "" if error.filename is None else f": {error.filename}"
    fail(f"{error.strerror or error}{place}")


def demonstrate(
  kind: type, run: Callable[..., Any], argv: Sequence[str] | None, prog: str
) -> tuple[Any, Any]:
  """The program of what writes no folder of results: its options, and what it found.

  Args:
    kind: of the options.
    run: `(options, say) -> found`; `say` is told of every stage. Its ValueErrors
      are the caller's mistakes, which end it with one line and exit status 2.
    argv: see `flags.parse`.
    prog: likewise.
  """
  options = flags.parse(kind, prog, argv)
  with failing_on_system_errors(), failing_on_bad_input():
    flags.check(options)
    use_compilation_cache()
    with stages("loading the model") as say:
      return options, run(options, say)


class _Stages(Progress):
  """A bar that is drawn on a terminal; elsewhere a line for each stage."""

  _began = time.perf_counter()
  _stage: Any = None

  def add_task(self, description: str, *args: Any, **fields: Any) -> TaskID:
    self._say(description)
    return super().add_task(description, *args, **fields)

  def update(self, task_id: TaskID, **fields: Any) -> None:
    if fields.get("description"):
      self._say(fields["description"])
    super().update(task_id, **fields)

  def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
    if kind is not None:  # What went wrong has a line of its own.
      self._stage = None
    super().__exit__(kind, value, trace)

  def stop(self) -> None:
    self._say(None)
    super().stop()

  def _say(self, stage: str | None) -> None:
    now, last = time.perf_counter(), self._stage
    self._stage = None if stage is None else (stage, now)
    if (
      last is not None and now - last[1] > 0.05 and not self.console.is_terminal
    ):
      took, total = now - last[1], now - self._began
      print(f"{total:7.1f} s  {last[0]}: {took:.1f} s", file=sys.stderr)


def progress() -> Progress:
  """A progress bar on stderr that leaves nothing behind.

  Where stderr is no terminal each stage leaves a line with the seconds since the
  program was loaded, and its own.
  """
  return _Stages(
    SpinnerColumn(),
    TextColumn("{task.description}", markup=False),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    console=Console(stderr=True),
    transient=True,
  )


def silent(words: str) -> None:
  """Tells nobody of a stage."""
  del words


@contextlib.contextmanager
def stages(first: str) -> Iterator[Callable[[str], None]]:
  """`progress` of a program that only names its stages, one after the other."""
  with progress() as bar:
    task = bar.add_task(first, total=None)
    yield lambda words: bar.update(task, description=words)


def wide_console() -> Console:
  """A console for tables; files and pipes have no width but that of COLUMNS."""
  console = Console()
  known = console.is_terminal or os.environ.get("COLUMNS", "").isdecimal()
  return console if known else Console(width=120)


def run_program(
  asked: Any,
  prepare: Callable[[Any], Any],
  run: Callable[[Any, Progress], Any],
  write: Callable[[Path, Any, Any], Any],
) -> tuple[Any, Any]:
  """What every experiment's program does between its flags and its last words.

  Bad input ends it with one line and exit status 2 before anything is trained;
  the output folder changes only when all has gone well.

  Args:
    asked: the options; has `out`, the folder.
    prepare: `asked -> plan`; its ValueErrors are the caller's mistakes.
    run: `(plan, progress) -> outcome`.
    write: `(folder, plan, outcome) -> what is to be shown`.

  Returns:
    The plan, and what `write` returned.
  """
  with failing_on_system_errors(), contextlib.ExitStack() as stack:
    with failing_on_bad_input():
      flags.check(asked)
      use_compilation_cache()
      stack.enter_context(compiling_for(getattr(asked, "preset", "")))
      plan = prepare(asked)
      folder = stack.enter_context(staged_output(asked.out))
    for line in getattr(plan, "notes", ()):
      print(f"note: {line}", file=sys.stderr)
    with progress() as bar:
      try:
        outcome = run(plan, bar)
        task = bar.add_task("writing the report", total=None)
        shown = write(folder, plan, outcome)
      except UnusableError as error:
        fail(error)
      bar.remove_task(task)
  return plan, shown


def environment() -> dict[str, str]:
  """Versions and machine, for the results."""
  packages = ("jaxunlearn", "jax", "jaxlib", "flax", "optax", "numpy")
  versions = {name: importlib.metadata.version(name) for name in packages}
  return {
    **versions,
    "python": platform.python_version(),
    "platform": platform.platform(terse=True),
    "cpu_count": str(os.cpu_count()),
  }


def device() -> str:
  """The devices in a few words, "4 x NVIDIA H100"."""
  devices = jax.devices()
  kind = devices[0].device_kind
  if kind == "cpu":
    return f"cpu, {os.cpu_count()} cores"
  return kind if len(devices) == 1 else f"{len(devices)} x {kind}"


def interleaved_medians(
  sides: Mapping[str, Callable[[], Any]], repeats: int
) -> dict[str, float]:
  """Seconds of each side, the median of runs that take turns.

  Args:
    sides: by name, what to run; what compiles has to have done so.
    repeats: timed runs of each.
  """
  times: dict[str, list[float]] = {side: [] for side in sides}
  for _ in range(repeats):
    for side, run in sides.items():
      began = time.perf_counter()
      jax.block_until_ready(run())
      times[side].append(time.perf_counter() - began)
  return {side: statistics.median(t) for side, t in times.items()}


def show_rows(
  benchmark: str,
  columns: Mapping[str, str],
  rows: list[dict[str, Any]],
  out: str | None,
  shown: Sequence[Mapping[str, Any]] | None = None,
  **more: Any,
) -> list[dict[str, Any]]:
  """Prints what a benchmark found as a table; writes it where a file is named.

  Args:
    benchmark: its name.
    columns: by head how the cell is written of a row, as in "{seconds:.2f}".
    rows: what was found.
    out: the file; None for none.
    shown: the rows of the table where they are others.
    **more: further fields of the file.
  """
  table = Table(*columns)
  for row in shown or rows:
    table.add_row(*(cell.format_map(row) for cell in columns.values()))
  wide_console().print(table)
  if out is not None:
    write_json(
      out, {"benchmark": benchmark, "device": device(), **more, "rows": rows}
    )
  return rows
