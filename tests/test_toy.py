"""Problems to try things on: what holds for all of them."""

import inspect
import subprocess
import sys
import typing

import jax
import jax.numpy as jnp
import pytest

import jaxunlearn as ju
from jaxunlearn import toy
from jaxunlearn.core.tasks import as_task

TOYS = [
  made
  for made in vars(toy).values()
  if inspect.isfunction(made)
  and made.__module__.startswith(toy.__name__)
  and typing.get_type_hints(made).get("return") is toy.Problem
]


@pytest.mark.parametrize("make", TOYS, ids=lambda f: f.__name__)
def test_a_toy_is_a_task_with_rows_of_which_some_are_forgotten(make):
  problem = make()
  if make is not toy.gan:
    as_task(problem.model)
  assert isinstance(problem, toy.Problem)
  assert problem.arguments == problem[1:]
  forget = problem.request
  if isinstance(forget, ju.Request):
    forget = forget.forget
  if isinstance(forget, ju.continual.Stream):
    forget = forget.forget_masks[-1]
  assert forget.dtype == jnp.bool_
  assert 0 < forget.sum() < forget.size
  assert jnp.issubdtype(problem.key.dtype, jax.dtypes.prng_key)
  for leaf in jax.tree.leaves(problem.data):
    assert leaf.shape[:1] == forget.shape


def test_the_seed_draws_the_rows_and_nothing_else():
  first, second = toy.classifier(), toy.classifier(seed=1)
  assert not (first.data["x"] == second.data["x"]).any()
  assert (first.request == second.request).all()
  hidden = [p.variables.params["hidden"]["kernel"] for p in (first, second)]
  assert (hidden[0] == hidden[1]).all()


def test_toys_cost_nothing_before_they_are_made():
  code = (
    "import sys, jaxunlearn; assert 'jaxunlearn.toy' not in sys.modules\n"
    "from jaxunlearn import toy\n"
    "print([m for m in ('flax', 'jraph') if m in sys.modules])"
  )
  out = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, check=True
  )
  assert out.stdout.strip() == "[]"
