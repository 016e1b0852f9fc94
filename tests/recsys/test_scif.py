"""SCIF against a dense Newton step, and what it leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
from recsys.small_recsys import dataset, trained
from refusals import refused

from jaxunlearn import recsys
from jaxunlearn.core.types import Request, Step, Variables
from jaxunlearn.recsys.objectives import SEEN, seen, triples

KEY = jax.random.key(5)
DIM, DAMPING = 2, 0.5


def small():
  """Matrix factorisation, 24 users and 20 items of two numbers each."""
  data = dataset()
  model = recsys.bpr_mf(data.num_users, data.num_items, dim=DIM, penalty=0.1)
  return model, jax.jit(model.init)(jax.random.key(0)), data.train


def drawn(model, data):
  """The negative of each interaction: where the gradient of its item goes."""
  count = len(data["x"])
  request = Request(jnp.zeros(count, bool), jnp.ones(count, bool))
  whole = seen(model, data, request, "full", "full")
  number = jnp.arange(count, dtype=jnp.int32)
  step = Step(
    data,
    jnp.ones(count),
    jnp.zeros(count, bool),
    number,
    number,
    jnp.zeros(count, jnp.int32),
    slots={SEEN: whole},
  )

  def losses(items):
    params = {"users": jnp.ones((model.num_users, DIM)), "items": items}
    return triples(model)(Variables(params), step, KEY).value

  plain = jax.jacobian(losses)(jnp.zeros((model.num_items, DIM)))
  return np.asarray(plain[:, :, 0]).argmax(axis=1)


def newton(params, pairs, negative, forget):
  """The step in float64, by the Hessian of every touched number."""
  users, items = (np.asarray(params[n], np.float64) for n in ("users", "items"))
  count = len(pairs)
  touched = np.concatenate([
    np.repeat(np.isin(np.arange(len(users)), pairs[forget, 0]), DIM),
    np.repeat(np.isin(np.arange(len(items)), pairs[forget, 1]), DIM),
  ])  # fmt: skip
  start = np.concatenate([users.ravel(), items.ravel()])
  gradient, hessian = np.zeros(start.size), np.zeros((start.size,) * 2)
  eye = np.eye(DIM)
  for row, ((u, i), j) in enumerate(zip(pairs, negative)):
    at = [DIM * u, DIM * (len(users) + i), DIM * (len(users) + j)]
    at = np.concatenate([np.arange(a, a + DIM) for a in at])
    a, b, c = start[at].reshape(3, DIM)
    margin = a @ b - a @ c
    slope = np.concatenate([b - c, a, -a])
    bend = np.zeros((3 * DIM,) * 2)
    bend[:DIM, DIM : 2 * DIM], bend[:DIM, 2 * DIM :] = eye, -eye
    bend += bend.T
    p = 1 / (1 + np.exp(margin))  # Of softplus(-margin).
    own = -p * slope + 0.1 * start[at]
    hessian[np.ix_(at, at)] += (
      p * (1 - p) * np.outer(slope, slope) - p * bend + 0.1 * np.eye(3 * DIM)
    ) / count
    gradient[at] -= own / count
    if forget[row]:
      gradient[at] += -slope / 2 / count  # Of bpr less its value at a half.
  system = hessian[np.ix_(touched, touched)] + DAMPING * np.eye(touched.sum())
  step = np.zeros(start.size)
  step[touched] = np.linalg.solve(system, gradient[touched])
  moved = (start + step).reshape(-1, DIM)
  return moved[: len(users)], moved[len(users) :]


def test_it_is_a_newton_step_of_the_touched_embeddings():
  model, variables, data = small()
  forget = recsys.requests.users(data, [1, 4])
  method = recsys.scif(
    model, damping=DAMPING, max_iterations=60, tolerance=1e-6
  )
  out, info = jax.jit(method)(variables, data, forget, KEY)
  pairs = np.asarray(data["x"])
  wanted = newton(
    variables.params, pairs, drawn(model, data), np.asarray(forget)
  )
  for name, values in zip(("users", "items"), wanted):
    np.testing.assert_allclose(out.params[name], values, atol=2e-5)
  stays = ~np.isin(np.arange(model.num_users), [1, 4])
  np.testing.assert_array_equal(
    out.params["users"][stays], variables.params["users"][stays]
  )
  assert float(info.residual) < 1e-4
  empty = jnp.zeros(len(pairs), bool)
  same, _ = jax.jit(method)(variables, data, empty, KEY)
  jax.tree.map(np.testing.assert_array_equal, same.params, variables.params)


def test_other_tables_are_named():
  model, variables = trained()
  forget = recsys.requests.users(dataset().train, [1])
  call = lambda **options: recsys.scif(model, **options)(
    variables, dataset().train, forget, KEY
  )
  refused(
    r"params\['ids'\] of shape \[24, ...\]", call, tables=("ids", "items")
  )
  refused("damping", recsys.scif, model, damping=-1.0)
