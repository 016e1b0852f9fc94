"""Losses of a student against a teacher's distribution over classes.

Source: the objective of Bad Teaching, Chundawat et al. (2022),
arXiv:2205.08096, and of every method that distils. KL(teacher || student),
no T^2 factor.

Difference from the released code of Bad Teaching: that divides by the number of
classes too, because its KL averages over all B * C entries. `per_class_mean`
gives that; the default is the divergence itself.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxunlearn.core import checks
from jaxunlearn.core.shaped import arrays


def kl_to_teacher(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  temperature: float | jax.Array = 1.0,
  *,
  per_class_mean: bool = False,
) -> jax.Array:
  """KL(softmax(teacher / T) || softmax(student / T)) of each example.

  Where the teacher differs from row to row (an incompetent one for the forget
  set), choose its logits first and pay for one divergence:

      teacher = jnp.where(forget[:, None], incompetent_logits, teacher_logits)
      losses = kl_to_teacher(student_logits, teacher)

  The gradient with respect to the student's logits is (student - teacher) / T
  in probabilities. It flows into the teacher as well: a frozen teacher wants
  `jax.lax.stop_gradient`, or simply not to be differentiated.

  Args:
    student_logits: float [..., C].
    teacher_logits: float [..., C]; -inf is allowed and means probability 0.
    temperature: T > 0, of both; may be traced.
    per_class_mean: divide by C, the scale of Bad Teaching's released code.

  Returns:
    [...], nats, >= 0 up to rounding, in at least float32; inf where the student
    gives probability exactly 0 to what the teacher does not.

  Raises:
    ValueError: shapes differ, C < 2, temperature <= 0.

  Example:
    >>> logits = jnp.log(jnp.array([[0.5, 0.5], [0.9, 0.1]]))
    >>> [f"{kl:.4f}" for kl in kl_to_teacher(logits, logits[::-1])]
    ['0.3681', '0.5108']
  """
  student_logits, teacher_logits, temperature = _prepare(
    student_logits, teacher_logits, temperature, "teacher_logits"
  )
  log_student = jax.nn.log_softmax(student_logits / temperature)
  log_teacher = jax.nn.log_softmax(teacher_logits / temperature)
  teacher = jnp.exp(log_teacher)
  # 0 log 0 = 0, and the difference of two -inf must not reach the gradient.
  log_ratio = jnp.where(teacher == 0, 0, log_teacher - log_student)
  return _reduce(teacher * log_ratio, per_class_mean)


def kl_to_target(
  student_logits: jax.Array,
  target_probs: jax.Array,
  temperature: float | jax.Array = 1.0,
  *,
  per_class_mean: bool = False,
) -> jax.Array:
  """KL(target || softmax(student / T)) of each example, to given probabilities.

  For targets that are no network's logits (uniform, precomputed, averaged).

  Args:
    student_logits: float [..., C].
    target_probs: float [..., C], rows that sum to 1; exact zeros are fine.
    temperature: T > 0, of the student alone; may be traced.
    per_class_mean: divide by C, as in `kl_to_teacher`.

  Returns:
    [...], as `kl_to_teacher`.

  Raises:
    ValueError: shapes differ, C < 2, temperature <= 0.

  Example:
    >>> import jax.numpy as jnp
    >>> import jaxunlearn as ju
    >>> target = jnp.array([[1.0, 0.0], [0.5, 0.5]])
    >>> found = ju.losses.kl_to_target(jnp.zeros((2, 2)), target)
    >>> found = found
    >>> [round(v, 3) for v in found.tolist()]  # The logarithm of 2, and nothing.
    [0.693, 0.0]
  """
  student_logits, target_probs, temperature = _prepare(
    student_logits, target_probs, temperature, "target_probs"
  )
  log_student = jax.nn.log_softmax(student_logits / temperature)
  is_zero = target_probs == 0
  log_target = jnp.log(jnp.where(is_zero, 1, target_probs))
  log_ratio = jnp.where(is_zero, 0, log_target - log_student)
  return _reduce(target_probs * log_ratio, per_class_mean)


def _prepare(student, target, temperature, name):
  """The two arrays and the temperature, checked, in at least float32."""
  student, target = arrays(
    f"student_logits [..., C > 1] and {name} [..., C]", student, target
  )
  checks.positive(temperature=temperature)
  dtype = jnp.promote_types(
    jnp.float32, jnp.promote_types(student.dtype, target.dtype)
  )
  return (
    student.astype(dtype),
    target.astype(dtype),
    jnp.asarray(temperature, dtype),
  )


def _reduce(terms: jax.Array, per_class_mean: bool) -> jax.Array:
  return terms.mean(axis=-1) if per_class_mean else terms.sum(axis=-1)
