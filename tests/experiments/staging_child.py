"""Runs that are killed at each step of the switch of their folder.

`python staging_child.py FOLDER` leaves what they leave, a folder for each case.
It forks, which a process in which JAX has run must not.
"""

import os
import pathlib
import sys

from experiments import staging

NAMES = ("report.html", "params/a/weights", "plots/loss.png")
STEPS = ("write_json", "_refuse_others_files", "_exchange", "_clear", "rename")


def write(out, text, names=NAMES):
  """A run whose files all say `text`."""
  with staging.staged_output(out) as folder:
    for name in names:
      path = folder / name
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(text)


def die(*args):
  os._exit(9)


def killed_at(step, out):
  """Writes a run that dies at a step; "rename" is one of two renames."""
  if step == "rename":
    rename = pathlib.Path.rename

    def last(path, target):
      rename(path, target)
      die()

    staging._exchange = lambda *args: False
    pathlib.Path.rename = last
  else:
    setattr(staging, step, die)
  write(out, "new")


def main(folder):
  for step in STEPS:
    for is_first in (True, False):
      out = pathlib.Path(folder) / f"{step}-{is_first}" / "out"
      if not is_first:
        write(out, "old")
        (out / "notes.txt").write_text("mine")
      child = os.fork()
      if not child:
        try:
          killed_at(step, out)
        finally:
          os._exit(1)
      os.waitpid(child, 0)


if __name__ == "__main__":
  main(sys.argv[1])
