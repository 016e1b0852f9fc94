import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from refusals import refused

import jaxunlearn as ju
from jaxunlearn.adapters.functions import from_functions
from jaxunlearn.core import checks, given, integers

DATA = {"x": jnp.zeros((4, 2)), "label": jnp.zeros(4, jnp.int32)}


@pytest.mark.parametrize(
  ("mask", "message"),
  [
    (jnp.zeros(3, bool), r"of shape \(4,\), a row of data each, got \(3,\)"),
    (jnp.zeros((4, 1), bool), r"got \(4, 1\)"),
    (jnp.zeros(4, jnp.int32), "dtype bool .*, got int32"),
  ],
)
def test_a_mask_that_does_not_fit_is_rejected(mask, message):
  refused(message, checks.request, DATA, mask)
  with pytest.raises(ValueError, match=message):
    jax.jit(lambda m: checks.request(DATA, m))(mask)


@pytest.mark.parametrize(
  ("mask", "message"),
  [
    (np.zeros(4, bool), "empty request"),
    (np.ones(4, bool), "covers all 4 rows"),
    (np.full(4, 1.5), r"in \[0, 1\]"),
    (np.array([0.0, np.nan, 0, 1]), r"in \[0, 1\]"),
  ],
)
def test_a_request_of_impossible_values_is_rejected(mask, message):
  refused(message, checks.request_values, mask)


def test_traced_values_pass():
  jax.jit(checks.request_values)(jnp.zeros(4, bool))
  jax.vmap(lambda x: checks.positive(x=x))(jnp.array([-1.0]))


def test_data_without_a_common_length_is_rejected():
  with pytest.raises(ValueError, match=r"one length, got data\['a'\]: 2"):
    checks.num_rows({"a": jnp.zeros(2), "b": jnp.zeros(3)})
  refused("row axis, got a scalar", checks.num_rows, {"a": jnp.zeros(())})
  refused("empty pytree", checks.num_rows, {})


def test_nan_is_counted_and_placed():
  bad = {"x": jnp.array([1.0, jnp.nan, jnp.inf])}
  refused(r"data\['x'\] to be finite, got 2", checks.finite, bad, "data")
  checks.finite(DATA, "data")


def test_labels_out_of_range_are_shown():
  refused(r"label in 0 .. 2, got 0 .. 3", checks.labels, np.array([0, 3]), 3)
  refused(r"got -1 .. 1", checks.labels, np.array([-1, 1]), 3)
  refused("integer dtype, got float", checks.labels, np.array([0.0]), 3)


def test_numbers_out_of_range_are_named():
  refused("num_steps > 0, got num_steps=0", checks.positive, num_steps=0)
  refused("copies >= 0, got copies=-1", checks.non_negative, copies=-1)
  refused(r"share in \[0, 1\], got share=2", checks.fraction, share=2)
  with pytest.raises(ValueError, match="mode to be one of 'a', 'b', got 'c'"):
    checks.one_of(("a", "b"), mode="c")


def test_numbers_that_a_jitted_function_closes_over_are_looked_at():
  rate, tree = jnp.float32(0.5), {"w": jnp.ones(2)}

  @jax.jit
  def good(x):
    checks.positive(rate=rate)
    checks.non_negative(rate=rate)
    checks.fraction(rate=rate)
    checks.finite(tree, "tree")
    return x

  assert good(1.0) == 1.0
  negative, bad = -rate, {"w": jnp.array([1.0, jnp.nan])}
  with pytest.raises(ValueError, match="Expected rate > 0"):
    jax.jit(lambda x: checks.positive(rate=negative))(1.0)
  with pytest.raises(ValueError, match="to be finite, got 1"):
    jax.jit(lambda x: checks.finite(bad, "tree"))(1.0)


X, MASK = np.ones((2, 3), np.float32), np.array([True, False])
PARAMS, KEY = {"w": jnp.ones((3, 2))}, jax.random.key(0)
MODEL = from_functions(lambda key, x: PARAMS, lambda params, x: x @ params["w"])
METHOD = ju.methods.gradient_ascent(MODEL, ju.Fit(optax.sgd(0.1), 1, 2))
WRONG = {
  "a seed": (lambda: checks.typed_key(5), "jax.random.key.seed., got 5"),
  "a raw key": (
    lambda: checks.typed_key(jax.random.PRNGKey(0)),
    r"got uint32 of shape \(2,\)",
  ),
  "many keys": (
    lambda: checks.typed_key(jax.random.split(jax.random.key(0), 3)),
    r"of shape \(\), got \(3,\)",
  ),
  "one key for many": (
    lambda: checks.typed_key(jax.random.key(0), "keys", (3,)),
    r"keys to be PRNG keys of shape \(3,\), got \(\)",
  ),
  "an optimizer's name": (
    lambda: checks.optimizer("adam"),
    r"optimizer to be an optax optimizer, such as .*, got 'adam'",
  ),
  "an optimizer not made": (
    lambda: checks.optimizer(optax.adam),
    "got function adam",
  ),
  "a linen module": (
    lambda: checks.model(nn.Dense(3)),
    "model to be a Model, as .*from_module.*, got Dense",
  ),
  "an nnx module": (
    lambda: checks.model(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), "student"),
    "student to be a Model, .*, got Linear",
  ),
  "the type Model": (lambda: checks.model(ju.Model), "got type Model"),
  "a name as function": (
    lambda: checks.functions(loss="mse"),
    "loss to be a function, got 'mse'",
  ),
  "a list of links": (
    lambda: checks.transforms([[1, 2]]),
    r"Expected a Transform, got list; .*chain\(a, b\) takes links one by one",
  ),
  "a factory as link": (
    lambda: checks.transforms([ju.methods.finetune]),
    "Transform, got function finetune; a method is called with its settings",
  ),
  "None as link": (lambda: checks.transforms([None]), "got NoneType"),
  "data without x": (
    lambda: checks.columns({"inputs": 1}, "x", "label"),
    "data to have 'x' and 'label', got 'inputs'",
  ),
  "data as a tuple": (
    lambda: checks.columns((1, 2), "x"),
    "data to be a dict with 'x', got tuple",
  ),
  "weights that are nan": (
    lambda: checks.weights(np.array([0.5, np.nan])),
    r"weights in \[0, 1\]",
  ),
  "weights of no row": (
    lambda: checks.weights(np.zeros(3, bool)),
    "weights to select rows, got none of 3",
  ),
  "weights of integers": (
    lambda: checks.weights(np.ones(3, int)),
    r"dtype bool \(or float weights\), got int64",
  ),
  "weights in a column": (
    lambda: checks.weights(np.ones((3, 1)), length=3),
    r"of shape \(3,\), got \(3, 1\)",
  ),
  "labels in a column": (
    lambda: jax.eval_shape(
      lambda y: checks.labels(y, 4, length=24), jnp.ones((24, 1), jnp.int32)
    ),
    r"label of shape \(24,\), one integer per row, got \(24, 1\)",
  ),
  "a label of 64 bits": (
    lambda: checks.labels(np.array([0, 2**32]), 3),
    r"in 0 \.\. 2, got 0 \.\. 4294967296",
  ),
  "ids of 64 bits": (
    lambda: integers.narrowed({"id": np.array([1, 2**32])}, "data"),
    r"data\['id'\] to fit into int32, got 1 \.\. 4294967296; number them",
  ),
  "no mask": (
    lambda: checks.request(DATA, None),
    r"forget_mask of shape \(\d+,\), a row of data each, got None",
  ),
  "a text as mask": (lambda: checks.request(DATA, "class:3"), "got 'class:3'"),
  "a mask of objects": (
    lambda: checks.request({"x": np.ones(2)}, np.array([True, None])),
    "dtype bool .*, got object",
  ),
  "no model": (
    lambda: given.variables(None),
    "variables to be Variables, or params, a pytree of arrays, got NoneType",
  ),
  "a number as params": (lambda: given.variables(5), "got int"),
  "texts as inputs": (
    lambda: given.rows({"x": np.array(["a"])}, "data"),
    r"data\['x'\] to be numbers, got <U1",
  ),
  "data without what a method reads": (
    lambda: METHOD(PARAMS, {"inputs": X}, MASK, KEY),
    "data to be a dict with 'x', got 'inputs'",
  ),
  "data as a tuple for a method": (
    lambda: METHOD(PARAMS, (X, X), MASK, KEY),
    "data to be a dict with 'x', got tuple",
  ),
  "ids of 64 bits for a method": (
    lambda: METHOD(PARAMS, {"x": np.array([1, 2**32])}, MASK, KEY),
    r"data\['x'\] to fit into int32",
  ),
  "a function as data's name": (lambda: ju.derive(KEY, 3), "name to be a text"),
  "a seed to derive from": (lambda: ju.derive(5, "x"), "typed PRNG key"),
  "a draw of half a row": (
    lambda: ju.phase(max, optax.sgd(0.1), 1, draw=ju.Draw(forget=2.5)),
    "draw.forget to be a whole number >= -1, got draw.forget=2.5",
  ),
  "a fit made by hand": (
    lambda: ju.phase(max, ju.Fit(optax.sgd(0.1), 2.5)),
    "num_steps to be a whole number",
  ),
  "a text as weight mask": (
    lambda: ju.masked(METHOD, "x")(PARAMS, DATA, np.arange(4) < 1, KEY),
    "weight_mask to be numbers, got 'x'",
  ),
  "labels of many trainings": (
    lambda: ju.train_many(
      MODEL,
      {"x": X, "label": np.array([0, 2])},
      np.ones((2, 2), bool),
      jax.random.split(KEY, 2),
      ju.Fit(optax.sgd(0.1), 1, 2),
    ),
    r"data\['label'\] in 0 \.\. 1, got 0 \.\. 2",
  ),
  "ids of 64 bits to predict for": (
    lambda: ju.predict_many(MODEL, PARAMS, np.array([1, 2**32])),
    "inputs to fit into int32",
  ),
  "a folder of no name": (
    lambda: given.path(" "),
    "directory to be a path, got ' '",
  ),
  "a folder of None": (lambda: given.path(None), "a path, got None"),
  "a folder of nobody": (
    lambda: given.path("~nosuchuser/x"),
    "a path that can exist here, got '~nosuchuser/x'",
  ),
  "a folder below a file": (
    lambda: given.path(__file__ + "/x"),
    "can exist here, .*Not a directory",
  ),
  "a long path": (lambda: given.path("a" * 300), "can exist here, .*too long"),
  "weights that are nan for many": (
    lambda: ju.train_many(
      *(MODEL, {"x": X}, np.full((2, 2), np.nan), jax.random.split(KEY, 2)),
      ju.Fit(optax.sgd(0.1), 1, 2),
    ),
    r"weights in \[0, 1\]",
  ),
  "a sequence with nothing asked": (
    lambda: ju.unlearn_sequence(
      METHOD, PARAMS, DATA, np.diag([1, 0, 0, 0])[:2] > 0, jax.random.split(KEY)
    ),
    "forget_masks with rows, got none in 1",
  ),
  "a condition of Python's": (
    lambda: ju.requests.predicate(
      {"a": X}, lambda row: row["a"][0] > 0 or True
    ),
    "condition of JAX functions",
  ),
  "a text as an end of a range": (
    lambda: ju.requests.value_range(np.arange(3), "a"),
    "low and high.* to be numbers, got <U1",
  ),
  "no model to stream": (
    lambda: ju.stream(METHOD, None, [], KEY),
    "variables to be Variables",
  ),
  "a text as number": (
    lambda: checks.positive(rate="3"),
    "rate > 0, got rate='3'",
  ),
  "nothing as fraction": (
    lambda: checks.fraction(share=None),
    r"share in \[0, 1\], got share=None",
  ),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_wrong_kind_of_thing_is_named_in_one_line(name):
  call, message = WRONG[name]
  with pytest.raises(ValueError, match=message) as caught:
    call()
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "value", [0, -1, 2.5, 2.0, True, float("nan"), "4", None, np.array([1, 2])]
)
def test_a_count_is_a_whole_number_above_zero(value):
  refused("steps to be a whole number >= 1, got", checks.count, steps=value)
  checks.count(a=1, b=np.int64(3), c=np.array(2), d=jnp.int32(4))
  with pytest.raises(ValueError, match="to be a whole number >= 1"):
    jax.jit(lambda n: checks.count(steps=n))(3)


def test_the_right_kind_of_thing_passes():
  key = jax.random.key(0)
  checks.typed_key(key)
  checks.typed_key(jax.random.split(key, 3), shape=(3,))
  jax.jit(checks.typed_key)(key)
  jax.vmap(checks.typed_key)(jax.random.split(key, 3))
  checks.optimizer(optax.lbfgs())
  model = from_functions(lambda key, x: {}, lambda params, x: x)
  checks.model(model)
  checks.transforms([ju.chain(name="nothing")])
  checks.columns(DATA, "x")
  checks.weights(np.array([0, 0.5]), length=2)
  integers.narrowed({"x": np.arange(3), "y": np.uint64(7), "z": "text"}, "data")
