"""Imports point down, cost little and touch nothing."""

import ast
import importlib
import inspect
import pathlib
import pkgutil
import re
import subprocess
import sys
import time
import typing

import pytest

import jaxunlearn
from jaxunlearn.core.tasks import FitFields
from jaxunlearn.core.transform import Transform

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "jaxunlearn"
# What each room may import from the package beside itself.
ALLOWED = {
  "core": set(),
  "losses": {"core"},
  "models": {"core"},
  "adapters": {"core", "losses", "models"},
  "methods": {"core", "losses", "models"},
  "metrics": {"core"},
  "valuation": {"core", "losses", "metrics"},
  "attacks": {"core", "losses", "metrics"},
  "report": set(),
  "attribution": {"core", "language", "models"},
  "continual": {"core", "losses", "models"},
  "exact": {"core"},
  "diffusion": {"core", "losses", "methods", "models"},
  "gan": {"core", "metrics", "models"},
  "graph": {"core", "losses", "methods", "metrics", "models"},
  "identity": {"attacks", "core", "losses", "metrics", "models"},
  "language": {"core", "losses", "methods", "metrics", "models"},
  "nas": {"core", "losses", "models"},
  "recsys": {"core", "losses", "methods", "models"},
  "tables": {"core", "losses", "models"},
  "vision_language": {"core", "language", "losses", "models"},
}
ALLOWED["toy"] = set(ALLOWED)  # A problem for each of them.


def imported(path):
  """Modules of the package that a file imports, wherever in the file."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      # A relative one counts from the folder of the file.
      above = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
      module = ".".join([*above, *filter(None, [node.module])])
      yield module
      yield from (f"{module}.{alias.name}" for alias in node.names)


def arrows(path):
  """Rooms of the package that a file imports from."""
  for name in imported(path):
    match = re.fullmatch(r"jaxunlearn\.(\w+)(\..*)?", name)
    if match:
      yield match.group(1)


@pytest.mark.parametrize("room", sorted(ALLOWED))
def test_imports_point_down(room):
  for path in (PACKAGE / room).rglob("*.py"):
    up = set(arrows(path)) - {room} - ALLOWED[room]
    assert not up, f"{path.relative_to(ROOT)} imports {sorted(up)}"


def test_every_room_has_its_rule():
  rooms = {p.name for p in PACKAGE.iterdir() if (p / "__init__.py").exists()}
  assert rooms == set(ALLOWED)


def test_nothing_in_the_package_imports_experiments_or_pickle():
  for path in PACKAGE.rglob("*.py"):
    heads = {name.split(".")[0] for name in imported(path)}
    assert not heads & {"experiments", "pickle", "torch", "tensorflow"}, path


def test_a_method_imports_no_other_method():
  """Only modules that belong to none of them, whose names say so by a _."""
  for path in (PACKAGE / "methods").glob("*.py"):
    if path.name in ("__init__.py", "defaults.py"):
      continue  # They name them all.
    others = {
      name
      for name in imported(path)
      if re.match(r"jaxunlearn\.methods\.[^_]", name)
    }
    assert not others, f"{path.name} imports {others}"


def run(code):
  began = time.perf_counter()
  out = subprocess.run(
    [sys.executable, "-W", "error", "-c", code],
    capture_output=True,
    text=True,
    check=False,
  )
  assert out.returncode == 0, out.stderr
  return out.stdout, time.perf_counter() - began


def test_the_import_is_light_offline_and_silent():
  code = """
import socket, sys
def refuse(*args, **kwargs):
  raise OSError("no network at import")
socket.socket.connect = refuse
socket.create_connection = refuse
socket.getaddrinfo = refuse
import jaxunlearn as ju
assert "jax" not in sys.modules
ju.methods.unsir
from jaxunlearn import metrics, report
from jaxunlearn.attacks import classifiers, intervals, language
heavy = ["flax", "orbax", "sklearn", "matplotlib", "jraph", "rich", "altair",
         "vl_convert", "jinja2", "tensorflow_datasets", "scipy.stats"]
print([name for name in heavy if name in sys.modules])
"""
  out, _ = run(code)
  assert out.strip() == "[]"


@pytest.mark.slow
def test_the_import_takes_a_second_and_a_half_at_most():
  ours = "import jaxunlearn as ju; ju.methods.unsir"
  run(ours)  # Compiles the bytecode.
  # Ours beside what any user of JAX pays, in turns, so that a busy machine cannot
  # fail it.
  turns = [
    [run(code)[1] for code in (ours, "import jax, optax")] for _ in range(5)
  ]
  best, jax_alone = map(min, zip(*turns))
  assert best < max(1.5, jax_alone * 1.5)


def test_rooms_of_a_domain_are_imported_when_asked_for():
  code = """
import sys
import jaxunlearn as ju
print("jaxunlearn.graph" in sys.modules, "graph" in dir(ju))
print(ju.graph.__name__, "jaxunlearn.recsys" in sys.modules)
try:
  ju.nothing
except AttributeError as error:
  print(error)
"""
  out, _ = run(code)
  assert out.splitlines() == [
    "False True",
    "jaxunlearn.graph False",
    "module 'jaxunlearn' has no attribute 'nothing'",
  ]


def without_examples(text):
  """Sections of docstrings, to the end or an empty line; their code runs."""
  section = r'\n\n +Examples?:\n(?:(?!\n\n|""").)*'
  return re.sub(section, "\n", text, flags=re.DOTALL)


def test_an_example_does_not_count_as_lines_of_its_file():
  text = '''"""One.

  Example:
    >>> 1 + 1
    2
  """
  return 2
'''
  assert without_examples(text) == '"""One.\n"""\n  return 2\n'


def test_a_file_of_the_package_is_no_longer_than_its_limit():
  long = {
    str(p.relative_to(ROOT)): n
    for p in PACKAGE.rglob("*.py")
    if (n := len(without_examples(p.read_text()).splitlines())) > 400
  }
  assert not long


def test_old_names_work_with_a_warning():
  for home, name in (("methods", "unsir"), ("core", "make_mesh")):
    with pytest.warns(DeprecationWarning, match=f"{home}.{name} from 0.2 on"):
      old = getattr(jaxunlearn, name)
    assert old is getattr(getattr(jaxunlearn, home), name)
  assert len(jaxunlearn.__all__) < 55


def test_the_console_command_knows_every_program():
  from jaxunlearn.__main__ import STUDIES

  programs = ROOT / "experiments"
  assert set(STUDIES) == {
    p.stem
    for p in programs.glob("*.py")
    if "\nmain" in p.read_text() or "\ndef main(argv" in p.read_text()
  }
  absolute = re.compile(r"^\s*(from|import) experiments\b", re.MULTILINE)
  # In a wheel they have another name.
  assert not [
    p for p in programs.rglob("*.py") if absolute.search(p.read_text())
  ]


def test_the_console_command_refuses_in_one_line(capsys):
  from jaxunlearn.__main__ import main

  with pytest.raises(SystemExit) as ended:
    main(["forgot"])
  said = capsys.readouterr().err
  assert ended.value.code == 2 and said.count("\n") == 1
  assert "got 'forgot'" in said
  main(["--help"])
  assert "forget_graph" in capsys.readouterr().out


MOST = 10


def factories():
  """Public functions of the rooms of methods that make a transform, by name."""
  for room in (
    *("methods", "gan", "graph", "recsys", "diffusion", "language"),
    *("identity", "nas", "vision_language"),
  ):
    package = importlib.import_module(f"jaxunlearn.{room}")
    for found in pkgutil.iter_modules(package.__path__):
      module = importlib.import_module(f"{package.__name__}.{found.name}")
      for name, function in inspect.getmembers(module, inspect.isfunction):
        is_own = function.__module__ == module.__name__
        if not is_own or name.startswith("_"):
          continue
        if typing.get_type_hints(function).get("return") is Transform:
          yield f"{room}.{name}", function


def parameter_names(function):
  """What a caller may pass; `**fields` of a `Fit` are those of one that is."""
  hints = typing.get_type_hints(function)
  for name, parameter in inspect.signature(function).parameters.items():
    arguments = typing.get_args(hints.get(name))  # Of an Unpack[TypedDict].
    if parameter.kind is not parameter.VAR_KEYWORD or not arguments:
      yield name
    elif arguments[0] is not FitFields:
      yield from arguments[0].__annotations__


def test_a_factory_has_few_parameters():
  counts = {name: len([*parameter_names(f)]) for name, f in factories()}
  assert len(counts) > 40 and counts["methods.retrain"] == 3
  assert not {name: n for name, n in counts.items() if n > MOST}


# What the folders of `experiments` import from it beside themselves.
BESIDE = {
  "bench": {"common", "datasets", "files", "flags", "launch", "requests"},
  "datasets": {"data", "files", "requests"},
  "beds": {"bench", "data", "datasets", "files", "flags", "requests"},
  "studies": {
    *("beds", "bench", "common", "data", "datasets", "files", "flags"),
    "requests",
  },
}


@pytest.mark.parametrize("folder", sorted(BESIDE))
def test_what_is_shared_imports_no_study_and_no_study_another(folder):
  paths = list((ROOT / "experiments" / folder).glob("*.py"))
  programs = {path.stem for path in (ROOT / "experiments").glob("*.py")}
  study = lambda name: max(
    (p for p in programs if f"{name}_".startswith(f"{p}_")), key=len, default=""
  )
  for path in paths:
    parts = [name.split(".") for name in imported(path)]
    parts = [p for p in parts if p[0] == "experiments" and len(p) > 1]
    used = {p[1] for p in parts} - BESIDE[folder] - {folder}
    assert not used, f"{path.name} imports {sorted(used)}"
    if folder != "studies":
      continue
    # A long study has parts that bear its name, forget_graph_view.
    others = {
      p[2]
      for p in parts
      if p[1] == "studies" and len(p) > 2 and study(p[2]) != study(path.stem)
    }
    assert not others, f"{path.name} imports {others}"
