"""Writing files whole or not at all.

A file is written under a temporary name in its own folder, forced to disk and
then renamed, so that whoever reads it sees the old content or the new one, and
an interrupted run leaves nothing half-written behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import io
import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_bytes(path: str | os.PathLike[str], content: bytes) -> Path:
  """Writes a file atomically, making its folder where that is missing.

  Args:
    path: the file; one that exists is replaced.
    content: all of it.

  Returns:
    The path.

  Raises:
    OSError: the file cannot be written. Whatever is raised, the file at `path`
      is as before and no temporary file stays.

  Example:
    >>> import pathlib, tempfile
    >>> from jaxunlearn.report import files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = files.write_bytes(pathlib.Path(folder, "new", "a.bin"), b"abc")
    ...   path.name, path.read_bytes()
    ('a.bin', b'abc')
  """
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.parent / f".tmp-{os.getpid()}-{secrets.token_hex(8)}"
  try:
    # Not `tempfile`: its files are readable by their owner alone, and the
    # finished file should have the permissions that the umask gives.
    with open(temporary, "xb") as file:
      file.write(content)
      file.flush()
      os.fsync(file.fileno())
    os.replace(temporary, path)
  except BaseException:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(temporary)
    raise
  _sync_folder(path.parent)
  return path


def figure_png(figure: Any) -> bytes:
  """A `Chart`, or a figure of Matplotlib, as PNG; equal ones, equal bytes.

  Example:
    >>> from jaxunlearn import report
    >>> from jaxunlearn.report import files
    >>> chart = report.curves([0, 1], {"finetune": [0.5, 0.7]})
    >>> files.figure_png(chart)[1:4]
    b'PNG'
  """
  if not hasattr(figure, "savefig"):
    return figure.png()
  buffer = io.BytesIO()
  figure.savefig(buffer, format="png", metadata={"Software": None})
  return buffer.getvalue()


def write_text(path: str | os.PathLike[str], text: str) -> Path:
  """Writes UTF-8 text atomically; see `write_bytes`.

  Half surrogates, which undecodable file names bring along, have no UTF-8 and
  are written as backslash escapes.

  Example:
    >>> import pathlib, tempfile
    >>> from jaxunlearn.report import files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = files.write_text(pathlib.Path(folder, "a.txt"), "café")
    ...   path.stat().st_size  # Of é two bytes.
    5
  """
  return write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
  """Writes strict JSON atomically: NaN and infinities become null.

  Args:
    path: the file; one that exists is replaced.
    value: see `plain`.

  Returns:
    The path.

  Raises:
    ValueError: a part of `value` has no form in JSON; the line names it.
    OSError: see `write_bytes`.

  Example:
    >>> import pathlib, tempfile
    >>> from jaxunlearn.report import files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = files.write_json(
    ...     pathlib.Path(folder, "a.json"), [1, float("nan")])
    ...   path.read_text().split()
    ['[', '1,', 'null', ']']
  """
  text = json.dumps(plain(value), allow_nan=False, ensure_ascii=False, indent=2)
  return write_text(path, text + "\n")


def plain(value: Any, name: str = "value") -> Any:
  """Turns a value into what strict JSON knows.

  Args:
    value: None, bools, numbers, strings, paths, enum members, arrays,
      dataclasses, named tuples, mappings, lists and tuples, nested at will.
    name: what an error calls it.

  Returns:
    The same of None, bool, int, float, str, list and dict only; NaN and
    infinities are None, arrays are nested lists.

  Raises:
    ValueError: anything else, by its place: `config.optimizer`.
  """
  if value is None or isinstance(value, bool | int | float | str):
    return _plain_scalar(value)
  if isinstance(value, os.PathLike):
    return os.fsdecode(value)
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    fields = dataclasses.fields(value)
    value = {field.name: getattr(value, field.name) for field in fields}
  if isinstance(value, tuple) and hasattr(value, "_asdict"):
    value = value._asdict()
  if isinstance(value, Mapping):
    result = {
      _key(key, name): plain(item, f"{name}.{key}")
      for key, item in value.items()
    }
    if len(result) != len(value):
      raise ValueError(f"Expected {name} to have distinct keys as text.")
    return result
  if isinstance(value, list | tuple):
    return [plain(item, f"{name}[{i}]") for i, item in enumerate(value)]
  if isinstance(value, enum.Enum):
    return value.name
  if hasattr(value, "__array__"):
    return _plain_array(np.asarray(value), name)
  raise ValueError(
    f"Expected {name} to be numbers, text, lists or mappings, "
    f"got {type(value).__name__}."
  )


def check_writable(
  directory: str | os.PathLike[str], name: str = "out"
) -> Path:
  """Makes sure, before any long work, that files can be written to a folder.

  Makes the folder where it is missing, and writes and removes an empty file,
  since permissions alone do not tell (read-only disks, the root user).

  Args:
    directory: the folder.
    name: the argument that an error names.

  Returns:
    The path.

  Raises:
    ValueError: it is no folder, or cannot be made or written to.

  Example:
    >>> import pathlib, tempfile
    >>> from jaxunlearn.report import files
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = files.check_writable(pathlib.Path(folder, "new"))
    ...   path.name, list(path.iterdir())
    ('new', [])
  """
  if not os.fspath(directory):  # As a path it would be the working folder.
    raise ValueError(f"Expected {name} to be a directory, got an empty path.")
  path = Path(directory)
  try:
    path.mkdir(parents=True, exist_ok=True)
    probe = path / f".tmp-{os.getpid()}-{secrets.token_hex(8)}"
    with open(probe, "xb"):
      pass
    os.unlink(probe)
  except (OSError, ValueError) as error:  # ValueError: a null byte in a path.
    reason = getattr(error, "strerror", None) or str(error)
    raise ValueError(
      f"Expected {name} to be a writable directory, "
      f"got {os.fspath(directory)!r} ({reason})."
    ) from error
  return path


def _plain_scalar(value: Any) -> Any:
  """A Python scalar, stripped of subclasses (NumPy's float64, enums)."""
  if isinstance(value, enum.Enum):
    return value.name
  if value is None or isinstance(value, bool):
    return value
  if isinstance(value, float):
    return float(value) if math.isfinite(value) else None
  return int(value) if isinstance(value, int) else str(value)


def _key(key: Any, name: str) -> str:
  if isinstance(key, str | int | float | np.number):
    return str(key)
  raise ValueError(
    f"Expected {name} to have keys of text, got {type(key).__name__}."
  )


def _plain_array(array: np.ndarray, name: str) -> Any:
  if array.dtype.kind in "OMmc":
    raise ValueError(
      f"Expected {name} to be an array of numbers, got {array.dtype}."
    )
  if array.dtype.kind not in "biufSU":
    array = array.astype(np.float64)  # bfloat16 and its like.
  return plain(array.tolist(), name)


def _sync_folder(folder: Path) -> None:
  """Forces the rename to disk where the system lets folders be opened."""
  with contextlib.suppress(OSError):
    handle = os.open(folder, os.O_RDONLY)
    try:
      os.fsync(handle)
    finally:
      os.close(handle)
