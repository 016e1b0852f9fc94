"""One of the processes that share the batches of a `stream`, to be killed.

    python shared_stream_child.py PORT PROCESS PROCESSES FOLDER [--slow]

The rows come from a source that is read by number, the request from a file. The
mesh has two devices, of one process or of two.
"""

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

port, process, processes = map(int, sys.argv[1:4])
folder = sys.argv[4]
if processes > 1:
  address = f"127.0.0.1:{port}"
  jax.config.update("jax_cpu_collectives_implementation", "gloo")
  jax.distributed.initialize(
    address,
    num_processes=processes,
    process_id=process,
    coordinator_bind_address=address if process == 0 else None,
    initialization_timeout=60,
  )
mesh = ju.core.make_mesh(batch=2)
split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


class Table:
  """Rows that are made when they are asked for, each by itself."""

  data = jax.tree.map(np.asarray, problems.blobs())

  def __len__(self):
    return 60

  def __getitem__(self, i):
    if "--slow" in sys.argv:
      time.sleep(0.004)
    return jax.tree.map(lambda leaf: leaf[i], self.data)


def put(rows):
  return jax.tree.map(
    lambda leaf: jax.make_array_from_process_local_data(split, leaf), rows
  )


source = ju.core.indexed_batches(Table(), f"{folder}/forget.npy")
ahead = ju.core.prefetched(source, put=put)
first = []


def batches(link, key, start):
  first.append(start)
  yield from ahead(link, key, start)


batches.request = source.request
model = problems.mlp()
variables = jax.tree.map(
  lambda leaf: jax.device_put(np.asarray(leaf), whole),
  model.init(jax.random.key(1), problems.blobs()["x"]),
)
fit = lambda n: ju.phase(
  ju.supervised(model), optax.adam(0.01), n, draw=ju.Draw(forget=2, retain=8)
)
unlearned, _ = ju.stream(
  ju.chain(fit(40), fit(80)),
  variables,
  batches,
  jax.random.key(2),
  checkpoint_dir=f"{folder}/steps",
  checkpoint_every=10,
  progress=False,
)
leaves = b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(unlearned))
print("first step", first[0])
print("digest", hashlib.sha256(leaves).hexdigest())
if processes > 1:
  jax.distributed.shutdown()
