"""A run of `stream` in a process of its own, to be killed and started again."""

import hashlib
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import numpy as np
import optax
import problems

import jaxunlearn as ju

model, data = problems.mlp(), problems.blobs()
variables = model.init(jax.random.key(1), data["x"])
mask = data["label"] == 1
source = ju.core.host_batches(jax.tree.map(np.asarray, data), mask)
first = []


def batches(link, key, start):
  first.append(start)
  for batch in source(link, key, start):
    if "--slow" in sys.argv:
      time.sleep(0.02)
    yield batch


fit = lambda n: ju.phase(
  ju.supervised(model), optax.adam(0.01), n, draw=ju.Draw(retain=8)
)
unlearned, _ = ju.stream(
  ju.chain(fit(100), fit(200)),
  variables,
  batches,
  jax.random.key(2),
  checkpoint_dir=sys.argv[1],
  checkpoint_every=10,
  progress=False,
)
leaves = b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(unlearned))
print("first step", first[0])
print("digest", hashlib.sha256(leaves).hexdigest())
