"""Every file of published numbers is met by a function of the library."""

import fnmatch
import pathlib

import jax
import numpy as np
import pytest
from golden.table import (
  DATA,
  IN_ROOMS,
  LOOKS,
  NOT_READ,
  TABLE,
  load,
  readers_of,
)

SHARED = pathlib.Path(__file__).parents[3] / "shared" / "golden"
NAMES = sorted(path.stem for path in DATA.glob("*.npz"))
CASES = [
  pytest.param(name, reader, id=f"{name}-{reader.compute.__name__}")
  for name in NAMES
  for reader in readers_of(name)
]


@pytest.mark.parametrize(("name", "reader"), CASES)
def test_it_equals_the_published_numbers(name, reader):
  stored = load(name)
  compute = lambda: reader.compute(stored)
  with jax.enable_x64(reader.float64):
    computed = (compute if reader.compute in LOOKS else jax.jit(compute))()
  for entry, found in computed.items():
    found = np.asarray(found, np.float64)
    wanted = np.asarray(stored[entry], np.float64)
    assert found.shape == wanted.shape, entry
    error, size = np.abs(found - wanted), np.abs(wanted)
    if reader.elementwise:
      assert (error <= reader.absolute + reader.relative * size).all(), entry
    else:
      limit = max(reader.absolute, reader.relative * size.max())
      assert error.max() <= limit, entry


def test_every_file_has_a_reader_and_every_reader_a_file():
  unread = [name for name in NAMES if not readers_of(name)]
  assert unread == sorted(IN_ROOMS)
  for name, path in IN_ROOMS.items():
    assert name in (DATA.parent / path).read_text()
  for reader in TABLE:
    assert fnmatch.filter(NAMES, reader.pattern), reader.pattern


@pytest.mark.skipif(not SHARED.is_dir(), reason="no folder of all vectors here")
def test_no_file_of_a_room_that_exists_is_left_behind():
  """Copies are the same files; the rest is of rooms that are not here yet."""
  for path in SHARED.glob("*.npz"):
    if any(fnmatch.fnmatchcase(path.stem, pattern) for pattern in NOT_READ):
      continue
    copy = DATA / path.name
    assert copy.exists(), (
      f"Copy {path.name} to tests/data and give it a reader."
    )
    assert copy.read_bytes() == path.read_bytes(), path.name
