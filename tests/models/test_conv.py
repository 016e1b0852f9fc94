"""The convolution: equal to Flax's in every mode, whatever computes it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from refusals import refused

from jaxunlearn.models import conv_primitive as conv_lib
from jaxunlearn.models.conv import IMPLEMENTATIONS, Conv, convolution

FAST = [name for name in IMPLEMENTATIONS if name != "lax"]

# kernel size, input size, input channels, arguments of both layers
CASES = {
  "plain": ((3, 3), (8, 7), 4, {}),
  "pointwise": ((1, 1), (5, 6), 4, {}),
  "pointwise_strided": ((1, 1), (7, 8), 4, {"strides": 2}),
  "pointwise_overpadded": ((1, 1), (4, 5), 4, {"padding": 2, "strides": 3}),
  "colours": ((1, 2), (5, 6), 3, {"strides": 2}),
  "even_kernel": ((2, 4), (6, 7), 4, {}),
  "strided_even": ((3, 3), (8, 8), 4, {"strides": 2}),
  "strided_odd": ((3, 3), (7, 9), 4, {"strides": (2, 3)}),
  "valid": ((3, 3), (8, 6), 4, {"padding": "VALID"}),
  "valid_with_unused_border": (
    (3, 3),
    (8, 6),
    4,
    {"padding": "VALID", "strides": 2},
  ),
  "int_padding": ((3, 3), (5, 6), 4, {"padding": 2}),
  "one_int_an_axis": ((3, 3), (5, 6), 4, {"padding": (0, 2), "strides": 2}),
  "pair_padding": ((3, 2), (5, 6), 4, {"padding": ((0, 3), (2, 1))}),
  "kernel_dilation": ((3, 3), (9, 8), 4, {"kernel_dilation": (2, 1)}),
  "input_dilation": (
    (3, 3),
    (4, 5),
    4,
    {"input_dilation": (2, 3), "padding": ((1, 2), (0, 1))},
  ),
  "everything": (
    (3, 2),
    (5, 4),
    4,
    {
      "strides": (2, 1),
      "input_dilation": (2, 2),
      "kernel_dilation": (1, 2),
      "padding": ((1, 2), (3, 0)),
      "feature_group_count": 2,
    },
  ),
  "groups": ((3, 3), (6, 5), 4, {"feature_group_count": 2, "strides": 2}),
  "depthwise": ((3, 3), (6, 5), 6, {"feature_group_count": 6}),
  "circular": ((3, 3), (6, 5), 4, {"padding": "CIRCULAR"}),
  "reflect": ((3, 3), (6, 5), 4, {"padding": "REFLECT"}),
  "one_axis": ((3,), (9,), 4, {"strides": 2}),
  "causal": ((3,), (9,), 4, {"padding": "CAUSAL", "kernel_dilation": 2}),
  "three_axes": ((2, 3, 1), (4, 5, 3), 4, {"strides": (1, 2, 1)}),
  "no_bias": ((3, 3), (5, 5), 4, {"use_bias": False}),
}


def make(case, seed=0):
  """An `nn.Conv`, its arguments, params, a batch and an output weight."""
  size, spatial, channels, arguments = CASES[case]
  arguments = {"features": 6, "kernel_size": size, **arguments}
  reference = nn.Conv(**arguments)
  keys = jax.random.split(jax.random.key(seed), 3)
  x = jax.random.normal(keys[0], (3, *spatial, channels))
  variables = reference.init(keys[1], x)
  if "bias" in variables["params"]:
    variables["params"]["bias"] = jnp.arange(6.0)
  shape = jax.eval_shape(reference.apply, variables, x).shape
  return reference, arguments, variables, x, jax.random.normal(keys[2], shape)


def output_and_gradients(module, variables, x, weight):
  def loss(variables, x):
    y = module.apply(variables, x)
    return jnp.sum(weight * jnp.sin(y)), y

  gradients, y = jax.grad(loss, (0, 1), has_aux=True)(variables, x)
  return y, gradients


def assert_close(got, wanted, rtol=2e-5):
  """Equal up to rounding, relative to the largest entry of each leaf."""
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(
      np.asarray(a, np.float32),
      np.asarray(b, np.float32),
      rtol=rtol,
      atol=rtol * (1e-3 + float(np.abs(b).max(initial=0))),
    ),
    got,
    wanted,
  )


@pytest.mark.slow
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_equal_those_of_flax(case, implementation):
  reference, arguments, variables, x, weight = make(case)
  module = Conv(**arguments, implementation=implementation)
  run = jax.jit(output_and_gradients, static_argnums=0)
  assert_close(
    run(module, variables, x, weight), run(reference, variables, x, weight)
  )


def test_a_convolution_by_hand_in_float64():
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=(2, 5, 6, 3)), rng.normal(size=(3, 2, 3, 4))
  padded = np.pad(x, ((0, 0), (1, 0), (2, 1), (0, 0)))
  wanted = np.zeros((2, 2, 8, 4))
  for i in range(2):
    for j in range(8):
      patch = padded[:, 2 * i : 2 * i + 3, j : j + 2]
      wanted[:, i, j] = np.tensordot(patch, kernel, 3)
  for implementation in IMPLEMENTATIONS:
    got = convolution(
      jnp.asarray(x, jnp.float32),
      jnp.asarray(kernel, jnp.float32),
      strides=(2, 1),
      padding=((1, 0), (2, 1)),
      implementation=implementation,
    )
    np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("case", ["plain", "depthwise", "no_bias", "one_axis"])
def test_parameters_are_those_of_flax_bit_for_bit(case):
  reference, arguments, _, x, _ = make(case)
  key = jax.random.key(7)
  dtype = lambda leaf: leaf.dtype
  for extra in ({}, {"param_dtype": jnp.bfloat16}):
    wanted = reference.clone(**extra).init(key, x)
    got = Conv(**arguments, **extra).init(key, x)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
    assert jax.tree.map(dtype, got) == jax.tree.map(dtype, wanted)


@pytest.mark.slow
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", ["plain", "groups", "everything"])
def test_vmap_over_weights_equals_a_loop(case, implementation):
  _, arguments, variables, x, weight = make(case)
  module = Conv(**arguments, implementation=implementation)
  many = jax.tree.map(lambda a: jnp.stack([a, 2 * a, -a]), variables)
  xs = jnp.stack([x, x + 1, 2 * x])
  run = lambda v, x: output_and_gradients(module, v, x, weight)
  for axes in ((0, 0), (0, None), (None, 0)):
    args = (many if axes[0] == 0 else variables, xs if axes[1] == 0 else x)
    got = jax.jit(jax.vmap(run, axes))(*args)
    pick = lambda tree, axis, i: (
      tree if axis is None else jax.tree.map(lambda a: a[i], tree)
    )
    each = [
      run(*(pick(arg, axis, i) for arg, axis in zip(args, axes)))
      for i in range(3)
    ]
    assert_close(got, jax.tree.map(lambda *a: jnp.stack(a), *each))


@pytest.mark.parametrize("implementation", FAST)
@pytest.mark.parametrize("case", ["strided_odd", "everything"])
def test_forward_mode_and_both_second_orders_equal_lax(case, implementation):
  _, arguments, variables, x, _ = make(case)
  direction = jax.tree.map(jnp.cos, (variables, x))

  def derivatives(implementation):
    module = Conv(**arguments, implementation=implementation)
    loss = lambda args: jnp.sum(jnp.sin(module.apply(*args)) ** 2)
    inner = lambda args: sum(
      jnp.vdot(a, b)
      for a, b in zip(
        jax.tree.leaves(jax.grad(loss)(args)), jax.tree.leaves(direction)
      )
    )
    args = (variables, x)
    return (
      jax.jvp(lambda a: module.apply(*a), (args,), (direction,)),
      jax.jvp(jax.grad(loss), (args,), (direction,))[1],
      jax.grad(inner)(args),
      jax.jacfwd(loss)(args),
    )

  run = jax.jit(derivatives, static_argnums=0)
  assert_close(run(implementation), run("lax"), rtol=1e-4)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_differentiating_through_training_steps_equals_lax(implementation):
  _, arguments, variables, x, weight = make("plain")

  def trained(row_weight, implementation):
    module = Conv(**arguments, implementation=implementation)

    def loss(v):
      y = module.apply(v, x)
      return jnp.sum(row_weight[:, None, None, None] * weight * jnp.sin(y))

    step = lambda v, _: (
      jax.tree.map(
        lambda p, g: p - 0.05 * g, v, jax.grad(jax.checkpoint(loss))(v)
      ),
      None,
    )
    final = jax.lax.scan(step, variables, None, length=2)[0]
    return jnp.sum(module.apply(final, x) ** 2)

  run = jax.jit(jax.grad(trained), static_argnums=1)
  assert_close(run(jnp.ones(3), implementation), run(jnp.ones(3), "lax"), 1e-4)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_shard_map_over_the_batch_equals_one_device(implementation):
  _, arguments, variables, x, _ = make("plain")
  count = 3 if len(jax.devices()) >= 3 else 1
  mesh = Mesh(np.array(jax.devices()[:count]), ("devices",))
  module = Conv(**arguments, implementation=implementation)
  loss = lambda v, x: jnp.sum(jnp.sin(module.apply(v, x)))
  part = lambda v, x: jax.lax.psum(loss(v, x), "devices")
  split = PartitionSpec("devices")
  whole = PartitionSpec()
  for check in (True, False):
    sharded = jax.shard_map(
      part, mesh=mesh, in_specs=(whole, split), out_specs=whole, check_vma=check
    )
    assert_close(
      jax.jit(jax.grad(sharded))(variables, x), jax.grad(loss)(variables, x)
    )


@pytest.mark.slow
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bfloat16_is_kept_and_close_to_float32(implementation):
  _, arguments, variables, x, weight = make("plain")
  module = Conv(**arguments, implementation=implementation)
  half = lambda tree: jax.tree.map(lambda a: a.astype(jnp.bfloat16), tree)
  y, gradients = output_and_gradients(
    module, half(variables), half(x), half(weight)
  )
  for leaf in jax.tree.leaves((y, gradients)):
    assert leaf.dtype == jnp.bfloat16
  wanted = output_and_gradients(module, variables, x, weight)
  assert_close((y, gradients), wanted, rtol=0.05)
  mixed = Conv(**arguments, implementation=implementation, dtype=jnp.bfloat16)
  assert mixed.apply(variables, x).dtype == jnp.bfloat16
  assert mixed.init(jax.random.key(0), x)["params"]["kernel"].dtype == "float32"


@pytest.mark.slow
def test_auto_takes_both_ways_to_the_weight_gradient(monkeypatch):
  reference, arguments, variables, x, weight = make("strided_odd")
  module = Conv(**arguments)
  wanted = output_and_gradients(reference, variables, x, weight)
  used = []
  for name in ("_weights_as_conv", "_weights_as_matmul"):
    original = getattr(conv_lib, name)
    monkeypatch.setattr(
      conv_lib, name, lambda *a, o=original, n=name: used.append(n) or o(*a)
    )
  for entries in (0, 10**9):
    monkeypatch.setattr(conv_lib, "_MATMUL_ENTRIES", entries)
    jax.clear_caches()
    assert_close(output_and_gradients(module, variables, x, weight), wanted)
  assert used == ["_weights_as_conv", "_weights_as_matmul"]


@pytest.mark.slow
@pytest.mark.parametrize("role", ["output", "input", "weights"])
def test_the_other_backends_lowering_and_batching_equal_lax(role, monkeypatch):
  x = jax.random.normal(jax.random.key(0), (2, 3, 7, 6, 4))
  kernel = jax.random.normal(jax.random.key(1), (2, 3, 2, 4, 5))
  geometry = conv_lib.Geometry(
    (7, 6), (3, 2), (2, 1), ((1, 0), (0, 2)), (1, 1), (1, 2), 1
  )
  y = jax.vmap(lambda x, k: conv_lib.lax_convolution(x, k, geometry))(x, kernel)
  a, b = {"output": (x, kernel), "input": (y, kernel), "weights": (x, y)}[role]
  static = {"role": role, "geometry": geometry, "implementation": "auto"}
  one = lambda a, b: conv_lib.convolution_p.bind(a, b, **static)
  wanted = jax.vmap(one)(a, b)
  for i in range(2):
    assert_close(conv_lib._elsewhere(a[i], b[i], **static), wanted[i])
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  assert "scan" not in str(jax.make_jaxpr(jax.vmap(one))(a, b))
  assert_close(jax.vmap(one)(a, b), wanted)
  assert_close(jax.vmap(one, (0, None))(a, b[0])[0], wanted[0])
  assert_close(jax.vmap(one, (None, 0))(a[0], b)[0], wanted[0])


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_a_training_step_lowers_for_every_platform(platform):
  _, arguments, variables, x, weight = make("strided_even")
  step = lambda v: output_and_gradients(Conv(**arguments), v, x, weight)
  traced = jax.jit(step).trace(variables)
  text = traced.lower(lowering_platforms=(platform,)).as_text()
  assert "stablehlo.convolution" in text
  # The barrier is of the CPU's way only.
  assert ("optimization_barrier" in text) == (platform == "cpu")


def test_batch_axes_are_kept_as_flax_keeps_them():
  layer = Conv(4, (3, 3))
  x = jnp.ones((2, 3, 5, 5, 2))
  variables = layer.init(jax.random.key(0), x)
  assert layer.apply(variables, x).shape == (2, 3, 5, 5, 4)
  assert layer.apply(variables, x[0, 0]).shape == (5, 5, 4)
  assert layer.apply(variables, x[:0, 0]).shape == (0, 5, 5, 4)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"implementation": "fast"}, "implementation='fast'"),
    ({"padding": "CAUSAL"}, "padding='CAUSAL'"),
    ({"padding": "NONE"}, "padding='NONE'"),
    ({"padding": (1,)}, "padding="),
    ({"padding": ((1, 2, 3), 1)}, "padding="),
    ({"padding": "SAME", "input_dilation": 2}, "input_dilation"),
    ({"strides": (1, 2, 3)}, "strides="),
    ({"strides": 0}, "strides=0"),
    ({"feature_group_count": 3}, "feature_group_count=3"),
    ({"x": jnp.ones((2, 5))}, "x.shape"),
    ({"x": jnp.ones((2, 5, 5, 3))}, "x.shape"),
    ({"x": jnp.ones((2, 5, 5, 4), jnp.bfloat16)}, "x.dtype=bfloat16"),
  ],
)
def test_a_bad_argument_is_named(change, message):
  arguments = {
    "x": jnp.ones((2, 5, 5, 4)),
    "kernel": jnp.ones((3, 3, 4, 6)),
    **change,
  }
  refused(message, convolution, **arguments)


def test_the_layer_names_bad_inputs():
  with pytest.raises(ValueError, match=r"inputs\.shape=\(5, 4\)"):
    Conv(4, (3, 3)).init(jax.random.key(0), jnp.ones((5, 4)))
  with pytest.raises(ValueError, match="feature_group_count=3"):
    Conv(6, (3, 3), feature_group_count=3).init(
      jax.random.key(0), jnp.ones((1, 5, 5, 4))
    )
