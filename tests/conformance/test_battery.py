"""What every transform of every room must do, from two programs each.

Four lanes under `vmap`: request A with key 1, the same again, request B with
key 1, request A with key 2. One call under `jit`, for A, B, poisoned rows and
masks of weights. With eight devices, one more. What needs no numbers is traced
only.
"""

import functools
import importlib
import inspect
import pathlib
import pkgutil
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import change
from conformance.cases import CASES, PARTS
from conformance.key_uses import mixed_uses
from conformance.programs import (
  asked,
  at,
  first,
  key,
  lanes,
  method,
  moved,
  single,
)
from refusals import refused

import jaxunlearn as ju
from jaxunlearn import diffusion, graph
from jaxunlearn.core.transform import PhaseInfo

BY_NAME = {case.name: case for case in CASES}


# Of the scope of the session, so that the tests of a case run one after another
# and in one worker, which compiles its programs once.
@pytest.fixture(
  scope="session",
  params=[
    pytest.param(name, marks=[pytest.mark.slow] if case.slow else [])
    for name, case in BY_NAME.items()
  ],
)
def case(request):
  return BY_NAME[request.param]


def test_equal_lanes_have_the_same_bits(case):
  out, _ = lanes(case)
  chex.assert_trees_all_equal(at(out, 0), at(out, 1))


def test_the_key_matters_where_something_is_drawn(case):
  out, _ = lanes(case)
  one, other = (moved(case, at(out, lane)) for lane in (0, 3))
  if case.keyless:
    chex.assert_trees_all_equal(one, other)
  else:
    assert change(one, other) > 1e-6


def test_the_request_matters_unless_the_method_looks_at_none(case):
  out, _ = lanes(case)
  one, other = (moved(case, at(out, lane)) for lane in (0, 2))
  if case.requestless:
    chex.assert_trees_all_equal(one, other)
  else:
    assert change(one, other) > 1e-6


def test_the_model_moves_and_stays_finite(case):
  out, _ = lanes(case)
  chex.assert_tree_all_finite(out)
  before = case.world().variables
  if case.identity:
    chex.assert_trees_all_equal(at(out, 0), before)
  elif case.moves:
    assert change(at(out, 0).params, before.params) > 1e-4
  else:
    chex.assert_trees_all_equal(at(out, 0).params, before.params)


def test_structure_shapes_and_dtypes_stay(case):
  out, _ = lanes(case)
  after, before = at(out, 0), case.world().variables
  if not case.keeps_state:
    after, before = after.params, before.params
  chex.assert_trees_all_equal_shapes_and_dtypes(after, before)


def test_a_lane_under_vmap_is_the_call_alone_and_it_compiles_once(case):
  call, traces = single(case)
  tolerance = {"rtol": 1e-3, "atol": 1e-4}
  out, info = lanes(case)
  alone, alone_info = first(case)
  chex.assert_trees_all_close(at(out, 0), alone, **tolerance)
  chex.assert_trees_all_close(at(info, 0), alone_info, **tolerance)
  other, _ = call(asked(case, 1))
  chex.assert_trees_all_close(at(out, 2), other, **tolerance)
  assert len(traces) == 1  # The second request was served by the same program.


def test_the_same_call_gives_the_same_bits(case):
  call, _ = single(case)
  chex.assert_trees_all_equal(call(asked(case)), first(case))


def spread(rows, leaf):
  return rows.reshape(-1, *[1] * (leaf.ndim - 1))


def poisoned(case, rows):
  """The data with the inputs of the given rows nan, and how many these are.

  Tokens cannot be nan and become others.
  """
  data = case.world().data
  if data is not None and isinstance(data["x"], tuple):
    tokens = data["x"].tokens
    x = data["x"]._replace(
      tokens=np.where(spread(rows, tokens), (tokens + 3) % 7, tokens)
    )
    return {**data, "x": x}, 0
  if data is None or not jnp.issubdtype(data["x"].dtype, jnp.floating):
    return data, 0
  x = np.where(spread(rows, data["x"]), np.float32(np.nan), data["x"])
  return {**data, "x": x}, int(rows.sum())


def test_rows_that_it_does_not_read_may_hold_nan(case):
  if case.reads == "all" or case.world().data is None:
    pytest.skip("it reads all rows, or is given none")
  request = asked(case)
  unread = {
    "forget": ~request.forget,
    "retain": request.forget,
    "nothing": jnp.ones_like(request.forget),
  }[case.reads]
  data, count = poisoned(case, unread)
  assert count > 0 or isinstance(data["x"], tuple)
  out, _ = single(case)[0](request, data=data)
  chex.assert_trees_all_equal(out, first(case)[0])


def test_rows_in_neither_mask_are_invisible(case):
  """Their numbers, labels too, change no bit."""
  world = case.world()
  if world.data is None:
    pytest.skip("it is given no rows")
  call, _ = single(case)
  request, gone = asked(case), asked(case, 1).forget
  request = request._replace(retain=~request.forget & ~gone)

  def spoil(leaf):
    is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
    gone_value = np.asarray(np.nan if is_float else 0, leaf.dtype)
    return np.where(spread(gone, leaf), gone_value, leaf)

  clean, _ = call(request)
  other, _ = call(request, data=jax.tree.map(spoil, world.data))
  chex.assert_trees_all_equal(other, clean)
  chex.assert_tree_all_finite(other)


def test_what_may_be_used_to_keep_the_rest_matters(case):
  """That the rows in neither mask are not used is no accident."""
  if case.reads not in ("all", "retain") or case.requestless:
    pytest.skip("it reads no row to retain")
  call, _ = single(case)
  request, gone = asked(case), asked(case, 1).forget
  less, _ = call(request._replace(retain=~request.forget & ~gone))
  more, _ = first(case)
  if case.uses_retain:
    assert change(moved(case, less), moved(case, more)) > 1e-6
  else:
    chex.assert_trees_all_equal(less, more)


def test_weights_outside_a_mask_keep_their_bits(case):
  if not case.moves:
    pytest.skip("it moves no params")
  world = case.world()
  before, after = (
    jax.tree.leaves(v.params) for v in (world.variables, first(case)[0])
  )
  moving = [i for i, (a, b) in enumerate(zip(before, after)) if (a != b).any()]
  if len(moving) > 1:  # Every second leaf of those that move may do so.
    free = set(moving[::2])
    mask = [np.full(p.shape, i in free) for i, p in enumerate(before)]
  else:  # Every second entry.
    mask = [(np.arange(p.size) % 2 == 0).reshape(p.shape) for p in before]
  tree = jax.tree.structure(world.variables.params)
  mask_tree = jax.tree.unflatten(tree, mask)
  out, _ = single(case)[0](asked(case), mask=mask_tree)
  inside = 0.0
  for old, new, free in zip(before, jax.tree.leaves(out.params), mask):
    np.testing.assert_array_equal(
      np.where(free, 0, new), np.where(free, 0, old)
    )
    inside = max(inside, float(np.where(free, abs(new - old), 0).max()))
  assert inside > 1e-5


def test_parameters_outside_its_group_keep_their_bits(case):
  if not case.group:
    pytest.skip("all parameters may move")
  before, (after, _) = case.world().variables.params, first(case)
  free = diffusion.parameter_group(before, case.group)
  jax.tree.map(
    lambda may, a, b: np.testing.assert_array_equal(
      np.where(may, 0, a), np.where(may, 0, b)
    ),
    *(free, before, after.params),
  )


@pytest.mark.slow
def test_without_jit_it_is_the_same(case):
  """Numbers can be looked at then, and must be no others for it."""
  world, (out, info) = case.world(), first(case)
  plain, plain_info = method(case)(
    world.variables, world.data, asked(case), key()
  )
  tolerance = {"rtol": 1e-3, "atol": 1e-4}
  chex.assert_trees_all_close(plain, out, **tolerance)
  is_phase = lambda node: isinstance(node, PhaseInfo)
  # Whether a weight whose step is a rounding has moved, the compiler decides.
  rest = lambda tree: jax.tree.map(
    lambda n: n._replace(moved=None) if is_phase(n) else n,
    tree,
    is_leaf=is_phase,
  )
  chex.assert_trees_all_close(rest(plain_info), rest(info), **tolerance)
  shares = lambda tree: [
    n.moved for n in jax.tree.leaves(tree, is_leaf=is_phase) if is_phase(n)
  ]
  chex.assert_trees_all_close(shares(plain_info), shares(info), atol=5e-3)


@pytest.mark.slow
def test_eight_devices_equal_one(case):
  if not case.devices:
    pytest.skip("its batch cannot be shared")
  world, transform = case.world(), method(case)
  one, _ = first(case)
  many, _ = jax.pmap(
    lambda v, _: transform(
      v, world.data, asked(case), key(), axis_name="batch"
    ),
    axis_name="batch",
    in_axes=(None, 0),
  )(world.variables, jnp.arange(8))
  chex.assert_trees_all_close(at(many, 0), one, rtol=1e-3, atol=1e-4)
  chex.assert_trees_all_equal(at(many, 0), at(many, 7))


def test_the_graph_that_is_left_comes_along(case):
  world = case.world()
  if not isinstance(world.subject, graph.GraphModel):
    pytest.skip("it is not of a graph")
  gone = world.subject.removed(world.data, world.requests[0])
  kept = graph.edge_weight(world.subject.graph)
  np.testing.assert_array_equal(
    graph.weight_of(first(case)[0]), kept * (1 - gone)
  )
  assert gone.sum() > 0


# What is traced only: cheap, so that no row is slow.

EVERY = pytest.mark.parametrize("name", BY_NAME)


def traced(case, request):
  world = case.world()
  call = method(case)
  return jax.eval_shape(call, world.variables, world.data, request, key())


@functools.cache
def program(case):
  """The call as a jaxpr, and what it returns: params of bfloat16, a soft request.

  Where either is not taken, of float32 or of a mask. Weights of float32 widen what
  they meet unless a method minds it; a mask does not.
  """
  world, request = case.world(), asked(case)
  variables = world.variables
  if case.soft_request and request.forget is not None:
    share = request.forget * 0.5
    request = request._replace(forget=share, retain=1 - share)
  if case.low_precision:
    low = lambda p: jax.ShapeDtypeStruct(p.shape, jnp.bfloat16)
    params = jax.tree.map(low, variables.params)
    variables = variables._replace(params=params)
  call = jax.make_jaxpr(method(case), return_shape=True)
  return *call(variables, world.data, request, key()), variables.params


@EVERY
def test_no_key_is_used_in_two_ways(name):
  assert mixed_uses(program(BY_NAME[name])[0]) == []


@EVERY
def test_bfloat16_params_stay_so(name):
  case = BY_NAME[name]
  if not case.low_precision:
    pytest.skip("it takes float32 params only")
  _, (out, info), low = program(case)
  chex.assert_trees_all_equal_shapes_and_dtypes(out.params, low)
  is_phase = lambda leaf: isinstance(leaf, ju.core.PhaseInfo)
  for leaf in jax.tree.leaves(info, is_leaf=is_phase):
    assert not is_phase(leaf) or leaf.loss.dtype == jnp.float32


@EVERY
def test_a_request_that_does_not_fit_is_refused(name):
  case = BY_NAME[name]
  if case.world().data is None:
    if case.requestless:
      pytest.skip("it looks at no request")
    concept = asked(case).concept
    for change, message in case.world().misfits:
      with pytest.raises(ValueError, match=message):
        traced(case, ju.Request(concept=change(concept)))
    refused("in a request of a concept", traced, case, ju.Request())
    return
  forget = asked(case).forget
  shape = re.escape(str(forget.shape))
  refused(f"of shape {shape}", traced, case, forget[:-1])
  refused("dtype bool", traced, case, forget.astype(jnp.int32))
  with pytest.raises(ValueError, match=rf"request.retain of shape {shape}"):
    traced(case, asked(case)._replace(retain=~forget[:-1]))


@EVERY
def test_a_soft_request_is_taken_or_refused(name):
  case = BY_NAME[name]
  request = asked(case)
  if request.forget is None:
    pytest.skip("its request is of no rows")
  if case.soft_request:
    program(case)
    return
  share = request.forget * 0.5
  soft = request._replace(forget=share, retain=1 - share)
  refused("dtype bool", traced, case, soft)


@EVERY
def test_impossible_requests_are_refused_by_the_driver(name):
  case = BY_NAME[name]
  world, request = case.world(), asked(case)
  serve = lambda data, request: ju.unlearn(
    method(case), world.variables, data, request, key()
  )
  if world.data is None:
    rows = jnp.zeros(3, bool)
    refused("data", serve, None, request._replace(forget=rows, retain=~rows))
    return
  forget = request.forget
  nothing, everything = jnp.zeros_like(forget), jnp.ones_like(forget)
  of = lambda forget, retain: request._replace(forget=forget, retain=retain)
  refused("empty request", serve, world.data, of(nothing, everything))
  with pytest.raises(ValueError, match=f"covers all {forget.size} rows"):
    serve(world.data, of(everything, nothing))
  broken, count = poisoned(case, jnp.arange(forget.size) == 3)
  if count:
    values = int(jnp.isnan(broken["x"]).sum())
    found = rf"data\['x'\] to be finite, got {values} "
    refused(found, serve, broken, request)


# The table itself.


def path(factory):
  """Without the name of the package."""
  module = factory.__module__.removeprefix("jaxunlearn.")
  return f"{module}.{factory.__name__}"


def factories():
  """Paths of the public functions of the package that return a transform."""
  for info in pkgutil.walk_packages(ju.__path__, "jaxunlearn."):
    module = importlib.import_module(info.name)
    for name, value in vars(module).items():
      if (
        inspect.isfunction(value)
        and not name.startswith("_")
        and value.__module__ == info.name
      ):
        returned = str(value.__annotations__.get("return"))
        if returned.split(".")[-1] == "Transform":
          yield path(value)


def test_every_public_factory_has_a_row():
  found, covered = set(factories()), {path(case.factory) for case in CASES}
  missing = sorted(found - covered - set(PARTS))
  assert not missing, f"Give them a row in tests/conformance: {missing}"
  assert covered | set(PARTS) <= found
  assert not covered & set(PARTS)
  assert len(BY_NAME) == len(CASES), "Two rows have one name."


def test_needs_say_what_is_read():
  drawn = {
    name: tuple(size != 0 for size in method(case).needs.sizes)
    for name, case in BY_NAME.items()
  }
  # Forget rows, retain rows, rows of either.
  wanted = {
    "methods.finetune": (False, True, False),
    "methods.gradient_ascent": (True, False, False),
    "methods.bad_teacher": (False, False, True),
    "methods.unsir": (False, True, False),
    "methods.scrub": (True, True, False),
    "methods.fisher_forgetting": (False, True, False),
    "methods.boundary_shrink": (True, False, False),
    "methods.zero_shot_noise": (False, False, False),
    "methods.gkt": (False, False, False),
    "methods.ssd": (True, True, False),
  }
  assert {name: drawn[name] for name in wanted} == wanted
  for name, case in BY_NAME.items():
    forget, retain, mixed = drawn[name]
    if case.reads == "nothing" and case.requestless:
      read = {link.reads for link, _ in method(case).expand(key())}
      assert read <= {"nothing", "shapes"}, name
    if case.reads in ("nothing", "retain"):
      assert not forget and not mixed, name
    if case.reads in ("nothing", "forget"):
      assert not retain and not mixed, name


def test_the_public_names_are_sorted_and_exist():
  # Constants, classes, functions, each by name.
  order = lambda name: (not name.isupper(), name.islower(), name)
  assert sorted(ju.__all__, key=order) == ju.__all__
  assert all(hasattr(ju, name) for name in ju.__all__)
  assert len(set(ju.__all__)) == len(ju.__all__)


def test_the_readme_lists_the_methods_that_there_are():
  readme = pathlib.Path(__file__).parents[2] / "README.md"
  cells = [
    line.split("|")[1]
    for line in readme.read_text().splitlines()
    if line.startswith("| `")
  ]
  listed = {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}
  listed -= {"rewind_data"}
  assert listed <= set(ju.methods.__all__)
  factories = (case.factory for case in CASES)
  built = {f.__name__ for f in factories if ".methods." in f.__module__}
  assert listed == built & set(ju.methods.__all__)
  # What is not public is the released code of a method that is.
  assert {name.removesuffix("_released") for name in built - listed} <= {
    "influence",
    "unsir",
  }
