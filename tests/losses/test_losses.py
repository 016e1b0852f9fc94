"""Losses against float64 NumPy, closed forms and published code's numbers."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from closeness import assert_close, normal
from hypothesis import strategies as st
from refusals import refused

from jaxunlearn import losses

BAD_TEACHING = ["T0p5", "T1", "T2", "T4", "all_forget", "all_retain"]
BAD_TEACHING = [*BAD_TEACHING, "large_logits"]


def log_softmax64(x):
  x = np.asarray(x, np.float64)
  x = x - x.max(-1, keepdims=True)
  return x - np.log(np.exp(x).sum(-1, keepdims=True))


# Cross-entropy.


def test_cross_entropy_equals_float64():
  logits, labels = normal(0, 9, 5, scale=3), np.arange(9) % 5
  wanted = -log_softmax64(logits)[np.arange(9), labels]
  assert_close(losses.cross_entropy(logits, labels), wanted)


def test_cross_entropy_keeps_its_digits_under_a_common_shift():
  logits = np.array([[0.0, 1.0, 2.0]], np.float32)
  labels = np.array([0])
  assert_close(
    losses.cross_entropy(logits + 4096, labels),
    losses.cross_entropy(logits, labels),
    1e-7,
  )


def test_cross_entropy_gradient_is_probabilities_minus_one_hot():
  logits, labels = normal(1, 4, 3), np.array([0, 1, 2, 0])
  loss = lambda z: losses.cross_entropy(z, labels).sum()
  grad = jax.jit(jax.grad(loss))(logits)
  assert_close(grad, np.exp(log_softmax64(logits)) - np.eye(3)[labels])


def test_cross_entropy_takes_a_logit_of_minus_infinity():
  logits = np.array([[0.0, -np.inf, 0.0]], np.float32)
  loss = lambda z: losses.cross_entropy(z, np.array([2])).sum()
  value, grad = jax.jit(jax.value_and_grad(loss))(logits)
  assert_close(value, np.log(2))
  assert_close(grad, [[0.5, 0, -0.5]])


def test_cross_entropy_of_a_label_out_of_range_raises_or_is_nan_under_jit():
  logits = jnp.zeros((3, 4))
  labels = jnp.array([-1, 4, 0])
  refused(r"labels in 0 \.\. 3", losses.cross_entropy, logits, labels)
  under_jit = jax.jit(losses.cross_entropy)(logits, labels)
  assert np.isnan(under_jit).tolist() == [True, True, False]


def test_cross_entropy_rejects_shapes_and_dtypes_that_do_not_fit():
  with pytest.raises(ValueError, match=r"and labels \[...\]"):
    losses.cross_entropy(jnp.zeros((3, 4)), jnp.zeros((3, 1), jnp.int32))
  with pytest.raises(ValueError, match="labels of integer dtype"):
    losses.cross_entropy(jnp.zeros((3, 4)), jnp.zeros(3))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_logits_give_finite_float32_losses(dtype):
  logits = jnp.array([[6e4, -6e4, 0.0]], dtype)
  ce = losses.cross_entropy(logits, jnp.array([1]))
  kl = losses.kl_to_teacher(logits, logits[:, ::-1], 0.5)
  noise = losses.error_maximising(
    logits, jnp.array([1]), jnp.full((1, 7), 300, dtype), 1.0
  )
  for value in (ce, kl, noise):
    assert value.dtype == jnp.float32
    assert np.isfinite(value).all()


# Distillation.


def test_kl_gradient_is_student_minus_teacher_over_temperature():
  student, teacher, temperature = normal(2, 6, 4), normal(3, 6, 4), 2.5

  def mean(z, per_class_mean):
    return losses.kl_to_teacher(
      z, teacher, temperature, per_class_mean=per_class_mean
    ).mean()

  s = np.exp(log_softmax64(student / temperature))
  t = np.exp(log_softmax64(teacher / temperature))
  wanted = (s - t) / (temperature * 6)
  assert_close(jax.grad(mean)(student, False), wanted)
  assert_close(jax.grad(mean)(student, True), wanted / 4)


def test_kl_times_temperature_squared_tends_to_half_the_variance():
  student, teacher = normal(5, 8, 6), normal(6, 8, 6)
  temperature = 200.0
  with jax.enable_x64(True):
    found = temperature**2 * losses.kl_to_teacher(
      student.astype(np.float64), teacher.astype(np.float64), temperature
    )
  difference = student.astype(np.float64) - teacher
  # The next term of the expansion is smaller by a factor of order 1 / T.
  assert_close(found, difference.var(axis=-1) / 2, 3e-2)


def test_kl_to_target_of_a_softmax_equals_kl_to_teacher():
  student, teacher = normal(7, 5, 4), normal(8, 5, 4)
  probs = np.exp(log_softmax64(teacher / 2)).astype(np.float32)
  assert_close(
    losses.kl_to_target(student, probs, 2.0),
    losses.kl_to_teacher(student, teacher, 2.0),
  )


def test_kl_to_a_one_hot_target_is_cross_entropy_with_its_gradient():
  student, labels = normal(9, 5, 4), np.array([0, 3, 1, 2, 2])
  target = np.eye(4, dtype=np.float32)[labels]
  kl = lambda z: losses.kl_to_target(z, target).sum()
  ce = lambda z: losses.cross_entropy(z, labels).sum()
  for found, wanted in zip(
    jax.jit(jax.value_and_grad(kl))(student),
    jax.jit(jax.value_and_grad(ce))(student),
  ):
    assert_close(found, wanted)


def test_kl_is_finite_in_value_and_gradients_where_the_teacher_has_zeros():
  student = np.array([[0.0, 1.0, -np.inf], [0.0, 1.0, 2.0]], np.float32)
  teacher = np.array([[1.0, 0.0, -np.inf], [500.0, 0.0, -np.inf]], np.float32)
  loss = lambda s, t: losses.kl_to_teacher(s, t).sum()
  value, grads = jax.value_and_grad(loss, argnums=(0, 1))(student, teacher)
  p, q = log_softmax64([1.0, 0.0]), log_softmax64([0.0, 1.0])
  wanted = (np.exp(p) * (p - q)).sum() - log_softmax64([0.0, 1.0, 2.0])[0]
  assert_close(value, wanted)
  assert all(np.isfinite(grad).all() for grad in grads)
  target = jnp.array([[1.0, 0, 0], [1.0, 0, 0]])
  loss = lambda s, t: losses.kl_to_target(s, t).sum()
  grads = jax.grad(loss, argnums=(0, 1))(student[:, ::-1][1:], target[1:])
  assert all(np.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize("loss", [losses.kl_to_teacher, losses.kl_to_target])
def test_kl_rejects_what_cannot_be_meant(loss):
  with pytest.raises(ValueError, match=r"temperature > 0.*temperature=0"):
    loss(jnp.zeros((2, 3)), jnp.ones((2, 3)) / 3, 0)
  with pytest.raises(ValueError, match=r"student_logits .*got \(2, 3\)"):
    loss(jnp.zeros((2, 3)), jnp.ones((2, 4)) / 4)
  refused("C > 1", loss, jnp.zeros((2, 1)), jnp.ones((2, 1)))


@hypothesis.settings(max_examples=30, deadline=None)
@hypothesis.given(st.integers(0, 2**31), st.floats(0.1, 30))
def test_kl_is_not_negative_and_follows_permutations(seed, scale):
  student = normal(seed, 6, 5, scale=scale)
  teacher = normal(seed + 1, 6, 5, scale=scale)
  kl = np.asarray(losses.kl_to_teacher(student, teacher))
  assert (kl >= -1e-6).all()
  order = np.random.default_rng(seed).permutation(6)
  permuted = losses.kl_to_teacher(student[order], teacher[order])
  np.testing.assert_allclose(permuted, kl[order], rtol=1e-6, atol=1e-7)
  under_jit = jax.jit(losses.kl_to_teacher)(student, teacher)
  np.testing.assert_allclose(under_jit, kl, rtol=1e-5, atol=1e-6)


# Noise.


def test_stationary_noise_of_a_linear_model_solves_its_equation():
  # 0 = grad J = -W' (softmax - e_c) + 2 penalty N, with J convex as soon as
  # 2 penalty exceeds the largest curvature of the cross-entropy.
  w, b, label = normal(12, 5, 8), normal(13, 5)[None], 3
  labels = jnp.full(4, label)

  def stationary(penalty):
    def loss(noise):
      logits = noise @ w.T + b
      return losses.error_maximising(logits, labels, noise, penalty).sum()

    step = lambda _, noise: noise - 0.5 / (2 * penalty) * jax.grad(loss)(noise)
    return jax.lax.fori_loop(0, 300, step, jnp.asarray(normal(14, 4, 8)))

  curvature = np.linalg.norm(w, 2) ** 2 / 2
  noise = np.asarray(jax.jit(stationary)(curvature), np.float64)
  probs = np.exp(log_softmax64(noise @ w.T + b))
  wanted = (probs - np.eye(5)[label]) @ w / (2 * curvature)
  assert np.abs(wanted).max() > 0.01
  assert np.abs(noise - wanted).max() < 1e-5
  assert np.abs(jax.jit(stationary)(1e4 * curvature)).max() < 1e-4


def test_a_plain_norm_has_gradient_zero_at_zero():
  labels = jnp.array([0, 1])

  def loss(noise):
    return losses.error_maximising(
      jnp.zeros((2, 3)), labels, noise, 1.0, norm="plain"
    ).sum()

  noise = jnp.zeros((2, 4)).at[1].set(jnp.array([3.0, 0, 4, 0]))
  assert_close(jax.grad(loss)(noise), [[0, 0, 0, 0], [0.6, 0, 0.8, 0]])


def test_rows_of_noise_do_not_influence_each_other():
  logits, labels, noise = (
    normal(15, 3, 4),
    jnp.array([0, 1, 2]),
    normal(16, 3, 2),
  )
  before = losses.error_maximising(logits, labels, noise, 0.1)
  noise[1], logits[1] = np.nan, np.nan
  after = losses.error_maximising(logits, labels, noise, 0.1)
  assert np.array_equal(np.delete(before, 1), np.delete(after, 1))


def test_noise_losses_reject_what_cannot_be_meant():
  args = jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32)
  with pytest.raises(ValueError, match=r"noise \(3, 4\)"):
    losses.error_maximising(*args, jnp.zeros((3, 4)), 0.1)
  with pytest.raises(ValueError, match="norm to be one of"):
    losses.error_maximising(*args, jnp.zeros((2, 4)), 0.1, norm="l1")
  with pytest.raises(ValueError, match="penalty >= 0"):
    losses.error_minimising(*args, jnp.zeros((2, 4)), -0.1)
