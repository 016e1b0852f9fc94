"""Eight simulated devices, strict ranks, and a compilation cache that stays."""

import os
import pathlib

_FLAG = "--xla_force_host_platform_device_count=8"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAG}".strip()

import jax  # noqa: E402  the flags must be there first
import pytest  # noqa: E402

collect_ignore = ["core/stream_child.py"]  # A program that a test starts.

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_CACHE = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(_ROOT / ".cache/jax"))
jax.config.update("jax_compilation_cache_dir", _CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def room_for_programs():
  """Frees compiled programs before the process has as many maps as it may.

  XLA maps memory for every program, Linux allows a process 65,530 maps, and a
  compilation beyond that ends in a segmentation fault.
  """
  yield
  maps = pathlib.Path("/proc/self/maps")
  if maps.exists() and maps.read_bytes().count(b"\n") > 25_000:
    jax.clear_caches()


@pytest.fixture(scope="session")
def data_dir():
  """The folder of real data, where there is one."""
  named = os.environ.get("JAXUNLEARN_DATA")
  found = pathlib.Path(named) if named else _ROOT.parent / "shared" / "data"
  if not found.is_dir():
    pytest.skip("no data folder here; set JAXUNLEARN_DATA")
  return found
