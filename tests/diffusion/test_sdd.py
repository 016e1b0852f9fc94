"""SDD against float64 on a linear model, its limits, and what it moves."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_diffusion import (
  CONCEPT,
  OTHER,
  check_only_group_moved,
  gain_of,
  linear,
  linear_params,
  params,
  small,
)

from jaxunlearn.core.types import Request
from jaxunlearn.diffusion import requests, schedules
from jaxunlearn.diffusion.sdd import PUBLISHED, sdd
from jaxunlearn.diffusion.steps import Sampling

KEY = jax.random.key(7)
NO_ROWS = Request()
# What the linear model's eps gains by each prompt: the sum of its tokens / 10.
SAID = np.asarray(CONCEPT, np.float64).sum(axis=1) / 10 - 0.1


def test_the_published_settings():
  grads, w = jnp.array([3.0, 4.0]), jnp.array([1.0, -2.0])
  state = PUBLISHED.optimizer.init(w)
  update, _ = PUBLISHED.optimizer.update(grads, state, w)
  # Adam's first step is the sign of the gradient; decay is 1e-4 of the weight.
  wanted = -1e-5 * (1 + 1e-4 * np.array([1.0, -2.0]))
  np.testing.assert_allclose(update, wanted, rtol=1e-5)
  assert PUBLISHED[1:3] == (1500, 1)


def run_linear(scale, prompts=CONCEPT[:1], rate=0.5, decay=0.75, **options):
  """Three steps on the text encoder's scale: eps(c) - eps(none) = scale said."""
  fit = sdd(
    linear(),
    prompts,
    optimizer=optax.sgd(rate),
    num_steps=3,
    batch_size=2,
    sampling=Sampling(4),
    group="text",
    ema_decay=decay,
    **options,
  )
  start = linear_params(0.3)
  start["text_encoder"]["scale"] = jnp.float32(scale)
  end, info = jax.jit(fit)(start, None, NO_ROWS, KEY)
  return end, info["rounds"]["student"].loss[:, 0]


def test_three_steps_and_the_teacher_equal_float64():
  """L = (s said)^2, dL/ds = 2 s said^2; the teacher is s's running average."""
  student = teacher = 1.2
  wanted = []
  for _ in range(3):
    wanted.append((student * SAID[0]) ** 2)
    student -= 0.5 * 2 * student * SAID[0] ** 2
    teacher = 0.75 * teacher + 0.25 * student
  end, losses = run_linear(1.2)
  np.testing.assert_allclose(losses, wanted, rtol=1e-5)
  assert float(end["text_encoder"]["scale"]) == pytest.approx(teacher, rel=1e-6)
  assert float(gain_of(end)) == np.float32(0.3)  # Of no group that moves.


def test_a_teacher_that_never_moves_is_the_original():
  assert float(run_linear(1.2, decay=1.0)[0]["text_encoder"]["scale"]) == (
    np.float32(1.2)
  )


def test_the_prompts_are_drawn_in_turn():
  """Two rows a step of two prompts: each step sees both."""
  losses = run_linear(1.2, prompts=CONCEPT, rate=0.0)[1]
  wanted = np.mean((1.2 * SAID) ** 2)
  np.testing.assert_allclose(losses, [wanted] * 3, rtol=1e-5)


def test_the_target_is_the_student_s_and_takes_no_gradient():
  """Of the gain, on which both sides depend alike, the gradient is not 0.

  d/dg mean((g x + said - sg(g x))^2) = 2 said mean(x).
  """
  fit = sdd(
    linear(),
    CONCEPT[:1],
    optimizer=optax.sgd(1.0),
    num_steps=1,
    batch_size=4,
    sampling=Sampling(1),
    ema_decay=0.0,
  )
  end, info = jax.jit(fit)(linear_params(0.3), None, NO_ROWS, KEY)
  assert float(info["rounds"]["student"].loss[0, 0]) == pytest.approx(
    SAID[0] ** 2, rel=1e-5
  )
  assert abs(float(gain_of(end)) - 0.3) > 1e-3


def test_images_are_begun_by_the_teacher_under_what_was_asked_for():
  """Its gain, not the student's, decides them; and so does `together`."""
  model = linear()
  seen = lambda decay, **more: jax.jit(
    sdd(
      model,
      CONCEPT[:1],
      optimizer=optax.sgd(0.2),
      num_steps=3,
      batch_size=8,
      sampling=Sampling(4),
      ema_decay=decay,
      **more,
    )
  )(linear_params(0.3), None, NO_ROWS, KEY)[0]
  slow, fast = gain_of(seen(0.5)), gain_of(seen(0.0))
  assert abs(float(slow) - float(fast)) > 1e-4
  other = gain_of(seen(0.5, together=OTHER[1]))
  assert abs(float(slow) - float(other)) > 1e-4


def test_the_time_lies_within_the_image_s_step():
  """Weights of one at the sampler's own times count a tenth of the losses."""
  on_grid = np.zeros(40)
  on_grid[schedules.sampling_times(40, 4)] = 1.0
  many = lambda **more: float(
    jax.jit(
      sdd(
        linear(),
        CONCEPT[:1],
        optimizer=optax.sgd(0.0),
        num_steps=1,
        batch_size=64,
        sampling=Sampling(4),
        **more,
      )
    )(linear_params(0.3), None, NO_ROWS, KEY)[1]["rounds"]["student"].loss[0, 0]
  )
  # Ten times to a step: 6.4 of 64 in expectation, standard deviation 2.4.
  assert 0 < many(time_weights=on_grid) / many() < 0.26


def test_only_cross_attention_moves_and_the_request_tells_the_concept():
  fit = sdd(
    small(),
    optimizer=optax.adamw(3e-3, weight_decay=0.1),
    num_steps=2,
    batch_size=2,
    sampling=Sampling(2),
    ema_decay=0.5,
  )
  request = requests.concept(small(), CONCEPT)
  end, info = jax.jit(fit)(params(), None, request, KEY)
  check_only_group_moved(params(), end, "xattn")
  assert info["rounds"]["student"].loss.shape == (2, 1)


@pytest.mark.parametrize(
  ("bad", "words"),
  [
    ({"prompts": CONCEPT[:0]}, "prompts to hold prompts"),
    ({"together": jnp.array([1, 0, 0])}, "together"),
    ({"together": CONCEPT}, "together"),
    ({"ema_decay": 1.5}, "ema_decay"),
    ({"group": "none"}, "group"),
    ({"sampling": Sampling(0)}, "sampling.num_steps"),
  ],
)
def test_bad_input_is_refused(bad, words):
  with pytest.raises(ValueError, match=words):
    sdd(linear(), **{"prompts": CONCEPT, "sampling": Sampling(4), **bad})
