"""Flax modules as models: the same numbers as the modules used directly."""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from refusals import refused

from jaxunlearn.adapters.flax import (
  from_linen,
  from_module,
  from_nnx,
  variables_of,
  with_variables,
)
from jaxunlearn.core.types import Variables

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(42), (6, 5))
ROWS = {"x": X, "label": jnp.array([0, 1, 2, 0, 1, 2])}


class Linen(nn.Module):
  """BatchNorm and dropout, told apart by `train`."""

  rate: float = 0.5
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, train: bool):
    kinds = {"param_dtype": self.dtype, "dtype": self.dtype}
    x = nn.Dense(8, **kinds)(x)
    x = nn.BatchNorm(use_running_average=not train, **kinds)(x)
    self.sow("intermediates", "normed", x)
    x = nn.Dropout(self.rate, deterministic=not train)(x)
    return nn.Dense(3, **kinds)(x)


class Nnx(nnx.Module):
  """The same network in nnx, with a list of layers at the end."""

  def __init__(self, rngs, rate=0.5, dtype=jnp.float32):
    kinds = {"param_dtype": dtype, "dtype": dtype, "rngs": rngs}
    self.first = nnx.Linear(5, 8, **kinds)
    self.norm = nnx.BatchNorm(8, **kinds)
    self.dropout = nnx.Dropout(rate, rngs=rngs)
    self.noise = nnx.Dropout(rate, rngs=rngs)
    self.rest = nnx.List([nnx.Linear(8, 8, **kinds), nnx.Linear(8, 3, **kinds)])

  def __call__(self, x):
    x = self.norm(self.first(x))
    self.sow(nnx.Intermediate, "normed", x)
    x = self.noise(self.dropout(x))
    for layer in self.rest:
      x = layer(x)
    return x


MAKERS = {
  "linen": lambda **options: from_linen(Linen(**options)),
  "nnx": lambda **options: from_nnx(functools.partial(Nnx, **options)),
}
both = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


@both
def test_evaluation_neither_moves_state_nor_draws(make):
  model = make()
  variables = model.init(KEY, X)
  outputs, state = model.apply(variables, X)
  again, _ = model.apply(variables, X, train=False, key=jax.random.key(5))
  assert state is variables.model_state
  np.testing.assert_array_equal(outputs, again)
  assert outputs.shape == (6, 3)


@both
def test_training_moves_state_and_draws_from_its_key_alone(make):
  model = make()
  variables = model.init(KEY, X)
  run = jax.jit(functools.partial(model.apply, train=True))
  first, state = run(variables, X, key=jax.random.key(1))
  same, _ = run(variables, X, key=jax.random.key(1))
  other, other_state = run(variables, X, key=jax.random.key(2))
  np.testing.assert_array_equal(first, same)
  assert not np.allclose(first, other)
  chex.assert_trees_all_equal_shapes_and_dtypes(state, variables.model_state)
  # The statistics lie before the dropout: they move, and the same for any key.
  chex.assert_trees_all_close(state, other_state, rtol=1e-6)
  for new, old in zip(
    jax.tree.leaves(state), jax.tree.leaves(variables.model_state)
  ):
    assert not np.allclose(new, old)


@both
def test_training_that_draws_needs_a_key(make):
  model = make()
  with pytest.raises(ValueError, match="Expected a key for train=True"):
    model.apply(model.init(KEY, X), X, train=True)


@both
def test_variables_are_plain_dicts_of_arrays_without_keys(make):
  variables = make().init(KEY, X)

  def check(node):
    if isinstance(node, dict):
      for value in node.values():
        check(value)
    else:
      assert isinstance(node, jax.Array)
      assert node.dtype == jnp.float32  # No counters, no keys.

  check(variables.params)
  check(variables.model_state)
  assert type(variables.params) is dict
  assert type(variables.model_state) is dict


@both
def test_bfloat16_parameters_keep_their_dtype(make):
  # Flax's own BatchNorm mixes dtypes, which strict promotion forbids.
  with jax.numpy_dtype_promotion("standard"):
    model = make(dtype=jnp.bfloat16)
    x = X.astype(jnp.bfloat16)
    variables = model.init(KEY, x)
    outputs, state = model.apply(variables, x, train=True, key=KEY)
    loss = model.loss(outputs, ROWS)
  dtypes = {leaf.dtype for leaf in jax.tree.leaves(variables.params)}
  assert dtypes == {jnp.dtype(jnp.bfloat16)}
  assert outputs.dtype == jnp.bfloat16
  chex.assert_trees_all_equal_dtypes(state, variables.model_state)
  assert loss.dtype == jnp.float32 and loss.shape == (6,)


@both
def test_state_keeps_the_dtype_it_came_in(make):
  model = make()
  variables = model.init(KEY, X)
  low = jax.tree.map(lambda a: a.astype(jnp.bfloat16), variables.model_state)
  with jax.numpy_dtype_promotion("standard"):
    _, state = model.apply(
      Variables(variables.params, low), X, train=True, key=KEY
    )
  chex.assert_trees_all_equal_dtypes(state, low)


@both
def test_features_are_named_activations_in_evaluation_mode(make):
  model = make()
  variables = model.init(KEY, X)
  features = model.features(variables, X)
  first = "Dense_0" if "Dense_0" in variables.params else "first"
  layer = variables.params[first]
  np.testing.assert_allclose(
    features[first], X @ layer["kernel"] + layer["bias"][None], rtol=1e-5
  )
  assert features["normed"].shape == (6, 8)
  last = "Dense_1" if "Dense_1" in variables.params else "rest/1"
  np.testing.assert_array_equal(features[last], model.predict(variables, X))
  assert all(isinstance(value, jax.Array) for value in features.values())
  assert "" not in features


def test_linen_model_equals_the_module_itself():
  module, model = Linen(), from_linen(Linen())
  direct = module.init(KEY, X, train=False)
  variables = model.init(KEY, X)
  chex.assert_trees_all_equal(variables.params, direct["params"])
  chex.assert_trees_all_equal(
    variables.model_state, {"batch_stats": direct["batch_stats"]}
  )
  np.testing.assert_array_equal(
    model.predict(variables, X), module.apply(direct, X, train=False)
  )
  key = jax.random.key(3)
  outputs, state = model.apply(variables, X, train=True, key=key)
  expected, moved = module.apply(
    direct, X, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
  )
  np.testing.assert_array_equal(outputs, expected)
  chex.assert_trees_all_equal(state, dict(moved))


def test_nnx_model_equals_the_module_itself():
  # With several random streams, dropout of rate 0 keeps the comparison exact.
  model = from_nnx(lambda rngs: Nnx(rngs, rate=0.0))
  module = Nnx(nnx.Rngs(KEY), rate=0.0)
  variables = model.init(KEY, X)
  chex.assert_trees_all_equal(
    variables.params, nnx.to_pure_dict(nnx.state(module, nnx.Param))
  )
  call = nnx.capture(module)
  module.eval()
  np.testing.assert_array_equal(model.predict(variables, X), call(X))
  module.train()
  outputs, state = model.apply(variables, X, train=True, key=KEY)
  np.testing.assert_array_equal(outputs, call(X))
  chex.assert_trees_all_equal(
    state, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))
  )


def test_nnx_dropout_layers_have_streams_of_their_own():
  class Twice(nnx.Module):
    def __init__(self, rngs):
      self.one = nnx.Dropout(0.5, rngs=rngs)
      self.two = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
      return jnp.stack([self.one(x), self.two(x)])

  model = from_nnx(Twice)
  variables = model.init(KEY, X)
  assert variables == Variables({}, {})
  one, two = model.apply(variables, jnp.ones((4, 64)), train=True, key=KEY)[0]
  # Independent masks of 256 entries agree on half, within five deviations.
  assert abs(np.mean((one == 0) == (two == 0)) - 0.5) < 5 * 0.5 / 16
  # Rate 0.5 keeps half and doubles it.
  assert set(np.unique(one)) == {0.0, 2.0}


def test_nnx_factory_runs_once_and_abstractly():
  calls = []

  def factory(rngs):
    module = nnx.Linear(5, 3, rngs=rngs)
    calls.append(isinstance(module.kernel[...], jax.core.Tracer))
    return module

  model = from_nnx(factory)
  assert calls == [True]
  variables = model.init(KEY, X)
  assert calls == [True, False]
  model.apply(variables, X)
  model.apply(variables, X, train=True)
  assert len(calls) == 2
  assert variables.model_state == {}


@pytest.mark.parametrize(
  "name",
  ["train", "training", "is_training", "deterministic", "use_running_average"],
)
def test_the_train_argument_is_found_by_its_name(name):
  negated = name in ("deterministic", "use_running_average")
  flags = []

  def call(self, x, **flag):
    flags.append(flag[name])
    return x

  # The signature is what the adapter reads.
  kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
  call.__signature__ = inspect.Signature(
    [
      inspect.Parameter("self", kind),
      inspect.Parameter("x", kind),
      inspect.Parameter(name, kind, default=None),
    ]
  )
  call.__name__ = "__call__"
  Named = type("Named", (nn.Module,), {"__call__": call})
  model = from_linen(Named())
  for train in (True, False):
    model.apply(Variables({}, {}), X, train=train)
    assert flags[-1] is (train != negated)


def test_a_module_without_flag_or_state_is_called_as_it_is():
  module = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
  model = from_linen(module)
  variables = model.init(KEY, X)
  assert variables.model_state == {}
  outputs, state = model.apply(variables, X, train=True)
  assert state == {}
  np.testing.assert_array_equal(
    outputs, module.apply({"params": variables.params}, X)
  )
  assert from_linen(module, features=False).features is None


def test_another_flag_and_stream_are_told_by_name():
  class Noisy(nn.Module):
    @nn.compact
    def __call__(self, x, noisy):
      if noisy:
        x = x + jax.random.normal(self.make_rng("noise"), x.shape)
      return nn.Dropout(0.5, deterministic=not noisy)(x)

  told = {"train_argument": "noisy", "rng_collections": ("dropout", "noise")}
  model = from_linen(Noisy(), **told)
  variables = model.init(KEY, X)
  np.testing.assert_array_equal(model.predict(variables, X), X)
  outputs, _ = model.apply(variables, X, train=True, key=KEY)
  assert not np.allclose(outputs, X)
  short = from_linen(Noisy(), train_argument="noisy")
  outputs, _ = short.apply(variables, X, train=True, key=KEY)
  other, _ = short.apply(variables, X, train=True, key=jax.random.key(1))
  assert not np.allclose(outputs, X) and not np.allclose(outputs, other)
  with pytest.raises(ValueError, match="Expected a key for train=True"):
    short.apply(variables, X, train=True)
  with pytest.raises(ValueError, match=r"train_argument.*Noisy.*'train'"):
    from_linen(Noisy(), train_argument="train")


def test_a_layer_called_twice_gives_a_feature_a_call():
  class Shared(nn.Module):
    @nn.compact
    def __call__(self, x):
      layer = nn.Dense(5, name="layer")
      return layer(layer(x))

  model = from_linen(Shared())
  variables = model.init(KEY, X)
  features = model.features(variables, X)
  assert set(features) == {"layer/0", "layer/1"}
  np.testing.assert_array_equal(
    features["layer/1"], model.predict(variables, X)
  )


def test_from_module_tells_linen_from_nnx():
  inputs = jnp.ones((2, 5))
  for given in (
    nn.Dense(3),
    lambda: nn.Dense(3),
    functools.partial(nn.Dense, 3),
    lambda rngs: nnx.Linear(5, 3, rngs=rngs),
    lambda random: nnx.Linear(5, 3, rngs=random),
    functools.partial(nnx.Linear, 5, 3),
    Nnx,
  ):
    model = from_module(given)
    variables = model.init(KEY, inputs)
    assert model.predict(variables, inputs).shape == (2, 3)
    other = model.init(jax.random.key(1), inputs)
    assert not np.allclose(
      jax.tree.leaves(variables.params)[-1], jax.tree.leaves(other.params)[-1]
    )


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (3, "got int"),
    (lambda: 3, "returns int"),
    (lambda rngs: 3, "return an nnx.Module, got int"),
    (lambda: nnx.Linear(5, 3, rngs=nnx.Rngs(0)), "without arguments"),
    (nn.Dense, r"Dense, which wants features; functools.partial\(Dense"),
    (nnx.Linear, "Linear, which wants in_features, out_features"),
    (lambda rngs, width: nnx.Linear(5, width, rngs=rngs), "wants width"),
  ],
)
def test_from_module_refuses_what_it_cannot_initialise(given, message):
  refused(message, from_module, given)


def test_the_wrong_constructor_says_so():
  refused("to be a linen module, got ModuleMeta", from_linen, Nnx)
  refused(r"Expected factory to take nnx.Rngs", from_nnx, lambda: None)
  refused("factory to be a function, got int", from_nnx, 3)
  with pytest.raises(ValueError, match="loss to be a function, got 'mse'"):
    from_linen(nn.Dense(3), loss="mse")


def _network(x, train):
  x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
  return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(x))


class IsTrain(nn.Module):
  @nn.compact
  def __call__(self, x, is_train=False):
    return _network(x, is_train)


class EvalMode(nn.Module):
  @nn.compact
  def __call__(self, x, *, eval_mode=True):
    return _network(x, not eval_mode)


class Field(nn.Module):
  deterministic: bool = True

  @nn.compact
  def __call__(self, x):
    return _network(x, not self.deterministic)


class Outer(nn.Module):
  """The flag lies too deep to be found."""

  inner: nn.Module = Field()

  def __call__(self, x):
    return self.inner(x)


class Anything(nn.Module):
  """The flag is hidden from the signature."""

  @nn.compact
  def __call__(self, x, **options):
    return _network(x, options.get("noisy", False))


class Frozen(nn.Module):
  """A flag by a name of its own, which is False in training."""

  @nn.compact
  def __call__(self, x, frozen=True, return_features=False):
    return _network(x, not frozen)


class Mode(nn.Module):
  @nn.compact
  def __call__(self, x, mode):
    return _network(x, mode == "train")


class NnxFlag(nnx.Module):
  """Told by an argument of the call."""

  def __init__(self, rngs):
    self.norm = nnx.BatchNorm(5, rngs=rngs)
    self.dropout = nnx.Dropout(0.5, rngs=rngs)

  def __call__(self, x, is_train=False):
    x = self.norm(x, use_running_average=not is_train)
    return self.dropout(x, deterministic=not is_train)


class NnxAttribute(NnxFlag):
  """Told by an attribute of the module."""

  is_training = False

  def __init__(self, rngs):
    super().__init__(rngs)
    self.is_training = False

  def __call__(self, x):
    return super().__call__(x, self.is_training)


class NnxAsleep(NnxFlag):
  def __call__(self, x, **options):
    return super().__call__(x, options.get("noisy", False))


class NnxNoisy(NnxFlag):
  def __call__(self, x, noisy=False):
    return super().__call__(x, noisy)


@pytest.mark.parametrize(
  ("module", "options"),
  [
    (IsTrain(), {}),
    (EvalMode(), {}),
    (Field(), {}),
    (Frozen(), {"train_argument": "not frozen"}),
    (EvalMode(), {"train_argument": "eval_mode"}),
    (EvalMode(), {"train_argument": "not eval_mode"}),
    (Anything(), {"train_argument": "noisy"}),
    (NnxFlag, {}),
    (NnxAttribute, {}),
    (NnxNoisy, {"train_argument": "noisy"}),
  ],
)
def test_a_flag_by_another_name_wakes_dropout_and_batch_norm(module, options):
  model = from_module(module, **options)
  variables = model.init(KEY, X)
  key, other = jax.random.split(KEY)
  outputs, state = model.apply(variables, X, train=True, key=key)
  again, _ = model.apply(variables, X, train=True, key=other)
  assert not np.allclose(outputs, again)
  moved = jax.tree.map(
    lambda new, old: bool((new != old).any()), state, variables.model_state
  )
  assert all(jax.tree.leaves(moved))
  outputs, state = model.apply(variables, X, key=key)
  np.testing.assert_array_equal(outputs, model.predict(variables, X))
  chex.assert_trees_all_equal(state, variables.model_state)
  assert model.features(variables, X)


@pytest.mark.parametrize(
  ("module", "found"),
  [
    (Outer(), "Outer that is True in training.*its BatchNorm and Dropout did"),
    (Anything(), "Anything that is True"),
    (NnxAsleep, "NnxAsleep that is True"),
    (Frozen(), "'frozen' of Frozen.__call__ is: .*'not frozen'"),
    (NnxNoisy, "'noisy' of NnxNoisy.__call__"),
    (Mode(), "'mode' of Mode.__call__"),
  ],
)
@pytest.mark.parametrize("jitted", [False, True])
def test_training_in_evaluation_mode_is_refused_and_the_flag_asked_for(
  module, found, jitted
):
  with pytest.raises(ValueError, match=f"train_argument .*{found}") as caught:
    model = from_module(module)
    variables = model.init(KEY, X)
    apply = functools.partial(model.apply, train=True)
    (jax.jit(apply) if jitted else apply)(variables, X, key=KEY)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", [Outer(), Anything(), NnxAsleep, Frozen()])
def test_a_module_that_shall_sleep_says_so(module):
  model = from_module(module, train_argument=None)
  variables = model.init(KEY, X)
  outputs, state = model.apply(variables, X, train=True, key=KEY)
  np.testing.assert_array_equal(outputs, model.predict(variables, X))
  chex.assert_trees_all_equal(state, variables.model_state)


def test_what_is_random_or_moves_in_evaluation_is_refused():
  class Draws(nn.Module):
    def __call__(self, x):
      return x + jax.random.normal(self.make_rng("noise"), x.shape)

  class Moves(nn.Module):
    @nn.compact
    def __call__(self, x):
      return nn.BatchNorm(use_running_average=False)(x)

  for module in (Draws(), Moves()):
    model = from_linen(module)
    variables = model.init(KEY, X)
    model.apply(variables, X, train=True, key=KEY)
    refused("draw nothing and to move no state", model.predict, variables, X)


def test_integers_reach_an_embedding():
  class Text(nn.Module):
    @nn.compact
    def __call__(self, tokens):
      return nn.Dense(3)(nn.Embed(50, 4)(tokens).mean(1))

  class NnxText(nnx.Module):
    def __init__(self, rngs):
      self.embed = nnx.Embed(50, 4, rngs=rngs)

    def __call__(self, tokens):
      return self.embed(tokens).mean(1)

  tokens = np.arange(12).reshape(2, 6)
  for module in (Text(), NnxText):
    model = from_module(module)
    assert model.predict(model.init(KEY, tokens), tokens).shape[0] == 2


def test_a_trained_nnx_module_goes_in_and_comes_back():
  module = Nnx(nnx.Rngs(3))
  model, variables = from_nnx(module), variables_of(module)
  made = from_nnx(Nnx).init(KEY, X)
  chex.assert_trees_all_equal_shapes_and_dtypes(variables, made)
  chex.assert_trees_all_equal(variables, variables_of(nnx.state(module)))
  module.eval()
  np.testing.assert_array_equal(
    model.predict(variables, X), nnx.capture(module)(X)
  )
  _, state = model.apply(variables, X, train=True, key=KEY)
  moved = variables._replace(
    params=jax.tree.map(lambda x: x + 1, variables.params), model_state=state
  )
  back = with_variables(module, moved)
  chex.assert_trees_all_equal(variables_of(back), moved)
  chex.assert_trees_all_equal(variables_of(module), variables)
  np.testing.assert_allclose(nnx.capture(back)(X), model.predict(moved, X))
  refused(r"function \(rngs\) -> Nnx .* anew", model.init, KEY, X)
  with pytest.raises(ValueError, match="Expected variables"):
    with_variables(module, variables._replace(model_state={}))
  refused("to be an nnx module, got Dense", variables_of, nn.Dense(3))
