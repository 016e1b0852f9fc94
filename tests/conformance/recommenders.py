"""Rows of the methods for recommenders."""

from conformance import worlds
from conformance.case import row
from conformance.worlds import ADAM

import jaxunlearn as ju
from jaxunlearn import recsys

FEW = ju.Fit(ADAM, 4, 64)


def _users(factory, build, variant="", **flags):
  return row(worlds.interactions, factory, build, variant, **flags)


RECOMMENDERS = [
  _users(recsys.mmrecun, lambda m: recsys.mmrecun(m, FEW), slow=True),
  _users(
    recsys.mmrecun,
    lambda m: recsys.mmrecun(m, FEW, schedule="alternate"),
    "alternate",
    slow=True,
  ),
  _users(
    recsys.mmrecun,
    lambda m: recsys.mmrecun(m, FEW, schedule="sequential"),
    "sequential",
    slow=True,
  ),
  _users(
    recsys.mmrecun,
    lambda m: recsys.mmrecun(m, FEW, graph="full"),
    "full_graph",
    slow=True,
  ),
  _users(
    ju.methods.retrain, lambda m: recsys.retrain(m, FEW), "users", slow=True
  ),
  _users(
    ju.methods.ssd,
    lambda m: ju.methods.ssd(m, alpha=1.0, dampening=0.5, batch_size=64),
    "users",
    slow=True,
  ),
  _users(
    ju.methods.neggrad_plus,
    lambda m: ju.methods.neggrad_plus(m, FEW),
    "users",
    slow=True,
  ),
  _users(recsys.finetune, lambda m: recsys.finetune(m, FEW), slow=True),
  _users(recsys.reverse_only, lambda m: recsys.reverse_only(m, FEW)),
  _users(
    recsys.gradient_ascent,
    lambda m: recsys.gradient_ascent(m, FEW),
    slow=True,
  ),
  _users(
    recsys.scif,
    lambda m: recsys.scif(m, damping=0.1, max_iterations=3),
    slow=True,
  ),
  _users(
    recsys.amnesiac,
    lambda m: recsys.amnesiac(m, FEW),
    soft_request=False,
    slow=True,
  ),
  _users(
    recsys.unlink,
    lambda m: recsys.unlink(),
    keyless=True,
    requestless=True,
    moves=False,
    identity=True,
  ),
  row(
    worlds.shards,
    recsys.receraser,
    lambda m: recsys.receraser(
      m, worlds.shard(), worlds.SHARDS, **worlds.SHARD_STEPS
    ),
    soft_request=False,
    slow=True,
  ),
]
