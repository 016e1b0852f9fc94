"""Tasks and streams: what is learned and forgotten, in what order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import data
from jaxunlearn import continual as co

STREAMS = ("published", "requests_last", "mixed", "random")
NUM_KERNELS, KERNEL_SIZE = 128, 6
_IMAGES_AT_ONCE = 100
# With it the retrained model is at its best; twice as long, training staggers.
ROW_LENGTH = 10.0


class Tasks(NamedTuple):
  """Rows cut into tasks by their classes.

  Attributes:
    train: {"x": float32 [N, D], "label": int32 [N]}.
    test: the same of rows never trained on.
    task: int32 [N], of the training rows.
    test_task: int32, of the test rows.
    of_class: int [C], the task of every class.
    class_names: C names.
    features: in words, what the numbers of a row are.
  """

  train: data.Rows
  test: data.Rows
  task: np.ndarray
  test_task: np.ndarray
  of_class: np.ndarray
  class_names: tuple[str, ...]
  features: str

  @property
  def num_tasks(self) -> int:
    return int(self.of_class.max()) + 1

  @property
  def num_classes(self) -> int:
    return len(self.of_class)

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
  parts, features = (found.train, found.test), "as they are"
  if source == "cifar10":
    parts = (_convolved(found.train), _convolved(found.test))
    features = (
      f"the answers of {NUM_KERNELS} random filters, never trained on anything"
    )
  train, test = (
    {"x": part["x"].reshape(len(part["x"]), -1), "label": part["label"]}
    for part in parts
  )
  return Tasks(
    train,
    test,
    of_class[train["label"]].astype(np.int32),
    of_class[test["label"]].astype(np.int32),
    of_class,
    found.class_names,
    features,
  )


def _convolved(part: data.Rows) -> data.Rows:
  return {"x": random_convolutions(part["x"]), "label": part["label"]}


def _tasks_of_classes(found: data.Dataset) -> np.ndarray:
  task, label = np.asarray(found.columns["task"]), found.train["label"]
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
  side, channels = KERNEL_SIZE, images.shape[-1]
  size = side * side * channels
  kernel = jax.random.normal(jax.random.key(0), (size, NUM_KERNELS))
  kernel = kernel - kernel.mean(axis=0, keepdims=True)
  kernel = kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True)

  def one(batch: jax.Array) -> jax.Array:
    patches = jax.lax.conv_general_dilated_patches(
      batch,
      (side, side),
      (2, 2),
      "VALID",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    patches = patches - patches.mean(axis=-1, keepdims=True)
    # A floor for patches without any contrast.
    length = jnp.linalg.norm(patches, axis=-1, keepdims=True)
    patches = patches / jnp.maximum(length, 0.1)
    answers = jax.nn.relu(patches @ kernel)
    height, width = (n // 2 for n in answers.shape[1:3])
    quarters = [
      part.mean(axis=(1, 2))
      for rows in (answers[:, :height], answers[:, height:])
      for part in (rows[:, :, :width], rows[:, :, width:])
    ]
    return jnp.concatenate(quarters, axis=1)

  run = jax.jit(one)
  parts = [
    np.asarray(run(images[start : start + _IMAGES_AT_ONCE]))
    for start in range(0, len(images), _IMAGES_AT_ONCE)
  ]
  x = np.concatenate(parts)
  x = x - x.mean(axis=1, keepdims=True)
  length = np.linalg.norm(x, axis=1, keepdims=True)
  return (ROW_LENGTH * x / np.maximum(length, 1e-6)).astype(np.float32)


def named_stream(name: str, num_tasks: int, seed: int) -> list[co.Event]:
  """The events of a stream by name.

  Args:
    name: "published", that of the CLU paper (learn all tasks but the last;
      then forget the odd ones, learn the even ones again, learn the last);
      "requests_last" (learn all, then forget the odd ones); "mixed" (learning
      and forgetting in turn, a forgotten task learned again, an event that does
      both); "random", another one for every seed.
    num_tasks: K >= 2.
    seed: of a random stream.
  """
  everything = range(num_tasks)
  if name == "published":
    first = [co.learn(t) for t in everything[:-1]]
    turns = [co.forget(t) if t % 2 else co.learn(t) for t in everything[1:-1]]
    return [*first, *turns, co.learn(num_tasks - 1)]
  if name == "requests_last":
    odd = [co.forget(t) for t in everything if t % 2]
    return [*(co.learn(t) for t in everything), *odd]
  if name == "mixed":
    # A task comes, the one before it goes.
    events = [co.learn(0)]
    for t in everything[1:]:
      events.append(co.learn(t))
      if t % 2:
        events.append(co.forget(t - 1))
    last = num_tasks - 1
    return [*events, co.Event((0,), (last,))]
  rng = np.random.default_rng(seed)
  known: set[int] = set()
  events = []
  for _ in range(2 * num_tasks):
    others = [t for t in everything if t not in known]
    if others and (len(known) < 2 or rng.random() < 0.6):
      known.add(task := int(rng.choice(others)))
      events.append(co.learn(task))
    else:
      known.remove(task := int(rng.choice(sorted(known))))
      events.append(co.forget(task))
  return events


def parse_streams(text: str) -> tuple[str, ...]:
  """Names of streams.

  Raises:
    ValueError: an unknown name, or none.
  """
  names = tuple(dict.fromkeys(n.strip() for n in text.split(",") if n.strip()))
  for name in names or (text,):
    if name not in STREAMS:
      raise ValueError(
        f"Expected --streams of {', '.join(STREAMS)}, got {name!r}."
      )
  return names


def parse_events(text: str, num_tasks: int) -> list[co.Event]:
  """The events of "learn:0 learn:1,2 forget:0 learn:3+forget:1".

  Raises:
    ValueError: words of another form, tasks that do not exist, an event that
      learns and forgets the same task, a stream that learns nothing.
  """
  events = [_parse_event(word, num_tasks) for word in text.split()]
  if not any(event.learn for event in events):
    raise ValueError(
      f"Expected --events to learn something, as in learn:0, got {text!r}."
    )
  return events


def _parse_event(word: str, num_tasks: int) -> co.Event:
  asked: dict[str, tuple[int, ...]] = {"learn": (), "forget": ()}
  for part in word.split("+"):
    kind, _, numbers = part.partition(":")
    texts = numbers.split(",")
    if kind not in asked or not all(t.isdecimal() for t in texts):
      raise ValueError(
        "Expected --events as in 'learn:0 learn:1,2 forget:0 "
        f"learn:3+forget:1', got {word!r}."
      )
    for text in texts:
      if int(text) >= num_tasks:
        raise ValueError(
          f"Expected --events with tasks in 0 .. {num_tasks - 1}, got {word!r}."
        )
    asked[kind] += tuple(map(int, texts))
  if set(asked["learn"]) & set(asked["forget"]):
    raise ValueError(
      "Expected --events that do not learn and forget a task at once, got "
      f"{word!r}."
    )
  return co.Event(**asked)


def words(event: co.Event) -> str:
  """An event in a few signs, "+0" learned, "-1" forgotten."""
  marks = [f"+{t}" for t in event.learn] + [
    f"\N{MINUS SIGN}{t}" for t in event.forget
  ]
  return " ".join(marks)


def padded(events: Sequence[co.Event], length: int) -> list[co.Event]:
  """The same with events after it in which nothing happens."""
  return [*events, *[co.Event()] * (length - len(events))]
