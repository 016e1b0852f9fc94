"""Dynamic images, the supernet, the search and what is cut out of it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from refusals import refused

from jaxunlearn import nas
from jaxunlearn.core.tasks import Fit
from jaxunlearn.core.types import Request, Variables
from jaxunlearn.nas import operations, supernet
from jaxunlearn.nas.dynamic_image import to_unit_range

KEY = jax.random.key(0)
SPACE = nas.Space(3, channels=3)
X = np.random.default_rng(0).normal(size=(4, 4, 4, 1)).astype(np.float32)


# Dynamic images.


@pytest.mark.parametrize(
  "count, wanted",
  [
    (2, (-0.5, 0.5)),
    (3, (-4 / 3, 2 / 3, 2 / 3)),
    (5, (-3.7, 0.3, 1.3, 1.3, 0.8)),
  ],
)
def test_weights_of_frames_are_the_published_ones(count, wanted):
  found = nas.harmonic_weights(count)
  np.testing.assert_allclose(found, wanted, atol=2e-5)
  simple = 2 * np.arange(1, count + 1) - count - 1
  np.testing.assert_allclose(nas.simple_weights(count), simple)


def test_the_closed_form_is_the_sum_and_weights_add_up_to_nothing():
  for count in (2, 7, 33, 64):
    t = np.arange(1, count + 1)
    sums = [((2 * t - count - 1) / t)[i:].sum() for i in range(count)]
    found = np.asarray(nas.harmonic_weights(count))
    np.testing.assert_allclose(found, sums, atol=2e-4)
    assert abs(found.sum()) < 1e-5 * np.abs(found).sum()
  assert (
    nas.harmonic_weights(1).tolist() == [1] == nas.simple_weights(1).tolist()
  )


def test_a_dynamic_image_is_linear_and_blind_to_what_does_not_move():
  clip = np.random.default_rng(1).normal(size=(5, 4, 3, 1)).astype(np.float32)
  image = nas.dynamic_image(clip)
  near = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4)
  near(nas.dynamic_image(2 * clip + 7), 2 * image)
  near(nas.dynamic_image(np.broadcast_to(clip[:1], clip.shape)), 0 * image)
  simple = lambda c: nas.dynamic_image(c, weights=nas.simple_weights)
  near(simple(clip[::-1]), -simple(clip))
  padded = np.concatenate([clip, np.full((3, 4, 3, 1), np.nan, np.float32)])
  near(jax.jit(nas.dynamic_image)(padded, 5), image)
  near(nas.dynamic_image(padded, 1), clip[0])
  unit = to_unit_range(image)
  assert float(unit.min()) == 0 and float(unit.max()) == 1
  assert (np.asarray(to_unit_range(0 * image)) == 0).all()


# The supernet.


@pytest.fixture(scope="module")
def apply():
  weights = supernet.init_weights(SPACE, KEY)
  return jax.jit(lambda gates: supernet.apply(SPACE, weights, gates, X))


def gates_of(*operation):
  """The same operation on every edge, or a mixture of several."""
  row = jnp.zeros(6).at[jnp.array(operation)].set(1 / len(operation))
  return dict.fromkeys(("normal", "reduce"), jnp.tile(row, (5, 1)))


def test_an_operation_with_all_the_weight_is_the_operation_alone(apply):
  for number in range(6):
    table = 50 * gates_of(number)["normal"]
    soft = nas.mixture({"normal": table, "reduce": table})
    np.testing.assert_allclose(apply(soft), apply(gates_of(number)), atol=1e-4)
  # Without any operation only the head's bias is left.
  assert np.abs(apply(gates_of(operations.ZERO))).max() < 1e-6


def test_each_convolution_is_the_one_of_lax():
  rng = np.random.default_rng(2)
  x = jax.nn.relu(jnp.asarray(rng.normal(size=(2, 6, 6, 3)), jnp.float32))
  depth = jnp.asarray(rng.normal(size=(1, 3, 25, 3)), jnp.float32)
  point = jnp.asarray(rng.normal(size=(1, 3, 3, 3)), jnp.float32)
  kernel = depth[0].reshape(3, 5, 5, 1, 3)
  for stride in (1, 2):
    for i, (own, dilation) in enumerate((
      (kernel[0, 1:4, 1:4], 1), (kernel[1], 1), (kernel[2, ::2, ::2], 2),
    )):  # fmt: skip
      half = dilation * (own.shape[0] // 2)
      wanted = jax.lax.conv_general_dilated(
        x, own, (stride, stride), ((half, half), (half, half)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=3,
      ) @ point[0, i]  # fmt: skip
      gates = jnp.zeros((1, 6)).at[0, 3 + i].set(1.0)
      found = operations.mixed(x, gates, depth, point, stride)[0]
      wanted = operations.normalised(wanted)
      np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_the_gradient_in_the_architecture_is_that_of_finite_differences():
  model = nas.search_model(SPACE)
  variables = jax.jit(model.init)(KEY, X)
  label = jnp.array([0, 1, 2, 0])

  @jax.jit
  def loss(table):
    params = {**variables.params, "architecture": table}
    logits = model.predict(Variables(params), X)
    return model.loss(logits, {"label": label}).mean()

  table = variables.params["architecture"]
  slope = jax.jit(jax.grad(loss))(table)
  way = jax.tree.map(lambda g: jnp.sign(g), slope)
  step = lambda e: loss(jax.tree.map(lambda a, d: a + e * d, table, way))
  wanted = sum(jnp.abs(g).sum() for g in jax.tree.leaves(slope))
  found = (step(3e-3) - step(-3e-3)) / 6e-3
  np.testing.assert_allclose(found, wanted, rtol=1e-2)


# The search.


def test_the_hypergradient_is_that_of_the_quadratic_and_of_differences():
  w, a, b, rate = 0.7, 0.2, -0.4, 0.3
  train = lambda w, a: 0.5 * (w - a) ** 2
  validation = lambda w, a: 0.5 * (w - b) ** 2
  slope = lambda rate: jax.grad(nas.unrolled, 3)(train, validation, w, a, rate)
  wanted = rate * (w - rate * (w - a) - b)
  np.testing.assert_allclose(slope(rate), wanted, rtol=1e-5)
  # The released code's finite differences.
  moved = w - rate * (w - a)
  outer = moved - b
  e = 0.01 / abs(outer)
  inner = lambda w: jax.grad(train, 1)(w, a)
  differences = inner(w + e * outer) - inner(w - e * outer)
  released = -rate * differences / (2 * e)
  np.testing.assert_allclose(slope(rate), released, rtol=1e-2)
  assert float(slope(0.0)) == 0 == float(jax.jit(slope)(0.0))


def rows(count=24):
  rng = np.random.default_rng(3)
  label = np.arange(count) % 3
  x = rng.normal(size=(count, 4, 4, 1)) * 0.3
  x[:, :, :, 0] += np.eye(3, 4)[label][:, None] * 2
  fold = np.arange(count) % 2 == 0
  data = {"x": x.astype(np.float32), "label": label, "fold": fold}
  return jax.tree.map(jnp.asarray, data)


@pytest.mark.slow  # It compiles a search.
def test_a_dear_operation_is_not_chosen_and_the_second_order_differs():
  data, ones = rows(), jnp.ones(24, bool)
  fit = Fit(optax.sgd(0.05), 30, 8)
  start = nas.search_model(SPACE).init(KEY, data["x"])

  @jax.jit
  def search(cost_weight, inner_rate):
    method = nas.darts(
      SPACE,
      fit,
      architecture=optax.adam(0.05),
      inner_rate=inner_rate,
      cost_weight=cost_weight,
    )
    made, _ = method(start, data, Request(~ones, ones), KEY)
    return made.params["architecture"]

  cheap = search(100.0, 0.0)
  for gate in nas.discretise(SPACE, cheap).values():
    assert not np.asarray(gate)[:, 3:].any()
  first, second = search(0.0, 0.0), search(0.0, 0.05)
  assert float(nas.architecture_distance(first, second)) > 1e-4


def test_two_edges_stay_into_each_node_and_never_zero():
  space = nas.Space(3, nodes=4)
  tables = jax.vmap(lambda k: nas.random_architecture(space, k))(
    jax.random.split(KEY, 20)
  )
  found = jax.jit(jax.vmap(lambda t: nas.discretise(space, t)))(tables)
  for gates in found.values():
    gates = np.asarray(gates)
    assert gates.shape == (20, 14, 6) and not gates[:, :, 0].any()
    assert set(gates.sum(axis=2).ravel()) == {0, 1}
    for node in range(2, 6):
      into = [e for e, (_, to) in enumerate(space.edges) if to == node]
      assert (gates[:, into].sum(axis=(1, 2)) == 2).all()
  # Ties and a dominant "zero": the first edges, and the first other operation.
  flat = jnp.zeros((14, 6)).at[:, 0].set(9.0)
  said = nas.describe(space, {"normal": flat})["normal"]
  assert said[:3] == ["0 -> 2: skip", "1 -> 2: skip", "0 -> 3: skip"]


def test_distances_between_architectures():
  a = {"normal": jnp.zeros((5, 6))}
  b = {"normal": jnp.zeros((5, 6)).at[2, 3].set(80.0)}
  assert float(nas.architecture_distance(a, a)) == 0
  np.testing.assert_allclose(nas.architecture_distance(a, b), 5 / 6, rtol=1e-5)
  assert float(nas.agreement(SPACE, a, a)) == 1
  assert float(nas.agreement(SPACE, a, b)) == 0.75
  costs = jnp.array([0.0, 0, 0, 1, 2, 1])
  np.testing.assert_allclose(
    nas.expected_cost(b, costs), 4 * 2 / 6 + 0.5, rtol=1e-5
  )


BAD = (
  ("num_frames", lambda: nas.harmonic_weights(0)),
  ("length", lambda: nas.harmonic_weights(3, 0)),
  (r"\[T, H, W, C\]", lambda: nas.dynamic_image(X[0])),
  ("nodes", lambda: supernet.init_weights(SPACE._replace(nodes=0), KEY)),
  ("cell", lambda: supernet.init_weights(SPACE._replace(cells=("big",)), KEY)),
  ("inner_rate", lambda: nas.darts(SPACE, Fit(optax.sgd(1.0), 1), inner_rate=-1)),
  ("both folds", lambda: searched(jnp.zeros(24, bool))),
  ("dtype bool", lambda: searched(jnp.zeros(24))),
)  # fmt: skip


def searched(fold):
  data = {**rows(), "fold": fold}
  start = nas.search_model(SPACE).init(KEY, data["x"])
  method = nas.darts(SPACE, Fit(optax.sgd(0.1), 1, 4))
  return method(start, data, jnp.zeros(24, bool), KEY)


@pytest.mark.parametrize("words, call", BAD, ids=[words for words, _ in BAD])
def test_bad_input(words, call):
  refused(words, call)
