"""The programs `python -m experiments.NAME`: one line each.

Asked for help they answer from `manuals.json`, without importing JAX; see
`manual`, which writes it.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent
MANUALS = ROOT / "manuals.json"


def program(
  space: dict[str, Any],
  alone: bool = False,
  instead: Mapping[str, str] | None = None,
) -> tuple[Callable[..., None], Callable[[str], Any]]:
  """`main` and `__getattr__` of a program; runs it if it is what was started.

  Args:
    space: the program's `globals()`; its name is that of the study. Its `prepare`
      and `run`, where it has them, stand in for the frame's.
    alone: whether the study is not on the frame, and has a `main` of its own.
    instead: by a flag that another program takes over with, its name.
  """
  name = space["__spec__"].name.rpartition(".")[2]

  def look_up(attribute: str) -> Any:
    if attribute.startswith("_"):
      raise AttributeError(attribute)
    study = importlib.import_module(f"{__package__}.studies.{name}")
    if attribute not in ("prepare", "run") or alone:
      return getattr(study, attribute)
    if attribute == "run":
      return importlib.import_module(f"{__package__}.bench.run").run
    shell = importlib.import_module(f"{__package__}.bench.shell")
    return lambda options: shell.prepare(study.STUDY, options)

  def main(argv: Sequence[str] | None = None) -> None:
    """The program; bad input ends it with one line and exit status 2."""
    given = sys.argv[1:] if argv is None else argv
    for flag, other in (instead or {}).items():
      if flag in given:
        found = importlib.import_module(f"{__package__}.{other}")
        return found.main([word for word in given if word != flag])
    if {"-h", "--help"} & set(given) and (text := manual(name)):
      print(text)
      raise SystemExit(0)
    if alone:
      return look_up("main")(argv, started(name))
    find = lambda attribute: space.get(attribute) or look_up(attribute)
    shell = importlib.import_module(f"{__package__}.bench.shell")
    shell.main(look_up("STUDY"), find("prepare"), find("run"), argv)

  if space["__name__"] == "__main__":
    main()
  return main, look_up


def started(name: str) -> str:
  """How a program is started: from a checkout, or from an install."""
  here = __package__ == "experiments"
  return f"python -m experiments.{name}" if here else f"jaxunlearn {name}"


def manual(name: str) -> str | None:
  """The stored help of a program; None if it was written for other sources."""
  try:
    stored = json.loads(MANUALS.read_text())
  except (OSError, ValueError):
    return None
  if stored.get("sources") != sources() or name not in stored:
    return None
  return stored[name].replace(f"python -m experiments.{name}", started(name))


def sources() -> str:
  """A hash of the modules that help is made of."""
  found = hashlib.sha256()
  for path in sorted(ROOT.rglob("*.py")):
    if path.parent.name != "benchmarks":
      found.update(path.relative_to(ROOT).as_posix().encode())
      found.update(path.read_bytes())
  return found.hexdigest()
