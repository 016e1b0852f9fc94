"""One name for one thing among the arguments of all rooms; see CONTRIBUTING.md."""

import ast
import importlib
import inspect
import re
import typing
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
from test_imports import ALLOWED, factories

import jaxunlearn as ju
from jaxunlearn.adapters.flax import from_linen
from jaxunlearn.core.legacy import old_fields, renamed
from jaxunlearn.core.tasks import Fit, FitFields
from jaxunlearn.models import MLP

# Rows of a step, and rows (positions, models) that are in memory at once.
SIZES = re.compile(r"(\w+_)?(batch|chunk)_size")
OTHERS = {
  "microbatches": "parts that the rows of a step are taken in",
  "num_batch_axes": "axes in front of one row's",
}
# Where the model sees noise in the place of rows, whose statistics are not its.
FROZEN = {
  "methods.zero_shot_noise",
  "methods.learn_noise",
  "methods.train_on_noise",
}


def public():
  """Functions and classes that a room shows, by name, once each."""
  seen = set()
  for room in ("_api", *sorted(ALLOWED)):
    package = importlib.import_module(f"jaxunlearn.{room}")
    for name, value in vars(package).items():
      is_ours = getattr(value, "__module__", "").startswith("jaxunlearn")
      if name.startswith("_") or not is_ours or id(value) in seen:
        continue
      if inspect.isfunction(value) or inspect.isclass(value):
        seen.add(id(value))
        yield f"{room}.{name}", value


def deviating(function):
  """Whole numbers about batches or chunks under a name of their own."""
  try:
    parameters = inspect.signature(function).parameters.values()
  except ValueError:  # Of a protocol, or of what is written in C.
    return
  for one in parameters:
    is_count = re.search(r"\bint\b", str(one.annotation)) is not None
    words = re.search(r"batch|chunk|at_a_time|minibatch", one.name)
    is_named = SIZES.fullmatch(one.name) or one.name in OTHERS
    if is_count and words and not is_named:
      yield one.name


def test_rows_of_a_step_and_rows_at_once_have_one_name_each():
  found = dict(public())
  assert len(found) > 400 and "_api.predict" in found
  assert not {n: [*deviating(f)] for n, f in found.items() if [*deviating(f)]}


def test_another_name_for_a_batch_would_be_found():
  def odd(
    *, batch: int = 1, chunk: "int | None" = None, fit_batch: int = 2
  ): ...

  assert [*deviating(odd)] == ["batch", "chunk", "fit_batch"]


def fits(function):
  """Its parameters that are a `Fit`."""
  hints = typing.get_type_hints(function)
  for name, one in inspect.signature(function).parameters.items():
    if hints.get(name) in (Fit, Fit | None):
      yield one


def test_a_default_fit_is_a_published_one_that_has_a_name():
  """It is None, and the caller's to give, or a constant of the module."""
  checked = 0
  for name, factory in factories():
    module = importlib.import_module(factory.__module__)
    named = [v for k, v in vars(module).items() if k.isupper()]
    named += [
      inner for v in named if isinstance(v, dict) for inner in v.values()
    ]
    for one in fits(factory):
      checked += 1
      if one.default not in (None, one.empty):
        assert any(one.default is known for known in named), (name, one.name)
      # The main one may come by place; stages beside it go by their names.
      by_place = one.name == "fit" or one.default is one.empty
      assert by_place or one.kind is one.KEYWORD_ONLY, (name, one.name)
  assert checked > 50


def test_a_fit_may_be_given_by_its_fields_wherever_it_may_be_missing():
  for name, factory in factories():
    one = inspect.signature(factory).parameters.get("fit")
    if one is None or one.default is not None:
      continue
    kinds = [*typing.get_type_hints(factory).values()]
    fields = [typing.get_args(kind) for kind in kinds]
    assert any(FitFields in found or kind is typing.Any
               for kind, found in zip(kinds, fields)), name  # fmt: skip


def test_models_train_in_training_mode_unless_they_see_noise():
  found = {}
  for name, factory in factories():
    one = inspect.signature(factory).parameters.get("train_mode")
    if one is not None:
      assert one.kind is one.KEYWORD_ONLY, name
      found[name] = one.default
  found = {n: v for n, v in found.items() if v is not inspect.Parameter.empty}
  assert len(found) > 10 and True in found.values()
  assert {name for name, default in found.items() if not default} == FROZEN


def test_the_names_of_the_release_before_are_taken_with_a_warning():
  @renamed(chunk_size="chunk")
  def call(x, *, chunk_size=1):
    return x, chunk_size

  with pytest.warns(
    DeprecationWarning, match="chunk_size in the place of chunk"
  ):
    assert call(1, chunk=3) == (1, 3)
  assert call(1, chunk_size=2) == (1, 2)  # Warnings are errors here.
  with pytest.raises(TypeError, match="both chunk_size and chunk"):
    call(1, chunk_size=2, chunk=3)
  with warnings.catch_warnings(), pytest.raises(ValueError, match="chunk_size"):
    warnings.simplefilter("ignore", DeprecationWarning)
    ju.predict(from_linen(MLP(2)), None, None, batch_size=0)


MOST = 10


def long_signatures(text):
  """Functions, inner ones too, of more than so many named arguments."""
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.FunctionDef):
      named = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
      if len(named) > MOST:
        yield node.name, len(named)


def test_no_function_has_more_than_ten_arguments():
  root = Path(ju.__file__).parents[1]
  files = [
    p for f in ("jaxunlearn", "experiments") for p in (root / f).rglob("*.py")
  ]
  assert len(files) > 300
  found = {str(p): [*long_signatures(p.read_text())] for p in files}
  assert not {path: names for path, names in found.items() if names}
  eleven = "def f(a, /, b, c, d, e, f, *, g, h, i, j, k=1, **rest): ..."
  assert [*long_signatures(eleven)] == [("f", 11)]


class Group(NamedTuple):
  one: int
  two: int = 2


def test_loose_keywords_become_a_group():
  @old_fields(group=Group)
  def needed(x, *, group):
    return group

  @old_fields(group={"first": "one"})
  def given(x, *, group=Group(5, 6)):  # noqa: B008
    return group

  with pytest.warns(DeprecationWarning, match="takes one as fields of group"):
    assert needed(0, one=3) == (3, 2)
  with pytest.warns(DeprecationWarning, match="takes first as fields of group"):
    assert given(0, first=3) == (3, 6)
  with pytest.warns(DeprecationWarning):
    assert given(0, first=3, group=Group(0, 1)) == (3, 1)
  assert given(0) == (5, 6)


@pytest.mark.parametrize(
  ("function", "keyword", "group"),
  [
    (ju.attacks.train_shadows, "num_queries", "queries"),
    (ju.attacks.u_lira_shadows, "query_key", "queries"),
    (ju.attacks.forgetting_quality_runs, "test_data", "questions"),
    (ju.attribution.causal_trace, "num_draws", "corruption"),
    (ju.continual.clu, "teacher_rate", "teacher"),
    (ju.continual.clu, "incompetent", "untrained"),
    (ju.continual.tame, "warmup", "surprise"),
    (ju.diffusion.attach, "latent_shape", "latents"),
    (ju.diffusion.attach, "encode_embeddings", "embeddings"),
    (ju.diffusion.attack_prompts, "guidance", "sampler"),
    (ju.diffusion.text_to_image, "width", "denoiser"),
    (ju.diffusion.text_to_image_unet, "channels", "unet"),
    (ju.metrics.tabsyndex, "real_weights", "weights"),
    (ju.valuation.ecoval_values, "rule", "price"),
    (ju.valuation.ecoval_of_points, "invert_negative", "price"),
  ],
)
def test_loose_keywords_are_taken_for_one_release(function, keyword, group):
  """The call goes on; that it lacks the rest is all that is wrong with it."""
  said = f"takes .*{keyword}.* as fields of {group}"
  with (
    pytest.warns(DeprecationWarning, match=said),
    pytest.raises(TypeError, match=r"missing .* required"),
  ):
    function(**{keyword: 1})
