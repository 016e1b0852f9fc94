"""A run's results appear in their folder all at once, or not at all.

They are written into a new folder beside the final one, and the two are
exchanged by a single rename. A manifest in the folder lists what a run wrote,
so that the next run replaces that and nothing else.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxunlearn.report.files import write_json

from .files import checked_path, short

try:
  import fcntl
except ImportError:  # Windows: what a dead run left is then not swept.
  fcntl = None  # type: ignore[assignment]

MANIFEST = ".jaxunlearn-run.json"
_UNFINISHED = ".jaxunlearn-unfinished"
# Below `out`, what a run keeps to go on with if it is stopped; see `bench.kept`.
KEPT = ".jaxunlearn-kept"
_PREFIX = "jaxunlearn"
# What runs write, so that most clashes are found before the work and not after.
_NAMES = frozenset(
  (
    *(
      "certificate.html",
      "certificate.json",
      "curves.json",
      "params",
      "plots",
      "report.html",
      "results.json",
    ),
    *("sweep.json", "table.md", "values.csv"),
  )
)
_Files = dict[str, list[int] | None]


@contextlib.contextmanager
def staged_output(out: str | os.PathLike[str]) -> Iterator[Path]:
  """A new folder that takes the place of `out` once all has gone well.

  What an earlier run wrote into `out` is replaced, by one rename, and what
  stopped runs kept there goes; files of anybody else stay. After a failure `out` is as before. What a run that was
  killed left beside `out` is swept.

  Args:
    out: the final folder; made where it is missing.

  Raises:
    ValueError: no folder of that name can be made or written to; it has files
      of somebody else under the names of a run's (where they came while the
      run went on, the line says where its results are); it is the working
      folder or a mount, which cannot be renamed.
  """
  out = _checked(out)
  made = [folder for folder in out.parents if not folder.exists()]
  fresh = None
  try:
    with _as_caller_error(out):
      out.parent.mkdir(parents=True, exist_ok=True)
      _sweep(out)
      _refuse_others_files(out, _NAMES)
      fresh = out.parent / f".{out.name[:80]}.{_PREFIX}-{secrets.token_hex(4)}"
      fresh.mkdir()
      (fresh / _UNFINISHED).touch()
    with _locked(fresh):
      yield fresh
      _switch(fresh, out)
  finally:
    if fresh is not None and (fresh / _UNFINISHED).exists():
      shutil.rmtree(fresh, ignore_errors=True)
    for folder in made:
      with contextlib.suppress(OSError):
        folder.rmdir()  # Only where it is empty.


def _checked(out: str | os.PathLike[str]) -> Path:
  path = checked_path(out, "--out").resolve()
  if path.exists() and not path.is_dir():
    raise ValueError(
      f"Expected --out to be a folder, got the file {short(str(path))}."
    )
  here = Path.cwd()
  if path == here or path in here.parents or os.path.ismount(path):
    raise ValueError(
      "Expected --out to be a folder of its own, which a finished run can take "
      f"the place of, got {short(str(path))}; name one inside it."
    )
  return path


@contextlib.contextmanager
def _as_caller_error(out: Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise ValueError(
      "Expected --out to be a writable directory, in one that can be written "
      f"to, got {short(str(out))!r} ({error.strerror})."
    ) from error


def _switch(fresh: Path, out: Path) -> None:
  """Puts the finished folder in the place of `out`, by one rename."""
  written = {p.name for p in fresh.iterdir()} - {_UNFINISHED}
  files = {n: s for n, s in _listed(fresh).items() if n != _UNFINISHED}
  write_json(fresh / MANIFEST, {"format": 1, "files": files})
  (fresh / _UNFINISHED).unlink()
  try:
    _refuse_others_files(out, written)
  except ValueError as error:
    kept = out.with_name(f"{out.name[:80]}-{fresh.name[-8:]}")
    fresh.rename(kept)
    raise ValueError(f"{error} The results are in {kept}.") from error
  if not out.exists():
    fresh.rename(out)
    return
  shutil.copymode(out, fresh)
  if not _exchange(fresh, out):
    # Where the system cannot exchange folders there is a moment without one;
    # `_sweep` mends what is killed in it.
    old = fresh.with_name(f"{fresh.name}-old")
    out.rename(old)
    fresh.rename(out)
    fresh = old
  _clear(fresh, out)


def _exchange(one: Path, other: Path) -> bool:
  """Swaps two folders in one step, where the system can; whether it did."""
  if os.name != "posix":
    return False
  libc: Any = ctypes.CDLL(None)
  names = os.fsencode(one), os.fsencode(other)
  swap = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS.
  if hasattr(libc, "renameat2"):
    here = -100  # AT_FDCWD
    return libc.renameat2(here, names[0], here, names[1], swap) == 0
  if hasattr(libc, "renamex_np"):
    return libc.renamex_np(*names, swap) == 0
  return False


def _clear(old: Path, out: Path) -> None:
  """Deletes what a run wrote into a folder; brings the rest to `out`."""
  shutil.rmtree(old / KEPT, ignore_errors=True)  # It has finished.
  ours = _ours(old)
  mine = {name.split("/")[0] for name in ours} | {MANIFEST}
  for path in sorted(old.iterdir()):
    if path.name not in mine and not os.path.lexists(out / path.name):
      path.rename(out / path.name)
  for name in sorted(ours, reverse=True):  # Files before their folders.
    path = old / name
    with contextlib.suppress(OSError):
      path.rmdir() if ours[name] is None else path.unlink()
  (old / MANIFEST).unlink(missing_ok=True)
  with contextlib.suppress(OSError):
    old.rmdir()


def _sweep(out: Path) -> None:
  """Removes what runs that were killed left; brings a lost `out` back."""
  left = [
    path
    for path in out.parent.glob(f".{_escaped(out.name[:80])}.{_PREFIX}-*")
    if path.is_dir() and not _is_alive(path)
  ]
  complete = [path for path in left if (path / MANIFEST).is_file()]
  if complete and not out.exists():
    newest = max(complete, key=lambda p: (p / MANIFEST).stat().st_mtime_ns)
    newest.rename(out)
  for path in left:
    if (path / _UNFINISHED).exists():
      shutil.rmtree(path, ignore_errors=True)
    elif (path / MANIFEST).is_file():
      _clear(path, out)


def _escaped(name: str) -> str:
  return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _refuse_others_files(out: Path, names: Any) -> None:
  """Raises if `out` has, under these names, what no run of ours wrote."""
  if not out.exists():
    return
  ours = _ours(out)
  for name in _listed(out):
    if name.split("/")[0] in names and name not in ours:
      raise ValueError(
        f"Expected --out without files of others under the names that a run "
        f"writes, got {short(name)} in {short(str(out))}, which no run wrote or "
        "somebody changed; move it, or name another folder."
      )


def _ours(folder: Path) -> _Files:
  """What the manifest lists and is still as the run left it."""
  try:
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    listed = dict(manifest["files"])
  except (OSError, ValueError, KeyError, TypeError):
    return {}
  found = _listed(folder)
  return {n: s for n, s in found.items() if n in listed and listed[n] == s}


def _listed(folder: Path) -> _Files:
  """Everything below a folder: size and second of change; None for folders."""
  found: _Files = {}
  for place, folders, files in os.walk(folder):
    for name in (*folders, *files):
      path = Path(place, name)
      is_folder = path.is_dir() and not path.is_symlink()
      status = path.lstat()
      size = None if is_folder else [status.st_size, int(status.st_mtime)]
      found[path.relative_to(folder).as_posix()] = size
  found.pop(MANIFEST, None)
  return found


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
  """Says, for as long as this process lives, that the folder is in use."""
  if fcntl is None:
    yield
    return
  handle = os.open(folder, os.O_RDONLY)
  try:
    with contextlib.suppress(OSError):  # File systems without locks.
      fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield
  finally:
    os.close(handle)


def _is_alive(folder: Path) -> bool:
  """Whether some process still holds the folder, or that cannot be told."""
  if fcntl is None:
    return True
  try:
    handle = os.open(folder, os.O_RDONLY)
  except OSError:
    return True
  try:
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except OSError:
    return True
  finally:
    os.close(handle)
  return False
