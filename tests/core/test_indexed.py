"""Requests as row numbers on disk: the same batches, and no array of all rows."""

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import problems
import pytest

import jaxunlearn as ju
from jaxunlearn.core import indexed_batches, prefetched, write_index

KEY = jax.random.key(3)
FORGET = np.array([2, 3, 11, 40, 58])
FIRST, LAST = ju.core.types.Draw(2, 4, 2), ju.core.types.Draw(mixed=8)


FIELDS = ("rows", "weight", "forget", "row_id", "place", "epoch")


class Table:
  """Row i by its number, as data sources of Grain and the like."""

  def __init__(self, num_rows):
    self.num_rows = num_rows
    self.read = []

  def __len__(self):
    return self.num_rows

  def __getitem__(self, i):
    self.read.append(i)
    x = np.full(problems.DIM, np.sin(i), np.float32)
    return {"x": x, "label": np.int32(i % 4)}


def link(draw):
  return ju.phase(ju.supervised(problems.mlp()), optax.adam(0.01), 6, draw=draw)


def some(source, draw, count=20, start=0):
  return list(itertools.islice(source(link(draw), KEY, start), count))


@pytest.mark.parametrize("draw", [FIRST, LAST])
def test_rows_are_those_that_a_mask_over_all_rows_draws(tmp_path, draw):
  data = jax.tree.map(np.asarray, problems.blobs())
  out = np.array([0, 4, 5, 59])
  forget = np.isin(np.arange(60), FORGET)
  request = ju.Request(
    jnp.asarray(forget), jnp.asarray(~forget & ~np.isin(np.arange(60), out))
  )
  write_index(tmp_path / "forget.npy", FORGET[::-1])
  found = indexed_batches(data, tmp_path / "forget.npy", left_out=out)
  wanted = some(ju.core.host_batches(data, request), draw)
  for a, b in zip(some(found, draw), wanted, strict=True):
    for name in FIELDS:
      ours, theirs = getattr(a, name), getattr(b, name)
      assert jax.tree.structure(ours) == jax.tree.structure(theirs)
      jax.tree.map(np.testing.assert_array_equal, ours, theirs)
      for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs)):
        assert x.dtype == y.dtype


def test_a_thousand_rows_of_a_hundred_million_cost_a_batch(tmp_path):
  n = 10**8
  forget = np.random.default_rng(0).integers(0, n, 1000)
  write_index(tmp_path / "forget.npy", forget)
  table = Table(n)
  batches = indexed_batches(table, tmp_path / "forget.npy")
  table.read.clear()
  method = link(ju.Draw(forget=4, retain=4))
  variables = problems.mlp().init(KEY, problems.blobs()["x"])
  before = {id(array) for array in jax.live_arrays()}
  largest = 0

  def watched(link, key, start):
    nonlocal largest
    for batch in batches(link, key, start):
      sizes = [a.nbytes for a in jax.live_arrays() if id(a) not in before]
      largest = max(largest, *sizes)
      yield batch

  ju.stream(method, variables, watched, KEY, progress=False)
  assert 0 < largest < 4096  # Bytes of the largest array on the device.
  assert len(table.read) == 6 * 8
  asked = np.isin(table.read, forget).reshape(6, 8)
  assert asked[:, :4].all() and not asked[:, 4:].any()


def test_hosts_read_a_stretch_of_each_batch_and_their_number_decides_nothing():
  table = Table(60)
  whole = some(indexed_batches(table, FORGET), FIRST)
  for count in (2, 4):
    parts = [
      some(indexed_batches(table, FORGET, host=(i, count)), FIRST)
      for i in range(count)
    ]
    for batch, *shares in zip(whole, *parts):
      together = np.concatenate([share.rows["x"] for share in shares])
      np.testing.assert_array_equal(together, batch.rows["x"])
      for share in shares:
        np.testing.assert_array_equal(share.row_id, batch.row_id)
  with pytest.raises(ValueError, match="that 3 hosts can share, got 8 rows"):
    some(indexed_batches(table, FORGET, host=(0, 3)), FIRST)


def test_reading_ahead_gives_the_same_batches_and_the_sources_errors():
  source = indexed_batches(Table(60), FORGET)
  ahead = prefetched(source, 3)
  assert ahead.request == source.request
  for a, b in zip(some(ahead, FIRST, 5), some(source, FIRST, 5), strict=True):
    np.testing.assert_array_equal(a.rows["x"], b.rows["x"])
    assert isinstance(a.rows["x"], jax.Array)

  def slow(link, key, start):
    for batch in source(link, key, start):
      time.sleep(0.02)
      yield batch
    raise AssertionError

  def broken(link, key, start):
    yield from some(source, FIRST, 2)
    raise OSError("no disk")

  reading = prefetched(slow, 2)(link(FIRST), KEY, 0)
  next(reading)
  time.sleep(0.2)
  began = time.perf_counter()
  next(reading)
  assert time.perf_counter() - began < 0.02
  reading.close()
  with pytest.raises(OSError, match="no disk"):
    some(prefetched(broken), FIRST, 3)


def test_grain_data_sets_are_sources():
  grain = pytest.importorskip("grain")
  dataset = grain.MapDataset.source(Table(60)).map(lambda row: row)
  whole = some(indexed_batches(dataset, FORGET), FIRST, 3)
  for a, b in zip(whole, some(indexed_batches(Table(60), FORGET), FIRST, 3)):
    np.testing.assert_array_equal(a.rows["x"], b.rows["x"])


def test_prepared_data_of_tensorflow_datasets_are_sources(tmp_path):
  """Rows that it wrote to disk in an order of its own, without TensorFlow."""
  tfds = pytest.importorskip("tensorflow_datasets")
  pytest.importorskip("array_record")

  class Tiny(tfds.core.GeneratorBasedBuilder):
    """Sixty rows."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
      x = tfds.features.Tensor(shape=(problems.DIM,), dtype=np.float32)
      label = tfds.features.ClassLabel(num_classes=4)
      features = tfds.features.FeaturesDict({"x": x, "label": label})
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
      return {"train": self._generate_examples()}

    def _generate_examples(self):
      table = Table(60)
      for i in range(60):
        yield i, {**table[i], "label": int(table[i]["label"])}

  builder = Tiny(data_dir=str(tmp_path), file_format="array_record")
  builder.download_and_prepare()
  source = builder.as_data_source("train")
  stored = [source[i]["x"] for i in range(60)]
  assert {x[0] for x in stored} == {Table(60)[i]["x"][0] for i in range(60)}
  batches = some(indexed_batches(source, FORGET), FIRST, 3)
  for batch in batches:
    wanted = np.stack([stored[i] for i in batch.row_id])
    np.testing.assert_array_equal(batch.rows["x"], wanted)


@pytest.mark.parametrize(
  ("forget", "match"),
  [
    ([3, 2], "forget to rise within 0 .. 59"),
    ([2, 60], "forget to rise within 0 .. 59"),
    ([0.5], r"row numbers, int \[n\], got float64"),
    ([4], "without rows of left_out"),
  ],
)
def test_bad_indices_are_told(forget, match):
  with pytest.raises(ValueError, match=match):
    indexed_batches(Table(60), np.array(forget), left_out=np.array([4]))
  with pytest.raises(ValueError, match="integers >= 0"):
    write_index("nowhere.npy", [-1])


def test_draws_that_would_list_all_rows_are_refused():
  source = indexed_batches(Table(60), FORGET)
  for draw in (
    ju.Draw(retain=ju.core.types.ALL),
    ju.Draw(retain=4, select=max),
  ):
    with pytest.raises(ValueError, match="got a draw of all rows"):
      some(source, draw)
