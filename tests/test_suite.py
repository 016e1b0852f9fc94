"""What the suite promises about itself: its two modes and a light import."""

import os
import pathlib
import subprocess
import sys

import jax
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
OPTIMIZED = os.environ.get("JAXUNLEARN_TESTS_OPTIMIZED", "0") != "0"


def optimizes():
  return not jax.config.read("jax_disable_most_optimizations")


def test_most_optimisations_are_off_unless_everything_is_optimized():
  assert optimizes() == OPTIMIZED
  told = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"]
  assert told == ("0" if OPTIMIZED else "1")


@pytest.mark.optimized(reason="This is the mark's own test.")
def test_the_mark_turns_optimisations_on():
  assert optimizes()
  assert os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "0"


def test_the_two_modes_do_not_share_programs_in_the_persistent_cache(tmp_path):
  """One entry per mode, although the program is the same."""
  code = """
import jax, jax.numpy as jnp
for off in (True, False, True):
  jax.config.update("jax_disable_most_optimizations", off)
  jax.clear_caches()
  jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((3, 3)))
"""
  cache = {
    "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
  }
  subprocess.run(
    [sys.executable, "-c", code], check=True, env=os.environ | cache
  )
  entries = list(tmp_path.glob("jit__lambda*-cache"))
  assert len(entries) == 2, entries


@pytest.mark.slow(reason="It imports everything once more.")
def test_collecting_the_tests_trains_and_compiles_next_to_nothing():
  """CPU seconds, most of them imports; some for arrays of a module."""
  before = os.times()
  subprocess.run(
    [sys.executable, "-m", "pytest", "--collect-only", "-q"],
    check=True,
    cwd=ROOT,
    capture_output=True,
  )
  after = os.times()
  used = after.children_user + after.children_system
  used -= before.children_user + before.children_system
  assert used < 60
