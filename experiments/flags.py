"""Flags that the experiments share, and what may be said with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import tyro


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
    "paper wants a GPU."
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


def check_seeds(seeds: int | None, first_seed: int = 0) -> None:
  """Raises a ValueError for numbers that count nothing."""
  if seeds is not None and seeds < 1:
    raise ValueError(f"Expected --seeds > 0, got {seeds}.")
  if not 0 <= first_seed < 2**31:
    raise ValueError(
      f"Expected --first-seed in 0 .. {2**31 - 1}, got {first_seed}."
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
      raise ValueError(
        f"Expected {flag} {', '.join(groups)} or of {', '.join(known)}, got "
        f"{name!r}."
      )
  return names
