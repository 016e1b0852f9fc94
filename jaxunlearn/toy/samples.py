"""A generator that can be reckoned by hand, and users of two tastes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core.types import Variables
from jaxunlearn.toy.problem import Problem


def gan(scale: float = 1.0, *, num_samples: int = 64) -> Problem:
  """A generator that can be reckoned by hand; forget samples that are large.

  Samples are start + scale * (z + shift), the logit of the discriminator is
  slope . x; start and shift begin as 0.

  Args:
    scale: of the samples.
    num_samples: N, of the pool.

  Returns:
    Data {"x": float32 [N, 3]}, the generator's own samples, of which those are
    asked for that have x[0] > 0.5; a `Gan`.

  Example:
    >>> from jaxunlearn import toy
    >>> problem = toy.gan()
    >>> problem.data["x"].shape, int(problem.request.sum())
    ((64, 3), 16)
  """
  from jaxunlearn import gan as room

  def init(key):
    del key
    synthesis = {
      "start": {"bias": jnp.zeros(3)},
      "layer_1": {"scale": jnp.full(3, scale)},
    }
    generator = {"mapping": {"shift": jnp.zeros(3)}, "synthesis": synthesis}
    judge = {"slope": jnp.array([1.0, -2.0, 0.5])}
    return Variables({"generator": generator, "discriminator": judge})

  def synthesis(params, w):
    part = params["synthesis"]
    return part["start"]["bias"][None] + part["layer_1"]["scale"][None] * w

  model = room.Gan(
    init,
    lambda params, z: z + params["mapping"]["shift"][None],
    synthesis,
    lambda params, x: x @ params["slope"],
    latent_dim=3,
    shape=(3,),
  )
  variables, key = init(None), jax.random.key(0)
  x = room.pool(model, variables, jax.random.key(3), num_samples)["x"]
  return Problem(model, variables, {"x": x}, x[:, 0] > 0.5, key)


def large_share(problem: Problem, variables: Variables) -> float:
  """The share of a generator's samples that are large, rounded to two digits.

  Args:
    problem: of `gan`; samples are of the same noise as there.
    variables: of its model: the original ones, or unlearned.

  Example:
    >>> from jaxunlearn import toy
    >>> problem = toy.gan()
    >>> toy.large_share(problem, problem.variables)
    0.25
  """
  from jaxunlearn import gan as room

  count = len(problem.request)
  made = room.pool(problem.model, variables, jax.random.key(3), count)
  return round(float((made["x"][:, 0] > 0.5).mean()), 2)


def recommender() -> Problem:
  """Twelve users of two tastes and eight items; forget user 0.

  Users like the items of their own parity, each but one of them.

  Returns:
    Data {"x": int32 [36, 2]} of (user, item); a `Recommender`, matrix
    factorisation of width 4, whose embeddings are the singular vectors of the
    interactions.

  Example:
    >>> from jaxunlearn import toy
    >>> problem = toy.recommender()
    >>> problem.data["x"][:4].tolist(), int(problem.request.sum())
    ([[0, 2], [0, 4], [0, 6], [1, 3]], 3)
    >>> made = problem.model.embed_under(*problem.arguments[:3])
    >>> (made.users[4] @ made.items.T > 0.5).astype(int).tolist()
    [1, 0, 1, 0, 1, 0, 1, 0]
  """
  from jaxunlearn import recsys

  pairs = [
    (u, i)
    for u in range(12)
    for i in range(u % 2, 8, 2)
    if i // 2 != u // 2 % 4
  ]
  x = np.array(pairs, np.int32)
  table = np.zeros((12, 8))
  table[x[:, 0], x[:, 1]] = 1
  left, size, right = np.linalg.svd(table, full_matrices=False)
  root = np.sqrt(size[:4])
  params = {"users": left[:, :4] * root, "items": right[:4].T * root}
  return Problem(
    recsys.bpr_mf(12, 8, dim=4),
    Variables(jax.tree.map(jnp.float32, params)),
    {"x": jnp.asarray(x)},
    jnp.asarray(x[:, 0] == 0),
    jax.random.key(0),
  )


def mean_scores(problem: Problem, variables: Variables) -> tuple[float, float]:
  """Mean scores of the interactions to forget and of those to retain.

  Args:
    problem: of a `Recommender`.
    variables: of its model: the original ones, or unlearned.

  Returns:
    Forgotten first, rounded to two digits; of the model as it is served, on the
    graph without the request.

  Example:
    >>> from jaxunlearn import toy
    >>> problem = toy.recommender()
    >>> toy.mean_scores(problem, problem.variables)
    (0.97, 0.86)
  """
  made = jax.jit(problem.model.embed_under)(variables, *problem[2:4])
  user, item = problem.data["x"].T
  score = (made.users[user] * made.items[item]).sum(axis=1)
  share = lambda rows: round(float(score[rows].mean()), 2)
  return share(problem.request), share(~problem.request)
