"""Losses of methods against published code."""

import jax
import jax.numpy as jnp
import optax

from jaxunlearn import losses
from jaxunlearn.losses import regression
from jaxunlearn.losses.attention import attention_difference, attention_map


def channels_last(activations):
  return jnp.moveaxis(jnp.asarray(activations), 1, -1)


def channels_first(gradient):
  return jnp.moveaxis(jnp.asarray(gradient), -1, 1)


def gap(x, y, norm="squared"):
  return attention_difference(attention_map(x), attention_map(y), norm=norm)


def kl_to_a_teacher_per_row(d):
  teacher = jnp.where(
    d["labels"][:, None] == 1,
    d["unlearn_teacher_logits"],
    d["full_teacher_logits"],
  )
  temperature = float(d["temperature"])

  def mean(student, per_class_mean):
    return losses.kl_to_teacher(
      student, teacher, temperature, per_class_mean=per_class_mean
    ).mean()

  student = d["student_logits"]
  out = {
    "per_example_paper": losses.kl_to_teacher(student, teacher, temperature)
  }
  for per_class_mean, which in ((False, "paper"), (True, "code")):
    value, grad = jax.value_and_grad(mean)(student, per_class_mean)
    out |= {f"out_{which}": value, f"grad_{which}": grad}
  return out


def attention_maps(d):
  x, y = channels_last(d["x"]), channels_last(d["y"])
  value, grad = jax.value_and_grad(lambda x: gap(x, y).mean())(x)
  return {
    "attention_x": attention_map(x),
    "attention_y": attention_map(y),
    "out_code": value,
    "grad_x_code": channels_first(grad),
    "out_paper_mean_l2_norm": gap(x, y, "plain").mean(),
  }


def the_students_loss(d):
  layers = range(3)
  teacher = [channels_last(d[f"teacher_act{i}"]) for i in layers]
  student = [channels_last(d[f"student_act{i}"]) for i in layers]

  def loss(logits, activations, released=True):
    kl = losses.kl_to_teacher(
      logits,
      jnp.asarray(d["teacher_logits"]),
      float(d["temperature"]),
      per_class_mean=released,
    )
    norm = "squared" if released else "plain"
    gaps = [gap(a, b, norm) for a, b in zip(activations, teacher)]
    return (kl + float(d["at_beta"]) * sum(gaps)).mean()

  logits = jnp.asarray(d["student_logits"])
  value, (by_logits, by_layer) = jax.value_and_grad(loss, (0, 1))(
    logits, student
  )
  return {
    "out_code": value,
    "grad_student_logits_code": by_logits,
    "out_paper": loss(logits, student, released=False),
  } | {f"grad_student_act{i}_code": channels_first(by_layer[i]) for i in layers}


def the_generators_loss(d):
  def loss(student, teacher):
    temperature = float(d["temperature"])
    kl = losses.kl_to_teacher(
      student, teacher, temperature, per_class_mean=True
    )
    return -kl.mean()

  logits = jnp.asarray(d["student_logits"]), jnp.asarray(d["teacher_logits"])
  value, (by_student, by_teacher) = jax.value_and_grad(loss, (0, 1))(*logits)
  return {
    "generator_code": value,
    "generator_grad_student_logits_code": by_student,
    "generator_grad_teacher_logits_code": by_teacher,
  }


def _linear(d):
  weight, bias = d["model_w"], d["model_b"]
  return lambda x: x.reshape(len(x), -1) @ weight.T + bias[None]


def _mlp(d):
  def apply(x):
    hidden = x.reshape(len(x), -1) @ d["model_w1"].T + d["model_b1"][None]
    return jax.nn.relu(hidden) @ d["model_w2"].T + d["model_b2"][None]

  return apply


def _unsir_loss(d):
  apply = _mlp(d) if "model_w1" in d else _linear(d)
  labels = jnp.full(len(d["noise"]), int(d["target_class"]))

  def loss(noise, norm="squared"):
    return losses.error_maximising(
      apply(noise), labels, noise, float(d["reg_weight"]), norm=norm
    ).mean()

  return loss


def error_maximising_noise(d):
  loss = _unsir_loss(d)
  value, grad = jax.jit(jax.value_and_grad(loss))(d["noise"])
  return {
    "out_code": value,
    "grad_code": grad,
    "out_paper_unsquared_norm": loss(d["noise"], "plain"),
  }


def steps_of_error_maximising_noise(d):
  loss = _unsir_loss(d)
  optimizer = optax.adam(float(d["lr"]))
  noise = jnp.asarray(d["noise"])
  state, seen = optimizer.init(noise), []
  for _ in d["noise_after"]:
    updates, state = optimizer.update(jax.grad(loss)(noise), state)
    noise = optax.apply_updates(noise, updates)
    seen.append((noise, loss(noise)))
  after, values = (jnp.stack(parts) for parts in zip(*seen))
  return {"noise_after": after, "loss_after": values}


def noise_with_a_label_per_row(d):
  apply, out = _mlp(d), {}
  for name in ("error_maximising", "error_minimising"):

    def loss(noise, name=name):
      return getattr(losses, name)(
        apply(noise), d["labels"], noise, float(d["reg_weight"])
      ).mean()

    value, grad = jax.jit(jax.value_and_grad(loss))(d["noise"])
    out |= {f"{name}_loss": value, f"{name}_grad": grad}
  return out


def _quantile_loss(d):
  mean = lambda p: regression.quantile_loss(
    p, d["target"], d["quantiles"]
  ).mean()
  return jax.jit(jax.value_and_grad(mean))(jnp.asarray(d["preds"]))


def quantile_loss(d):
  return {"out_code": _quantile_loss(d)[0]}


def slope_of_quantile_loss(d):
  return {"grad_code": _quantile_loss(d)[1]}
