"""Pages of the API reference: every public name of every module, found by walking.

A new room appears by itself. Public are the names of `__all__`, or where there is
none those that a module imports as themselves, `from a import b as b`, and what
it defines without an underscore.
"""

import ast
import importlib
import inspect
import pathlib
import pkgutil
import re

import jaxunlearn as ju

# Modules that users import by name, beside the rooms.
_DEEPER = ("adapters", "models", "language", "diffusion", "continual", "graph")


def rooms():
  """Names of the modules that have a page, the package itself first."""
  found = ["jaxunlearn"]
  for room in sorted(m.name for m in pkgutil.iter_modules(ju.__path__)):
    if room.startswith("_"):
      continue
    found.append(f"jaxunlearn.{room}")
    module = importlib.import_module(found[-1])
    if room in _DEEPER:
      found += [
        f"{found[0]}.{room}.{inner.name}"
        for inner in pkgutil.iter_modules(module.__path__)
        if not inner.name.startswith("_")
      ]
  return found


def names(module):
  """The public names of a module, sorted."""
  listed = getattr(module, "__all__", None)
  if listed is not None:
    return sorted(listed)
  tree = ast.parse(pathlib.Path(module.__file__).read_text())
  found = set()
  for node in tree.body:
    if isinstance(node, ast.ImportFrom | ast.Import):
      found |= {
        a.asname for a in node.names if a.asname == a.name.split(".")[-1]
      }
    elif isinstance(node, ast.FunctionDef | ast.ClassDef):
      found.add(node.name)
    elif isinstance(node, ast.Assign | ast.AnnAssign):
      targets = node.targets if isinstance(node, ast.Assign) else [node.target]
      found |= {
        t.id for t in targets if isinstance(t, ast.Name) and t.id.isupper()
      }
  found = {name for name in found if name and not name.startswith("_")}
  return sorted(name for name in found if hasattr(module, name))


def page(name, shown_before=()):
  """A page in MyST, and the names that it has.

  Args:
    name: of the module.
    shown_before: classes that another page has.
  """
  module = importlib.import_module(name)
  lines, shown = [f"# {name}", "", "```{eval-rst}"], []
  lines += [f".. automodule:: {name}", "   :no-index:", ""]
  for public in names(module):
    value = getattr(module, public)
    if isinstance(value, type(ast)):
      continue  # A module, which has a page or a parent that has.
    inner = name.count(".") > 1  # Of a room, and with helpers that say nothing.
    if inner and (
      value in shown_before
      if isinstance(value, type)
      else callable(value) and not inspect.getdoc(value)
    ):
      continue
    shown.append(public)
    if isinstance(value, type):
      kind, more = "autoclass", [] if value.__doc__ else ["   :undoc-members:"]
    elif inspect.isroutine(value) or hasattr(value, "__wrapped__"):
      kind, more = "autofunction", []
    else:
      kind, more = "py:data", []
    lines += [f".. {kind}:: {name}.{public}", *more, ""]
  return "\n".join([*lines, "```", ""]), shown


def write(folder):
  """All pages and their index; those that changed nothing keep their time."""
  folder.mkdir(exist_ok=True)
  found = rooms()
  toc = "\n".join(found)
  classes, pages = set(), {}
  for name in found:
    pages[name], shown = page(name, classes)
    module = importlib.import_module(name)
    values = (getattr(module, public) for public in shown)
    classes |= {value for value in values if isinstance(value, type)}
  pages["index"] = (
    "# API reference\n\nEvery public name, with the text that `help` shows.\n\n"
    f"```{{toctree}}\n:maxdepth: 1\n\n{toc}\n```\n"
  )
  for old in folder.glob("*.md"):
    if old.stem not in pages:
      old.unlink()
  for name, text in pages.items():
    path = folder / f"{name}.md"
    if not path.exists() or path.read_text() != text:
      path.write_text(text)


def escape(app, what, name, obj, options, lines):
  """Docstrings are plain text: what reStructuredText would read otherwise.

  Examples and indented blocks stay as they are; the latter become literal.
  """
  del app, what, name, obj, options
  made, block = [], False
  section = re.compile(
    r"(Args|Returns|Raises|Attributes|Yields|Examples?|Note|Source):$"
  )
  inside = ""
  for i, line in enumerate(lines):
    text, indent = line.strip(), len(line) - len(line.lstrip())
    if section.match(line):
      inside = text
    elif text and not indent:
      inside = ""
    block = text.startswith(">>>") or (block and bool(text))
    free = not inside and indent >= 4
    if free and (i == 0 or not lines[i - 1].strip()) and not block:
      made += [" " * (indent - 4) + "::", ""]
    if not block and not free:
      line = re.sub(r"([|*\\])", r"\\\1", line)
      line = re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", line)
    made.append(line)
  # Words in single backticks may go over the end of a line.
  text = re.sub(r"(\w?)(?<!`)`([^`]+)`(?!`)(\w?)", _code, "\n".join(made))
  lines[:] = text.split("\n")


def _code(found):
  """As a literal, parted from letters that touch it, as in `int`s."""
  before, words, after = found.groups()
  part = "\\ "
  return (
    f"{before + part if before else ''}``{words.replace(chr(92), '')}``"
    f"{part + after if after else ''}"
  )
