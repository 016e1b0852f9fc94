"""One stage of training, of a number of steps that may be traced."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxunlearn.core import sampling
from jaxunlearn.core.phase import phase, sample_key, supervised
from jaxunlearn.core.tasks import Fit, Task
from jaxunlearn.core.transform import Carry, Env
from jaxunlearn.core.types import Draw, PyTree, Request, Variables


def train_stage(
  task: Task,
  fit: Fit,
  variables: Variables,
  data: PyTree,
  member: jax.Array,
  key: jax.Array,
  num_steps: Any,
  weight_masks: tuple[PyTree, ...] = (),
) -> Variables:
  """Fits a task to some rows from where it is; the optimiser starts fresh.

  Batches are drawn by the members alone and rows of weight 0 are blank, so that
  nothing outside of `member`, be it nan, reaches the result.

  Args:
    task: what is fitted.
    fit: its number of steps is not read.
    variables: to begin from.
    data: pytree of arrays [N, ...].
    member: bool [N].
    key: PRNG key; must not depend on rows.
    num_steps: int32 []; may be traced, so that stages of all lengths, and none
      at all, are one program.
    weight_masks: see `Env`.
  """
  draw = Draw(retain=fit.batch_size)
  link = phase(supervised(task, train=True), fit, draw=draw, name="stage")
  env = Env(weight_masks=weight_masks)
  carry = Carry(variables, variables, {})
  request = Request(~member, member)
  plan = sampling.make_plan(data, request, draw, sample_key(key), env)
  state = link.init(carry, key, env)

  def body(_: Any, moving: Any) -> Any:
    now = state.moved_to(moving)
    batch = sampling.draw_batch(data, plan, draw, now.step, env)
    return link.step(now, batch, key, env)[0].moving()

  moving = jax.lax.fori_loop(0, jnp.int32(num_steps), body, state.moving())
  return link.finish(state.moved_to(moving)).variables
