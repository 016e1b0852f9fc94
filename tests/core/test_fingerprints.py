"""Digests that tell runs apart, and that another process finds again."""

import runpy
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn.core import fingerprints

CODE = """
import jax, jax.numpy as jnp
from jaxunlearn.core import fingerprints

def make(rate=0.1, table=(1.0, 2.0, 3.0)):
  table = jnp.array(table)

  def step(x):
    key = jax.random.key(1)
    x = jax.nn.relu(x) * table + rate * jax.random.normal(key, x.shape)
    x, _ = jax.lax.scan(lambda c, r: (jnp.sort(c) + r, None), x, jnp.ones((4, 3)))
    return jax.jit(lambda y: jax.nn.softmax(y) @ table)(x)

  return step

x = jnp.ones(3)
print(fingerprints.program(make(), x)[0])
print(fingerprints.checksum({"a": x, "k": jax.random.key(0), "n": [1, 2.5]}))
"""


def test_another_process_finds_the_same(capsys, tmp_path):
  """One that has imported and compiled nothing yet."""
  (tmp_path / "made.py").write_text(CODE)
  runpy.run_path(str(tmp_path / "made.py"))
  here = capsys.readouterr().out
  there = subprocess.run(
    [sys.executable, "-c", CODE], capture_output=True, text=True, check=True
  ).stdout
  assert here == there and len(here.split()) == 2


def test_a_program_is_told_by_its_constants_and_shapes(tmp_path):
  (tmp_path / "made.py").write_text(CODE)
  space = runpy.run_path(str(tmp_path / "made.py"))
  make, x = space["make"], jnp.ones(3)
  of = lambda *args: fingerprints.program(make(*args), x)[0]
  assert of() == of(0.1) == fingerprints.program(make(), 2 * x)[0]
  others = [of(), of(0.2), of(0.1, (1, 2, 4))]
  others.append(fingerprints.program(lambda x: make()(x) + 1, x)[0])
  assert len(set(others)) == 4
  plain = lambda x: 2 * x
  shapes = {fingerprints.program(plain, jnp.ones(n))[0] for n in (2, 3)}
  dtypes = {fingerprints.program(plain, x.astype(d))[0] for d in "if"}
  assert len(shapes) == len(dtypes) == 2
  _, out = fingerprints.program(plain, jax.ShapeDtypeStruct((2,), jnp.float32))
  assert out.shape == (2,)


@pytest.mark.parametrize(
  "other",
  [
    {"a": np.arange(4), "b": np.float32(1.5)},
    {"a": np.arange(4.0), "b": np.float32(1)},
    {"a": np.arange(4).reshape(2, 2), "b": np.float32(1)},
    {"a": np.arange(4), "c": np.float32(1)},
    {"a": np.arange(4)[::-1], "b": np.float32(1)},
  ],
)
def test_a_tree_is_told_by_names_shapes_dtypes_and_values(other):
  tree = {"a": np.arange(4), "b": np.float32(1)}
  assert fingerprints.checksum(tree) == fingerprints.checksum(dict(tree))
  assert fingerprints.checksum(tree) != fingerprints.checksum(other)


def test_of_a_large_array_on_a_disk_some_rows_are_read(tmp_path, monkeypatch):
  monkeypatch.setattr(fingerprints, "_WHOLE", 1 << 10)
  monkeypatch.setattr(fingerprints, "_ROWS", 16)
  rows = np.memmap(tmp_path / "rows", np.float32, "w+", shape=(1000, 8))
  before = fingerprints.checksum(rows)
  rows[1] = 1.0  # Between two of those that are read.
  assert fingerprints.checksum(rows) == before
  rows[:] = 1.0
  assert fingerprints.checksum(rows) != before
