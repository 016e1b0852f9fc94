"""Tiny problems to try things on, one function per kind of model.

Each is made in a moment, without a download or a training loop, and small enough
that a method runs on it in a second. They are for examples, tests and a first
look; no number measured on one says how a method does on real data.

    from jaxunlearn import toy

    problem = toy.classifier()
    unlearned, info = jax.jit(unlearn)(*problem.arguments)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core.types import Variables
from jaxunlearn.toy.links import graph as graph
from jaxunlearn.toy.pictures import diffusion as diffusion
from jaxunlearn.toy.problem import Problem as Problem
from jaxunlearn.toy.samples import gan as gan
from jaxunlearn.toy.samples import large_share as large_share
from jaxunlearn.toy.samples import mean_scores as mean_scores
from jaxunlearn.toy.samples import recommender as recommender
from jaxunlearn.toy.text import decoder as decoder
from jaxunlearn.toy.text import likelihoods as likelihoods
from jaxunlearn.toy.text import prefix_model as prefix_model
from jaxunlearn.toy.text import vision_language as vision_language


def classifier(num_rows: int = 60, *, seed: int = 0) -> Problem:
  """Four Gaussian classes, a network of one hidden layer, forget class 1.

  Args:
    num_rows: N, at least four; rows are of the classes 0, 1, 2, 3, 0, ... in
      turn.
    seed: of the rows and of the key; the centres of the classes and the random
      hidden layer are always the same.

  Returns:
    Data {"x": float32 [N, 6], "label": int32 [N]}; a `Model` with logits [N, 4]
    and the features {"hidden": [N, 8]}, params {"hidden", "output"} of a
    "kernel" and a "bias" each, whose output layer was fitted to the rows by
    least squares.

  Example:
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> problem.data["x"].shape, int(problem.request.sum())
    ((60, 6), 15)
    >>> toy.accuracies(problem, problem.variables)
    (1.0, 1.0)
  """
  # Here, not above: what stands there is paid for by the toys of every room.
  from jaxunlearn.adapters.functions import from_functions

  label = np.arange(num_rows) % 4
  centres = np.random.default_rng(7).normal(size=(4, 6)) * 2
  rng = np.random.default_rng(seed)
  x = centres[label] + rng.normal(size=(num_rows, 6))

  kernel = np.random.default_rng(4).normal(size=(6, 8)) / 6**0.5
  h = np.column_stack([np.maximum(x @ kernel, 0), np.ones(num_rows)])
  output = np.linalg.lstsq(h, 8 * np.eye(4)[label], rcond=None)[0]
  params = {
    "hidden": {"kernel": kernel, "bias": np.zeros(8)},
    "output": {"kernel": output[:-1], "bias": output[-1]},
  }
  return Problem(
    from_functions(_init_mlp, _apply_mlp, features=_hidden_of_mlp),
    Variables(jax.tree.map(jnp.float32, params)),
    {"x": jnp.asarray(x, jnp.float32), "label": jnp.asarray(label, jnp.int32)},
    jnp.asarray(label == 1),
    jax.random.key(seed),
  )


def _init_mlp(key, x):
  del x
  first, second = jax.random.split(key)
  return {
    "hidden": {
      "kernel": jax.random.normal(first, (6, 8)) / 6**0.5,
      "bias": jnp.zeros(8),
    },
    "output": {
      "kernel": jax.random.normal(second, (8, 4)) / 8**0.5,
      "bias": jnp.zeros(4),
    },
  }


def _hidden_of_mlp(variables, x):
  layer = variables.params["hidden"]
  return {"hidden": jax.nn.relu(x @ layer["kernel"] + layer["bias"][None])}


def _apply_mlp(params, x):
  layer = params["output"]
  h = _hidden_of_mlp(Variables(params), x)["hidden"]
  return h @ layer["kernel"] + layer["bias"][None]


def regression(num_rows: int = 40, *, seed: int = 0) -> Problem:
  """A line fitted to points around it; forget those of x above 1.

  Args:
    num_rows: N, at least two.
    seed: of the points and of the key.

  Returns:
    Data {"x": float32 [N, 1], "label": float32 [N]}, about 2 x + 1; a `Model`
    with outputs [N] and the squared error, params {"slope", "intercept"}, which
    are those of least squares.

  Example:
    >>> from jaxunlearn import toy
    >>> problem = toy.regression()
    >>> {k: round(float(v)) for k, v in problem.variables.params.items()}
    {'slope': 2, 'intercept': 1}
  """
  from jaxunlearn.adapters.functions import from_functions
  from jaxunlearn.losses import on_targets

  rng = np.random.default_rng(seed)
  x = rng.uniform(-2, 2, size=num_rows)
  label = 2 * x + 1 + 0.3 * rng.normal(size=num_rows)
  slope, intercept = np.polyfit(x, label, 1)
  model = from_functions(
    lambda key, x: dict.fromkeys(("slope", "intercept"), jnp.zeros(())),
    lambda params, x: params["slope"] * x[:, 0] + params["intercept"],
    loss=on_targets("l2"),
  )
  return Problem(
    model,
    Variables(
      {"slope": jnp.float32(slope), "intercept": jnp.float32(intercept)}
    ),
    {"x": jnp.asarray(x[:, None], jnp.float32), "label": jnp.float32(label)},
    jnp.asarray(x > 1),
    jax.random.key(seed),
  )


def accuracies(problem: Problem, variables: Variables) -> tuple[float, float]:
  """Shares of the forget and of the retained rows that a classifier gets right.

  Args:
    problem: of a model with logits and of rows with a "label".
    variables: of its model: the original ones, or unlearned.

  Returns:
    Forgotten first, each in [0, 1], rounded to one digit.

  Example:
    >>> import jax
    >>> from jaxunlearn import toy
    >>> problem = toy.classifier()
    >>> zeros = jax.tree.map(jax.numpy.zeros_like, problem.variables)
    >>> toy.accuracies(problem, zeros)  # Always says class 0, of 45 rows 15.
    (0.0, 0.3)
  """
  logits = problem.model.predict(variables, problem.data["x"])
  right = np.asarray(logits.argmax(-1) == problem.data["label"])
  forget = np.asarray(problem.request)
  share = lambda rows: round(float(right[rows].mean()), 1)
  return share(forget), share(~forget)


def stream() -> Problem:
  """Sixteen rows of `classifier` in two tasks: learn 0, learn 1, forget 0.

  Returns:
    Task 0 has the classes 0 and 1, task 1 the classes 2 and 3. The model's
    output layer is zero, nothing is learned yet; the request is a
    `continual.Stream`.

  Example:
    >>> from jaxunlearn import continual, toy
    >>> continual.learned_after(toy.stream().request).sum(axis=1).tolist()
    [8, 16, 8]
  """
  from jaxunlearn import continual as room

  problem = classifier(16)
  params = problem.variables.params
  output = jax.tree.map(jnp.zeros_like, params["output"])
  events = [room.learn(0), room.learn(1), room.forget(0)]
  return problem._replace(
    variables=Variables({**params, "output": output}),
    request=room.task_stream(problem.data["label"] // 2, events),
  )
