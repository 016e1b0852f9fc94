"""The networks: shapes, sizes, modes, and many of them under vmap."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxunlearn import models
from jaxunlearn.models import CNN, MLP, ResNet, ViT, resnet18, resnet20
from jaxunlearn.models.resnet import BottleneckBlock

SMALL = {
  "mlp": MLP(5, hidden=(8, 6), dropout_rate=0.5),
  "cnn": CNN(5, channels=(3, 4), hidden=8, dropout_rate=0.5),
  "resnet": ResNet(5, (1, 1), num_filters=4),
  "bottleneck": ResNet(5, (1, 1), 4, block=BottleneckBlock),
  "large_stem": ResNet(5, (1, 1), 4, stem="7x7"),
  "vit": ViT(5, 4, hidden_size=8, depth=1, num_heads=2, dropout_rate=0.5),
}
SOWN = {
  "mlp": {"hidden0": 8, "hidden1": 6, "features": 6},
  "cnn": {"stage0": 3, "stage1": 4, "features": 8},
  "resnet": {"stem": 4, "stage0": 4, "stage1": 8, "features": 8},
  "vit": {"tokens": 8, "block0": 8, "features": 8},
}


def images(shape=(4, 8, 8, 1), seed=0):
  return jax.random.normal(jax.random.key(seed), shape)


def begun(module):
  return jax.jit(module.init)(jax.random.key(1), images())


def applied(module, variables, x, **options):
  return jax.jit(lambda v, x: module.apply(v, x, **options))(variables, x)


def count(tree):
  return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("shape", [(4, 8, 8, 1), (2, 32, 32, 3), (1, 12, 8, 2)])
@pytest.mark.parametrize("name", SMALL)
def test_logits_have_one_row_an_image_and_one_column_a_class(name, shape):
  module, x = SMALL[name], images(shape)
  variables = jax.eval_shape(module.init, jax.random.key(1), x)
  logits = jax.eval_shape(module.apply, variables, x)
  assert logits.shape == (shape[0], 5)
  assert logits.dtype == jnp.float32
  assert "intermediates" not in variables


@pytest.mark.parametrize("name", SOWN)
def test_named_activations_come_out_and_features_feed_the_classifier(name):
  x, variables = images(), begun(SMALL[name])
  logits, state = applied(SMALL[name], variables, x, mutable="intermediates")
  sown = {key: value[0] for key, value in state["intermediates"].items()}
  assert {key: value.shape[-1] for key, value in sown.items()} == SOWN[name]
  assert all(value.shape[0] == 4 for value in sown.values())
  params = variables["params"]
  last = params.get("classifier", params.get("Dense_2"))
  wanted = sown["features"] @ last["kernel"] + last["bias"][None]
  np.testing.assert_allclose(logits, wanted, atol=1e-5)


def hand_count(stage_sizes, filters, channels, num_classes):
  """Convolutions without bias; BatchNorm has two entries a channel."""
  conv = lambda size, inner, outer: size * size * inner * outer + 2 * outer
  total = conv(3, channels, filters)
  inner = filters
  for stage, blocks in enumerate(stage_sizes):
    outer = filters * 2**stage
    for _ in range(blocks):
      total += conv(3, inner, outer) + conv(3, outer, outer)
      total += conv(1, inner, outer) if inner != outer else 0
      inner = outer
  return total + inner * num_classes + num_classes


def test_resnet20_has_the_parameters_counted_by_hand():
  variables = jax.eval_shape(
    resnet20(10).init, jax.random.key(0), images((1, 32, 32, 3))
  )
  # Stem 464, stages 14,016, 51,072 and 203,520, shortcuts 576 and 2,176,
  # classifier 650; He et al. say 0.27 million.
  assert count(variables["params"]) == 272_474
  assert count(variables["params"]) == hand_count((3, 3, 3), 16, 3, 10)


def test_resnet18_has_the_parameters_counted_by_hand():
  variables = jax.eval_shape(
    resnet18(10).init, jax.random.key(0), images((1, 32, 32, 3))
  )
  # torchvision's has 11,689,512: a 7x7 stem (9,408 in the place of 1,728) and
  # 1,000 classes (513,000 in the place of 5,130).
  wanted = 11_689_512 - 9_408 + 1_728 - 513_000 + 5_130
  assert count(variables["params"]) == wanted
  assert count(variables["params"]) == hand_count((2, 2, 2, 2), 64, 3, 10)
  # A running mean and variance for each scale and offset.
  norms = count(variables["batch_stats"])
  assert norms == 2 * (64 * 5 + (128 + 256 + 512) * 5)


def test_batch_statistics_move_in_training_mode_only():
  module, x = SMALL["resnet"], images() + 3.0
  variables = begun(module)
  _, state = applied(module, variables, x, mutable=["batch_stats"])
  jax.tree.map(
    np.testing.assert_array_equal,
    state["batch_stats"],
    variables["batch_stats"],
  )
  moved = {"train": True, "mutable": ["batch_stats"]}
  _, state = applied(module, variables, x, **moved)
  got = state["batch_stats"]["stem_norm"]
  convolved = np.asarray(
    models.convolution(x, variables["params"]["stem_conv"]["kernel"]),
    np.float64,
  )
  mean, variance = convolved.mean((0, 1, 2)), convolved.var((0, 1, 2))
  np.testing.assert_allclose(got["mean"], 0.1 * mean, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(got["var"], 0.9 + 0.1 * variance, rtol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "cnn", "vit"])
def test_dropout_is_random_in_training_mode_only(name):
  module, x = SMALL[name], images()
  variables = begun(module)

  @functools.partial(jax.jit, static_argnums=0)
  def apply(train, seed):
    rngs = {"dropout": jax.random.key(seed)}
    return module.apply(variables, x, train=train, rngs=rngs)

  np.testing.assert_array_equal(apply(False, 0), apply(False, 1))
  np.testing.assert_array_equal(apply(True, 0), apply(True, 0))
  assert np.abs(apply(True, 0) - apply(True, 1)).max() > 1e-3


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_computation_keeps_float32_params(name):
  module, x = SMALL[name].clone(dtype=jnp.bfloat16), images()
  variables = begun(module)
  assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {
    jnp.dtype("float32")
  }
  logits = applied(module, variables, x)
  assert logits.dtype == jnp.bfloat16
  wanted = np.asarray(applied(SMALL[name], variables, x))
  difference = np.abs(np.asarray(logits, np.float32) - wanted).max()
  assert difference < 0.05 * (1 + np.abs(wanted).max())


@pytest.mark.parametrize("name", ["cnn", "resnet"])
def test_the_implementation_changes_nothing(name):
  x = images()
  variables = begun(SMALL[name])
  plain, fast = (
    applied(SMALL[name].clone(implementation=kind), variables, x)
    for kind in ("lax", "shifted")
  )
  np.testing.assert_allclose(plain, fast, atol=1e-5)


def test_max_pool_takes_each_windows_maximum_and_its_gradient():
  x = images((2, 5, 6, 3))
  cropped = np.asarray(x)[:, :4].reshape(2, 2, 2, 3, 2, 3)
  wanted = cropped.max((2, 4))
  np.testing.assert_array_equal(models.max_pool(x), wanted)
  gradient = jax.grad(lambda x: jnp.sum(jnp.sin(models.max_pool(x))))(x)
  spread = np.repeat(np.repeat(wanted, 2, 1), 2, 2)
  inside = np.where(np.asarray(x)[:, :4] == spread, np.cos(spread), 0)
  np.testing.assert_allclose(gradient[:, :4], inside, rtol=1e-6)
  np.testing.assert_array_equal(gradient[:, 4:], 0)


def test_a_cnn_accepts_images_smaller_than_its_pooling():
  module, x = CNN(3, channels=(2, 2, 2)), images((1, 2, 2, 1))
  logits, _ = module.init_with_output(jax.random.key(0), x)
  assert logits.shape == (1, 3)


@pytest.mark.parametrize("name", [n for n in SMALL if n != "mlp"])
def test_flat_inputs_are_rejected(name):
  with pytest.raises(ValueError, match=r"got shape \(4, 64\)"):
    SMALL[name].init(jax.random.key(0), jnp.ones((4, 64)))


@pytest.mark.parametrize(
  ("module", "message"),
  [
    (ResNet(3, (1,), stem="5x5"), "stem='5x5'"),
    (ViT(3, patch_size=3), "patch_size=3"),
    (ViT(3, hidden_size=10, num_heads=3), "num_heads=3"),
  ],
)
def test_attributes_that_do_not_fit_are_named(module, message):
  with pytest.raises(ValueError, match=message):
    module.init(jax.random.key(0), images())
