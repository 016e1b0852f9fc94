"""Flags that the experiments share, and what may be said with them."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import tyro

from .files import checked_path, short

T = TypeVar("T")

# The most that a number may be; of the others what 32 bits hold.
MOST: Mapping[str, int] = {
  "seeds": 10_000,
  "shadows": 10_000,
  "twins": 1_000,
  "train_steps": 10_000_000,
  "steps": 10_000_000,
  "cycles": 10_000_000,
  "many_requests": 10_000_000,
  "batch_size": 1_000_000,
  "rank": 100_000,
  "classes": 100_000,
  "tune": 10_000,
}


def described(text: str, metavar: str | None = None):
  """The help of a flag."""
  return tyro.conf.arg(help=text, metavar=metavar)


Seeds = Annotated[
  int | None,
  described(
    "How often to repeat everything with other random numbers; the preset's "
    "number by default.",
    "INT",
  ),
]
FirstSeed = Annotated[
  int,
  described("The first of the seeds; settings were chosen on others.", "INT"),
]
Preset = Annotated[
  Literal["smoke", "quick", "paper"],
  described(
    "Size: smoke takes seconds and proves little, quick fits two CPU cores, "
    "paper wants a GPU. It trains as its paper says where that is told of such "
    "data and such a network (cifar10 and mufac with a resnet)."
  ),
]
DataDir = Annotated[
  str | None,
  described(
    "Folder with the files of --data; the environment variable "
    "JAXUNLEARN_DATA by default.",
    "DIR",
  ),
]
Out = Annotated[str, described("Folder for the results.", "DIR")]


def parse(options: type[T], prog: str, argv: Sequence[str] | None) -> T:
  """The options of a command line.

  Args:
    options: a dataclass, see `tyro.cli`.
    prog: the program, for the help.
    argv: its arguments; those of the process if None.

  Raises:
    SystemExit: with status 0 after --help; with status 2, and one line on
      stderr, where the arguments do not fit.
  """
  said = io.StringIO()
  try:
    with contextlib.redirect_stderr(said):
      return tyro.cli(options, prog=prog, args=argv)
  except SystemExit as end:
    if end.code:
      print(f"error: {_without_box(said.getvalue())}", file=sys.stderr)
      raise SystemExit(2) from None
    raise


def _without_box(text: str) -> str:
  """What is said in a box, in one line; its title and its help are left out."""
  lines = [line.strip("│ ") for line in text.splitlines()]
  lines = [line for line in lines if line][1:]
  is_rule = [not line.strip("╰─╯-") for line in lines]
  first = is_rule.index(False) if False in is_rule else 0
  last = is_rule.index(True, first) if True in is_rule[first:] else None
  words = " ".join(lines[first:last])
  # What the parser of numbers says of "x", in the words of other errors.
  found = re.match(
    r"Error parsing (\S+): .*? from \[(.*?)\]\.", words
  ) or re.match(
    r"Error parsing (\S+): .*(?:int\(\).*?|float|digits; .*?)(?:: (.*)|$)",
    words,
  )
  if found is None:
    unknown = words.removeprefix("Unrecognized options: ")
    if unknown != words:
      return f"Expected options as in --help, got {short(unknown)}."
    return words or "Expected arguments as in --help."
  is_number = re.search(r"INT|FLOAT|int\(\)|float:|digits", words)
  kind = "a number" if is_number else "another value"
  given = short((found[2] or "one of too many digits").replace(" ", ""))
  return f"Expected {found[1].rstrip(':')} to be {kind}, got {given}."


def check(options: Any) -> None:
  """Checks what holds for the options of every program.

  Raises:
    ValueError: a text that is empty, as a shell's unset variable leaves it,
      which must not become a default; a number that 32 bits do not hold, or
      more than `MOST` allows.
  """
  for field in dataclasses.fields(options):
    value, flag = getattr(options, field.name), field.name.replace("_", "-")
    if isinstance(value, str) and not value.strip():
      raise ValueError(f"Expected --{flag} to say something, got {value!r}.")
    if field.name == "data_dir" and value is not None:
      checked_path(value, "--data-dir")
    if isinstance(value, int) and not isinstance(value, bool):
      most = MOST.get(field.name, 2**31 - 1)
      if not -(2**31) <= value <= most:
        raise ValueError(
          f"Expected --{flag} of at most {most}, got {_brief(value)}."
        )


def _brief(number: int) -> str:
  return (
    str(number) if abs(number) < 10**30 else "a number of 30 digits or more"
  )


def check_numbers(
  options: Any, least: Mapping[str, int], positive: Sequence[str] = ()
) -> None:
  """Checks what a program's own numbers may be.

  Args:
    options: a dataclass of flags.
    least: by name of a whole number the smallest that it may be.
    positive: names of numbers that are above 0 and finite.

  Raises:
    ValueError: the first that is not.
  """
  for name in (*least, *positive):
    value = getattr(options, name)
    wanted = f">= {least[name]}" if name in least else "> 0 and finite"
    holds = value >= least[name] if name in least else 0 < value < float("inf")
    if not holds:
      flag = name.replace("_", "-")
      raise ValueError(f"Expected --{flag} {wanted}, got {value}.")


def check_seeds(seeds: int | None, first_seed: int = 0) -> None:
  """Raises a ValueError for numbers that count nothing."""
  if seeds is not None and seeds < 1:
    raise ValueError(f"Expected --seeds > 0, got {seeds}.")
  if seeds is not None and seeds > MOST["seeds"]:
    raise ValueError(f"Expected --seeds <= {MOST['seeds']}, got {seeds}.")
  if not 0 <= first_seed < 2**31:
    raise ValueError(
      f"Expected --first-seed in 0 .. {2**31 - 1}, got {first_seed}."
    )
  if first_seed + (seeds or 0) > 2**31:
    raise ValueError(
      f"Expected the last of --seeds below {2**31}, got --first-seed "
      f"{first_seed} and {seeds} of them."
    )


def chosen(
  text: str,
  known: Iterable[str],
  flag: str = "--methods",
  groups: Mapping[str, Iterable[str]] | None = None,
) -> tuple[str, ...]:
  """The names that a list with commas asks for, each once.

  Args:
    text: "a,b", "all", or the name of a group.
    known: what there is; "all" is all of it.
    flag: for the error.
    groups: further words for several names.

  Raises:
    ValueError: a name that is not known, or none at all.
  """
  known = tuple(known)
  groups = dict(groups or {})
  groups.setdefault("all", known)
  if text in groups:
    return tuple(groups[text])
  names = tuple(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))
  for name in names or (text,):
    if name not in known:
      near = difflib.get_close_matches(name, [*known, *groups], 1, 0.5)
      raise ValueError(
        f"Expected {flag} {', '.join(groups)} or of {', '.join(known)}, got "
        f"{name!r}" + (f"; did you mean {near[0]!r}?" if near else ".")
      )
  return names
