"""The site: every public name, every room, and a README of two minutes.

That pages build and their examples run, `make docs` says.
"""

import importlib
import inspect
import pathlib
import pkgutil
import re
import sys

import pytest

import jaxunlearn as ju

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def api_pages():
  sys.path.insert(0, str(DOCS))
  try:
    yield importlib.import_module("api_pages")
  finally:
    sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def pages(api_pages):
  return {name: api_pages.page(name) for name in api_pages.rooms()}


def shown(text):
  return re.findall(r"^\.\. (?:auto\w+|py:data):: (\S+)$", text, re.MULTILINE)


def test_every_public_name_is_in_the_reference(pages):
  rooms = {
    m.name for m in pkgutil.iter_modules(ju.__path__) if m.name[0] != "_"
  }
  assert {f"jaxunlearn.{room}" for room in rooms} <= set(pages)
  for name, (text, _) in pages.items():
    module = importlib.import_module(name)
    # Told another way: by what the module says of itself.
    public = getattr(module, "__all__", None) or [
      n
      for n, value in vars(module).items()
      if not n.startswith("_")
      and (inspect.isclass(value) or inspect.isfunction(value))
      and re.search(rf"(\b{n} as|def|class) {n}\b", inspect.getsource(module))
    ]
    deep = name.count(".") > 1
    wanted = {
      f"{name}.{n}"
      for n in public
      if not inspect.ismodule(value := getattr(module, n))
      and not (deep and callable(value) and not inspect.getdoc(value))
    }
    missing = wanted - set(shown(text))
    assert not missing, missing


def test_every_public_function_says_something(pages):
  silent = [
    f"{name}.{n}"
    for name, (_, names) in pages.items()
    for n in names
    if inspect.isroutine(value := getattr(importlib.import_module(name), n))
    or inspect.isclass(value)
    if not inspect.getdoc(value)
  ]
  assert silent == []


def test_every_public_function_shows_how_it_is_called(pages):
  """And pytest runs what it shows."""
  without = [
    f"{name}.{n}"
    for name, (_, names) in pages.items()
    for n in names
    if inspect.isroutine(value := getattr(importlib.import_module(name), n))
    if ">>> " not in inspect.getdoc(value)
  ]
  assert without == []


def test_examples_take_names_from_where_they_are_public():
  """What a user is shown is in `ju`, `ju.core` or a room."""
  deep = [
    f"{path.name}: {line.strip()}"
    for path in (ROOT / "jaxunlearn").rglob("*.py")
    if path.parent.name != "core"
    for line in path.read_text().splitlines()
    if re.match(r"\s+>>> (from|import) jaxunlearn\.core\.", line)
  ]
  assert deep == []


def test_escaped_docstrings_keep_examples_and_their_words(api_pages):
  lines = [
    "Norms |Y'X|^2 of rows_ and *all* `b_`.",
    "",
    "    python -m *x*",
    "",
    "Args:",
    "  x: |x|.",
    "    >>> a | b",
  ]
  api_pages.escape(None, "", "", None, None, lines)
  assert lines == [
    "Norms \\|Y'X\\|^2 of rows\\_ and \\*all\\* ``b_``.",
    "",
    "::",
    "",
    "    python -m *x*",
    "",
    "Args:",
    "  x: \\|x\\|.",
    "    >>> a | b",
  ]


def test_every_room_has_a_page():
  text = (DOCS / "index.md").read_text()
  for page in (DOCS / "rooms").glob("*.md"):
    assert page.stem == "template" or f"rooms/{page.stem}" in text, page
    assert "{code-cell}" in page.read_text(), page


def test_the_readme_is_read_in_two_minutes():
  text = (ROOT / "README.md").read_text()
  assert len(text.splitlines()) <= 150
  for link in re.findall(r"\]\(([^)#]+)\)", text):
    assert "://" in link or (ROOT / link).exists(), link
