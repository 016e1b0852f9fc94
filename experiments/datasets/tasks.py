"""Rows cut into tasks by their classes, for streams of learning and forgetting."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import data

NUM_KERNELS, KERNEL_SIZE = 128, 6
_IMAGES_AT_ONCE = 100
# With it the retrained model is at its best; twice as long, training staggers.
ROW_LENGTH = 10.0


class Tasks(NamedTuple):
  """A data set, and the task of every class.

  Attributes:
    dataset: see `data.Dataset`; inputs are floats.
    of_class: int [C], the task of every class.
    features: in words, what the numbers of a row are.
  """

  dataset: data.Dataset
  of_class: np.ndarray
  features: str

  @property
  def num_tasks(self) -> int:
    return int(self.of_class.max()) + 1

  @property
  def within(self) -> np.ndarray:
    """int [C], the place of every class in its task."""
    same = self.of_class[:, None] == self.of_class[None]
    return np.tril(same, -1).sum(axis=1)


def load(
  source: str, *, preset: str, data_dir: str | None, classes_per_task: int
) -> Tasks:
  """Loads rows and cuts them into tasks.

  Args:
    source: see `data.load`; an .npz may have `task` [N], integers from 0 on.
    preset: see `data.load`.
    data_dir: see `data.load`.
    classes_per_task: of neighbours, where the data have no `task`.

  Raises:
    ValueError: data that cannot be used, fewer than two tasks, a class in two.
  """
  if classes_per_task < 1:
    raise ValueError(
      f"Expected --classes-per-task > 0, got {classes_per_task}."
    )
  found = data.with_floats(data.load(source, preset=preset, data_dir=data_dir))
  of_class = np.arange(found.num_classes) // classes_per_task
  if "task" in found.columns:
    of_class = _tasks_of_classes(found)
  if of_class.max() < 1:
    raise ValueError(
      "Expected --data with at least 2 tasks, got 1 of "
      f"{found.num_classes} classes; lower --classes-per-task."
    )
  if source != "cifar10":
    return Tasks(found, of_class, "as they are")
  convolved = lambda rows: {**rows, "x": random_convolutions(rows["x"])}
  return Tasks(
    found._replace(train=convolved(found.train), test=convolved(found.test)),
    of_class,
    f"the answers of {NUM_KERNELS} random filters, never trained on anything",
  )


def _tasks_of_classes(found: data.Dataset) -> np.ndarray:
  rows, columns = found.train, found.columns
  if found.pool is not None:
    rows, columns = found.pool.rows, found.pool.columns
  task, label = np.asarray(columns["task"]), rows["label"]
  if task.dtype.kind not in "iu" or task.min() < 0:
    raise ValueError(
      f"Expected task in --data to be integers from 0 on, got {task.dtype} from "
      f"{task.min()} on."
    )
  of_class = np.zeros(found.num_classes, int)
  for c in range(found.num_classes):
    own = np.unique(task[label == c])
    if len(own) != 1:
      raise ValueError(
        "Expected task in --data to put every class in one task, got class "
        f"{c} in {len(own)}."
      )
    of_class[c] = own[0]
  missing = np.setdiff1d(np.arange(of_class.max()), of_class)
  if missing.size:
    raise ValueError(
      f"Expected task in --data without gaps, got no row of task {missing[0]}."
    )
  return of_class


def random_convolutions(images: np.ndarray) -> np.ndarray:
  """Features of images that no training row has a part in.

  Patches of mean 0 and length 1, random filters, ReLU, the mean over each
  quarter of the image, and a row brought to mean 0 and length `ROW_LENGTH`:
  nothing is fitted, so there is nothing to forget in them.

  Args:
    images: float32 [N, H, W, channels].

  Returns:
    float32 [N, 4 NUM_KERNELS].
  """
  size = KERNEL_SIZE * KERNEL_SIZE * images.shape[-1]
  kernel = jax.random.normal(jax.random.key(0), (size, NUM_KERNELS))
  kernel = kernel - kernel.mean(axis=0, keepdims=True)
  kernel = kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True)

  @jax.jit
  def run(batch: jax.Array) -> jax.Array:
    patches = jax.lax.conv_general_dilated_patches(
      batch,
      (KERNEL_SIZE, KERNEL_SIZE),
      (2, 2),
      "VALID",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    patches = patches - patches.mean(axis=-1, keepdims=True)
    # A floor for patches without any contrast.
    length = jnp.linalg.norm(patches, axis=-1, keepdims=True)
    answers = jax.nn.relu(patches / jnp.maximum(length, 0.1) @ kernel)
    height, width = (n // 2 for n in answers.shape[1:3])
    quarters = [
      part.mean(axis=(1, 2))
      for rows in (answers[:, :height], answers[:, height:])
      for part in (rows[:, :, :width], rows[:, :, width:])
    ]
    return jnp.concatenate(quarters, axis=1)

  starts = range(0, len(images), _IMAGES_AT_ONCE)
  x = np.concatenate(
    [np.asarray(run(images[i : i + _IMAGES_AT_ONCE])) for i in starts]
  )
  x = x - x.mean(axis=1, keepdims=True)
  length = np.linalg.norm(x, axis=1, keepdims=True)
  return (ROW_LENGTH * x / np.maximum(length, 1e-6)).astype(np.float32)
