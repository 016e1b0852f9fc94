"""Cheap compilation, eight simulated devices, strict ranks, kept durations.

XLA compiles tests with most of its optimisations off and, where it has them yet,
by its older emitters, which takes a quarter of the time. Tests marked `optimized`
get the optimisations. Under `JAXUNLEARN_TESTS_OPTIMIZED=1` everything is compiled as
for users: the mode for claims, and for a full run now and then. Programs of the
modes have different keys in the persistent cache.
"""

import functools
import gc
import importlib
import importlib.metadata
import importlib.util
import json
import os
import pathlib

_ALL_OPTIMIZED = os.environ.get("JAXUNLEARN_TESTS_OPTIMIZED", "0") != "0"
_FLAGS = [os.environ.get("XLA_FLAGS", "")]
_FLAGS += ["--xla_force_host_platform_device_count=8"]
# Newer releases have no older emitters, and XLA ends a process at a flag that it
# does not know.
_JAXLIB = importlib.metadata.version("jaxlib").split(".")
if not _ALL_OPTIMIZED and (int(_JAXLIB[0]), int(_JAXLIB[1])) < (0, 12):
  _FLAGS += ["--xla_cpu_use_fusion_emitters=false"]
  _FLAGS += ["--xla_cpu_parallel_codegen_split_count=1"]
os.environ["XLA_FLAGS"] = " ".join(_FLAGS).strip()

import jax  # noqa: E402  the flags must be there first
import pytest  # noqa: E402
from jax._src.interpreters import mlir  # noqa: E402

# Programs that tests start.
collect_ignore = [
  f"tests/core/{name}.py" for name in ("stream_child", "shared_stream_child")
]

_ROOT = pathlib.Path(__file__).resolve().parent
_CACHE = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(_ROOT / ".cache/jax"))
_DURATIONS = _ROOT / ".cache/durations.json"
# A test that takes longer carries the mark `slow`.
_SLOW_SECONDS = 10.0
jax.config.update("jax_compilation_cache_dir", _CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jax.config.update("jax_numpy_rank_promotion", "raise")
_make_context = getattr(mlir, "make_ir_context", None)
_one_context = functools.cache(lambda: _make_context())


def pytest_collect_file(file_path):
  """Imports the room of a file first, as its users do.

  pytest, asked for methods/laf.py alone, would put that module in the place of
  the function of its name, `ju.methods.laf`.
  """
  folder = file_path.parent
  if _ROOT / "jaxunlearn" in (folder, *folder.parents):
    parts = folder.relative_to(_ROOT).parts
    importlib.import_module(".".join(parts))


def _shared_context():
  """What programs are lowered in, the same for all of them.

  JAX makes one with all dialects for each program, which is a quarter of what a
  small program costs, and has no option against it.
  """
  try:
    is_inside_another = mlir.ir.Context.current is not None
  except ValueError:
    is_inside_another = False
  # What is lowered while another program is would become a part of that.
  return _make_context() if is_inside_another else _one_context()


if _make_context is not None:
  mlir.make_ir_context = _shared_context


def set_optimized(wanted: bool) -> None:
  """Compiles what follows, in programs that tests start too, in that mode."""
  if jax.config.read("jax_disable_most_optimizations") == wanted:
    jax.config.update("jax_disable_most_optimizations", not wanted)
    # `jit` keeps what it compiled whatever the flag says.
    jax.clear_caches()
  os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0" if wanted else "1"


set_optimized(_ALL_OPTIMIZED)


def cpu_seconds() -> float:
  """Of this process and of those that it started."""
  return sum(os.times()[:4])


_cpu_at_setup = pytest.StashKey[float]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
  """Before fixtures of any scope, which compile as well."""
  item.stash[_cpu_at_setup] = cpu_seconds()
  marked = item.get_closest_marker("optimized") is not None
  set_optimized(_ALL_OPTIMIZED or marked)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item):
  used = cpu_seconds() - item.stash[_cpu_at_setup]
  item.user_properties.append(("cpu_seconds", used))
  make_room_for_programs()


_cpu_at_look = 0.0


def make_room_for_programs():
  """Frees compiled programs before the process has as many maps as it may.

  XLA maps memory for every program, Linux allows a process 65,530 maps, and a
  compilation beyond that ends in a segmentation fault. To count them takes long
  enough to be done once in a while only.
  """
  global _cpu_at_look
  maps = pathlib.Path("/proc/self/maps")
  if cpu_seconds() - _cpu_at_look < 5 or not maps.exists():
    return
  _cpu_at_look = cpu_seconds()
  if maps.read_bytes().count(b"\n") > 25_000:
    jax.clear_caches()
    _one_context.cache_clear()


def pytest_collection_finish():
  """Modules and tests stay: the garbage collector need not look at them."""
  gc.collect()
  gc.freeze()
  gc.set_threshold(50_000, 20, 50)


# Examples that need a package that only an extra brings, by their beginnings.
_NEEDS = {
  "jax_privacy": ("privacy.epsilon", "privacy.noise_multiplier"),
  "tokenizers": ("phrases.telling", "rows.", "subjects."),
}


def pytest_itemcollected(item):
  for package, names in _NEEDS.items():
    asks = any(item.name.startswith(f"jaxunlearn.language.{n}") for n in names)
    if asks and importlib.util.find_spec(package) is None:
      reason = f"the package {package} is not installed"
      item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_modifyitems(items):
  # Those first, since every change of the mode takes all programs away.
  items.sort(key=lambda item: item.get_closest_marker("optimized") is None)
  for item in items:
    for mark in item.iter_markers("optimized"):
      if not mark.kwargs.get("reason"):
        raise pytest.UsageError(
          f"Expected a reason beside the mark `optimized`: {item.nodeid}"
        )


_clock: dict[str, float] = {}
_cpu: dict[str, float] = {}
_marked_slow: set[str] = set()


def pytest_runtest_logreport(report):
  """Adds set-up and call; with workers, the process that gathers gets all."""
  name = report.nodeid
  _clock[name] = _clock.get(name, 0) + report.duration
  _cpu[name] = dict(report.user_properties).get("cpu_seconds", 0)
  if "slow" in report.keywords:
    _marked_slow.add(name)


def pytest_terminal_summary(terminalreporter, config):
  """Stores the durations, shows the longest and those without their mark.

  A test is long if it is by the clock and by its CPU time, so that a busy
  machine makes none long.
  """
  if not _clock or hasattr(config, "workerinput"):
    return
  seconds = {name: min(_clock[name], _cpu[name]) for name in _clock}
  _DURATIONS.parent.mkdir(exist_ok=True)
  known = json.loads(_DURATIONS.read_text()) if _DURATIONS.exists() else {}
  known |= {
    name: {"clock": round(_clock[name], 2), "cpu": round(_cpu[name], 2)}
    for name in _clock
  }
  partial = _DURATIONS.with_suffix(f".{os.getpid()}")
  partial.write_text(json.dumps(known, indent=0, sort_keys=True))
  partial.replace(_DURATIONS)
  longest = sorted(seconds, key=seconds.get, reverse=True)
  terminalreporter.section("longest tests, in seconds")
  for name in longest[:10]:
    terminalreporter.line(f"{seconds[name]:7.1f}  {name}")
  for name in longest:
    if seconds[name] > _SLOW_SECONDS and name not in _marked_slow:
      terminalreporter.line(
        f"{seconds[name]:7.1f}  without the mark `slow`: {name}", yellow=True
      )


@pytest.fixture(scope="session")
def data_dir():
  """The folder of real data, where there is one."""
  named = os.environ.get("JAXUNLEARN_DATA")
  found = pathlib.Path(named) if named else _ROOT.parent / "shared" / "data"
  if not found.is_dir():
    pytest.skip("no data folder here; set JAXUNLEARN_DATA")
  return found
