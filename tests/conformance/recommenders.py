"""Rows of the methods for recommenders."""

from conformance import worlds
from conformance.case import row
from conformance.worlds import ADAM

from jaxunlearn import recsys

FEW = {"optimizer": ADAM, "num_steps": 4, "batch_size": 64}


def _users(factory, build, variant="", **flags):
  return row(worlds.interactions, factory, build, variant, **flags)


RECOMMENDERS = [
  _users(recsys.mmrecun, lambda m: recsys.mmrecun(m, **FEW)),
  _users(
    recsys.mmrecun,
    lambda m: recsys.mmrecun(m, schedule="alternate", **FEW),
    "alternate",
    slow=True,
  ),
  _users(
    recsys.mmrecun,
    lambda m: recsys.mmrecun(m, schedule="sequential", **FEW),
    "sequential",
    slow=True,
  ),
  _users(
    recsys.mmrecun,
    lambda m: recsys.mmrecun(m, graph="full", **FEW),
    "full_graph",
    slow=True,
  ),
  _users(recsys.retrain, lambda m: recsys.retrain(m, **FEW), slow=True),
  _users(recsys.finetune, lambda m: recsys.finetune(m, **FEW), slow=True),
  _users(recsys.reverse_only, lambda m: recsys.reverse_only(m, **FEW)),
  _users(
    recsys.gradient_ascent,
    lambda m: recsys.gradient_ascent(m, **FEW),
    slow=True,
  ),
  _users(
    recsys.amnesiac,
    lambda m: recsys.amnesiac(m, **FEW),
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
