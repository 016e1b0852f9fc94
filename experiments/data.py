"""Data sets, all in one form: rows of inputs and integer labels on the host."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from .files import checked_path, read_csv, read_npz

Rows = dict[str, np.ndarray]

CIFAR10_CLASSES = (
  "airplane",
  "automobile",
  "bird",
  "cat",
  "deer",
  "dog",
  "frog",
  "horse",
  "ship",
  "truck",
)
# Mean and standard deviation of the training images' channels.
CIFAR10_MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)
CIFAR10_STD = np.array([0.2470, 0.2435, 0.2616], np.float32)
# Training and test rows by preset; None is all of them.
CIFAR10_ROWS: Mapping[str, tuple[int, int] | None] = {
  "smoke": (200, 100),
  "quick": (3000, 1000),
  "paper": None,
}
ADULT_ROWS: Mapping[str, tuple[int, int] | None] = {
  "smoke": (400, 200),
  "quick": (4000, 2000),
  "paper": None,
}
MAX_CLASSES = 100_000  # A label beyond is an id or a mistake.
ADULT_NUMBERS = (
  "age",
  "education-num",
  "capital-gain",
  "capital-loss",
  "hours-per-week",
)
ADULT_WORDS = (
  "workclass",
  "marital-status",
  "occupation",
  "relationship",
  "race",
  "sex",
  "native-country",
)


class Pool(NamedTuple):
  """All rows of a data set that nobody has divided yet, in their file's order.

  Attributes:
    rows: as in `Dataset`, with `x` before it is standardised.
    columns: by name, an entry a row.
    test_share: how many of them test.
    scaled: so many columns of `x`, the first ones, are standardised by the rows
      that train, or by those of them that stay.
  """

  rows: Rows
  columns: Mapping[str, np.ndarray]
  test_share: float
  scaled: int = 0

  def take(self, rows: np.ndarray, by: np.ndarray) -> Rows:
    """Some of the rows, standardised by others."""
    x = self.rows["x"]
    if self.scaled:
      first = _standardised(x[:, : self.scaled], by)
      x = np.concatenate([first, x[:, self.scaled :]], axis=1)
    x = x.astype(np.int32 if x.dtype.kind in "iu" else np.float32)
    return {name: leaf[rows] for name, leaf in {**self.rows, "x": x}.items()}


class Dataset(NamedTuple):
  """Rows to train on and rows to test on.

  Attributes:
    train: {"x": float32 or int32 [N, ...], "label": int32 [N]}; integers, such
      as token numbers, only where the data are a user's.
    test: the same of rows that are never trained on.
    num_classes: C; labels are in 0 .. C - 1.
    class_names: C names.
    columns: by name, an array [N] of any kind with an entry a training row;
      what a group request looks at. "label" always, the others are the user's.
    is_split_here: whether the rows were divided into training and test rows
      here, at random, rather than by whoever made the data.
    notes: what was done to make them fit, in sentences.
    pool: all rows, where they were divided here.
    unseen: of data with identities, rows of people that are in neither part.
    subclasses: of data in superclasses the number under "subclass" by name, see
      `datasets.superclasses`.
  """

  train: Rows
  test: Rows
  num_classes: int
  class_names: tuple[str, ...]
  columns: Mapping[str, np.ndarray]
  is_split_here: bool = False
  notes: tuple[str, ...] = ()
  pool: Pool | None = None
  unseen: Rows | None = None
  subclasses: Mapping[str, int] = MappingProxyType({})


def load(
  source: str,
  *,
  preset: str,
  data_dir: str | None = None,
  empty_classes: bool = False,
) -> Dataset:
  """Loads and checks a data set.

  Args:
    source: "digits", "breast-cancer", "cifar10", "adult", "npz:PATH", "csv:PATH",
      "parquet:PATH", "mufac", "mucac[:ATTRIBUTE]" or "faces:DIR".
    preset: "smoke", "quick" or "paper"; decides how many rows of CIFAR-10 and of
      Adult.
    data_dir: the folder with the files of CIFAR-10 and Adult; the environment
      variable JAXUNLEARN_DATA by default.
    empty_classes: whether a user's classes may lack rows, as one lacks them
      that an earlier request emptied. How many classes there are is then for
      the model to say; see `with_classes`.

  Raises:
    ValueError: an unknown source, or data that cannot be used, in one line.
  """
  kind, _, path = source.partition(":")
  if kind == "digits" and not path:
    return digits()
  if kind == "breast-cancer" and not path:
    return breast_cancer()
  if kind in ("mufac", "mucac", "faces"):
    from .datasets import faces

    return faces.load(source, preset, data_dir)
  folder = data_folder(data_dir)
  if kind == "cifar10" and not path:
    return cifar10(folder, CIFAR10_ROWS[preset])
  if kind == "adult" and not path:
    return adult(folder, ADULT_ROWS[preset])
  if kind == "npz" and path:
    found = from_npz(path)
    if not empty_classes:
      check_every_class(found, source)
    return found
  if kind in ("csv", "parquet") and path:
    from .datasets.own_tables import from_table

    return from_table(kind, path)
  raise ValueError(
    "Expected --data to be digits, breast-cancer, cifar10, adult, npz:PATH, "
    "csv:PATH, parquet:PATH, mufac, mucac or faces:DIR, got "
    f"{source!r}."
  )


def data_folder(data_dir: str | None) -> str | None:
  """The folder with data files: that given, else JAXUNLEARN_DATA, else None.

  Raises:
    ValueError: a path that is empty or cannot exist.
  """
  if data_dir is not None:
    return str(checked_path(data_dir, "--data-dir"))
  return os.environ.get("JAXUNLEARN_DATA") or None


def digits() -> Dataset:
  """scikit-learn's 1,797 images of 8x8 pixels, 70 % of them for training."""
  from sklearn.datasets import load_digits

  loaded = load_digits()
  x = (loaded.images[..., None] / 16).astype(np.float32)
  label = loaded.target.astype(np.int32)
  pool = Pool({"x": x, "label": label}, {}, 0.3)
  return pooled(pool, tuple(map(str, range(10))))


def cifar10(
  data_dir: str | None, rows: tuple[int, int] | None = None
) -> Dataset:
  """CIFAR-10, images of 32x32x3, normalised by channel.

  Args:
    data_dir: the folder with cifar10_train.npz and cifar10_test.npz (`jpeg`,
      `offsets`, `label`); None fetches through tensorflow-datasets.
    rows: training and test rows, as many of every class; None takes all.

  Raises:
    ValueError: files are missing or not of that form; nothing to fetch with.
  """
  parts = []
  for i, part in enumerate(("train", "test")):
    if data_dir is None:
      images, label = _tfds_cifar10(part)
      keep = _balanced(label, rows and rows[i])
      images, label = images[keep], label[keep]
    else:
      path = Path(data_dir) / f"cifar10_{part}.npz"
      images, label = _jpeg_images(path, rows and rows[i])
    x = (images.astype(np.float32) / 255 - CIFAR10_MEAN) / CIFAR10_STD
    parts.append({"x": x, "label": label.astype(np.int32)})
  return _dataset(parts[0], parts[1], CIFAR10_CLASSES)


def breast_cancer() -> Dataset:
  """scikit-learn's 569 tumours of 30 numbers, standardised, 70 % for training."""
  from sklearn.datasets import load_breast_cancer

  loaded = load_breast_cancer()
  rows = {"x": loaded.data, "label": loaded.target.astype(np.int32)}
  pool = Pool(rows, {}, 0.3, loaded.data.shape[1])
  return pooled(pool, tuple(map(str, loaded.target_names)))


def adult(data_dir: str | None, rows: tuple[int, int] | None = None) -> Dataset:
  """UCI Adult (1994 census): does a person earn more than 50,000 dollars?

  Five numbers, standardised (gains and losses of capital as log(1 + x)), and a 0
  or 1 for every value of seven columns of words, unknown ones ("?") included.
  Left out are fnlwgt, a weight of the census, and education, which
  education-num repeats.

  Args:
    data_dir: the folder with adult_train.csv; None is an error.
    rows: training and test rows, drawn at random, the same in every run; None
      takes all, 30 % of them for testing.

  Raises:
    ValueError: no folder, no such file, or a file of another form.
  """
  if data_dir is None:
    raise ValueError(
      "Expected --data-dir (or JAXUNLEARN_DATA) with the file adult_train.csv, "
      "got neither."
    )
  table = read_csv(
    Path(data_dir) / "adult_train.csv",
    (*ADULT_NUMBERS, *ADULT_WORDS, "income"),
  )
  label = np.array([v.startswith(">50K") for v in table["income"]], np.int32)
  try:
    numbers = np.array([table[name] for name in ADULT_NUMBERS], np.float64).T
  except ValueError as error:
    raise ValueError(
      f"Expected numbers in {', '.join(ADULT_NUMBERS)} of adult_train.csv, got "
      f"{error}."
    ) from error
  skewed = [ADULT_NUMBERS.index(name) for name in ADULT_NUMBERS[2:4]]
  numbers[:, skewed] = np.log1p(numbers[:, skewed])
  one_hot = [
    table[name][:, None] == np.unique(table[name])[None] for name in ADULT_WORDS
  ]
  x = np.concatenate([numbers, *one_hot], axis=1)
  # Of so many rows a preset takes some, the same in every run.
  order = np.random.default_rng(1).permutation(len(label))
  few = np.sort(order[: None if rows is None else sum(rows)])
  columns = {
    name: table[name][few] for name in (*ADULT_NUMBERS, *ADULT_WORDS, "income")
  }
  share = 0.3 if rows is None else rows[1] / sum(rows)
  pool = Pool(
    {"x": x[few], "label": label[few]}, columns, share, numbers.shape[1]
  )
  return pooled(pool, ("at most 50K", "more than 50K"))


def from_npz(path: str) -> Dataset:
  """A user's own data.

  Args:
    path: an .npz with `x` [N, ...], numbers, and `y` [N], whole numbers from 0
      on, also in a column [N, 1]; `x_test` and `y_test` if there are rows for
      testing, else a fifth of the rows, the same in every run, is set aside.
      Any other array [N] is a column for group requests. Integers stay
      integers, of 32 bits, but images of bytes, uint8 [N, H, W, channels],
      become floats.

  Returns:
    The data, with as many classes as the labels reach.

  Raises:
    ValueError: the file cannot be read, or its content cannot be used.
  """
  arrays = read_npz(path)
  for key in ("x", "y"):
    if key not in arrays:
      found = ", ".join(sorted(arrays)) or "none"
      raise ValueError(
        f"Expected {path} to have the keys x and y, got no {key} (keys: "
        f"{found})."
      )
  if ("x_test" in arrays) != ("y_test" in arrays):
    raise ValueError(
      f"Expected {path} to have both x_test and y_test or neither, got one."
    )
  x, label = _checked_rows(path, arrays, "x", "y")
  if len(np.unique(label)) < 2:
    raise ValueError(f"Expected y in {path} to have at least 2 classes, got 1.")
  notes = []
  if arrays["y"].ndim == 2:
    notes.append(
      f"The labels of {path} come in a column, which was taken apart."
    )
  columns = {
    name: array
    for name, array in arrays.items()
    if array.shape == label.shape and name not in ("x", "y", "y_test")
  }
  if "x_test" in arrays:
    x_test, y_test = _checked_rows(path, arrays, "x_test", "y_test")
    if x_test.shape[1:] != x.shape[1:]:
      raise ValueError(
        f"Expected x_test in {path} of shape [., {_sizes(x.shape[1:])}], that "
        f"of x, got [., {_sizes(x_test.shape[1:])}]."
      )
    if x.dtype != x_test.dtype:
      x, x_test = x.astype(np.float32), x_test.astype(np.float32)
    train, test = {"x": x, "label": label}, {"x": x_test, "label": y_test}
  else:
    pool = Pool({"x": x, "label": label}, columns, 0.2)
    names = tuple(map(str, range(int(label.max()) + 1)))
    made = pooled(pool, names)
    if len(np.unique(made.train["label"])) < len(np.unique(label)):
      raise ValueError(
        f"Expected y in {path} to have at least 2 rows of every class to set "
        "rows aside for testing, got fewer."
      )
    return made._replace(is_split_here=True, notes=tuple(notes))
  count = int(max(train["label"].max(), test["label"].max())) + 1
  made = _dataset(train, test, tuple(map(str, range(count))), columns)
  return made._replace(notes=tuple(notes))


def check_every_class(dataset: Dataset, source: str) -> None:
  """Raises a ValueError where a class of a source has no training row."""
  known = np.unique(dataset.train["label"])
  if known[0] != 0 or known[-1] != len(known) - 1:
    missing = np.setdiff1d(np.arange(known[-1]), known)[:1]
    gap = f" without {missing[0]}" if missing.size else ""
    hint = "; subtract 1 from labels that count from 1" if known[0] == 1 else ""
    raise ValueError(
      f"Expected y in {source} to be classes 0 .. {len(known) - 1} without gaps, "
      f"got {known[0]} .. {known[-1]}{gap}{hint}."
    )
  high = dataset.test["label"].max()
  if high > known[-1]:
    raise ValueError(
      f"Expected y_test in {source} in 0 .. {known[-1]}, the classes of y, got "
      f"{high}."
    )


def with_classes(dataset: Dataset, count: int, name: str) -> Dataset:
  """The data of a model of so many outputs; some classes may have no rows.

  Args:
    dataset: whose labels may reach less far.
    count: C.
    name: what has so many classes, for the error.

  Raises:
    ValueError: a label that the model has no output for.
  """
  for part, rows in (("y", dataset.train), ("y_test", dataset.test)):
    low, high = int(rows["label"].min()), int(rows["label"].max())
    if high >= count:
      hint = "; subtract 1 from labels that count from 1" if low == 1 else ""
      raise ValueError(
        f"Expected {name} to have an output for every class, labels of {part} "
        f"in 0 .. {count - 1}, got {low} .. {high}{hint}."
      )
  known = np.unique(dataset.train["label"])
  empty = np.setdiff1d(np.arange(count), known)
  if not empty.size:
    return dataset
  names = dataset.class_names + tuple(
    map(str, range(len(dataset.class_names), count))
  )
  shown = ", ".join(map(str, empty[:5])) + (" ..." if empty.size > 5 else "")
  note = (
    f"No training row is of class {shown}, of {count} that the model tells."
  )
  return dataset._replace(
    num_classes=count, class_names=names, notes=(*dataset.notes, note)
  )


def with_floats(dataset: Dataset) -> Dataset:
  """The same with inputs float32, for what computes with them."""
  as_float = lambda rows: {**rows, "x": rows["x"].astype(np.float32)}
  pool = dataset.pool
  return dataset._replace(
    train=as_float(dataset.train),
    test=as_float(dataset.test),
    pool=pool and pool._replace(rows=as_float(pool.rows)),
  )


def stratified_split(
  label: np.ndarray, test_share: float
) -> tuple[np.ndarray, np.ndarray]:
  """Row numbers for training and for testing, each class in proportion.

  Always the same ones: a seed of an experiment does not move them. A class of
  one row goes to training.
  """
  rng = np.random.default_rng(0)
  parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
  for c in np.unique(label):
    rows = rng.permutation(np.flatnonzero(label == c))
    count = min(max(1, round(test_share * len(rows))), len(rows) - 1)
    parts[0].append(rows[count:])
    parts[1].append(rows[:count])
  train, test = (np.sort(np.concatenate(part)) for part in parts)
  return train, test


def pooled(pool: Pool, class_names: tuple[str, ...]) -> Dataset:
  """A division of the rows that is the same in every run."""
  train, test = stratified_split(pool.rows["label"], pool.test_share)
  if not len(test):
    raise ValueError(
      f"Expected rows of one class to train and to test on, got {len(train)} "
      f"rows of {len(class_names)} classes."
    )
  return _dataset(
    pool.take(train, train),
    pool.take(test, train),
    class_names,
    {name: column[train] for name, column in pool.columns.items()},
  )._replace(pool=pool)


def _dataset(train, test, class_names, columns=None) -> Dataset:
  columns = {"label": train["label"], **(columns or {})}
  return Dataset(train, test, len(class_names), class_names, columns)


def _standardised(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
  """Columns of mean 0 and variance 1 over some rows; constant ones are 0."""
  spread = x[rows].std(axis=0)
  centred = x - x[rows].mean(axis=0)
  return (centred / np.where(spread > 0, spread, 1)).astype(np.float32)


def _checked_rows(
  path: str, arrays: Mapping[str, np.ndarray], x_name: str, y_name: str
) -> tuple[np.ndarray, np.ndarray]:
  x, y = arrays[x_name], arrays[y_name]
  if x.ndim < 2 or x.dtype.kind not in "fiub":
    raise ValueError(
      f"Expected {x_name} in {path} to be numbers of shape [N, ...], got "
      f"{x.dtype} of shape [{_sizes(x.shape)}]."
    )
  label = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
  is_whole = label.dtype.kind in "iub" or (
    label.dtype.kind == "f" and bool((label == np.floor(label)).all())
  )
  if label.ndim != 1 or not is_whole:
    raise ValueError(
      f"Expected {y_name} in {path} to be integers of shape [N], got "
      f"{y.dtype} of shape [{_sizes(y.shape)}]."
    )
  if len(x) != len(y) or len(x) == 0:
    raise ValueError(
      f"Expected {x_name} and {y_name} in {path} of one length above 0, got "
      f"{len(x)} and {len(y)}."
    )
  low, high = label.min(), label.max()
  if low < 0 or high >= MAX_CLASSES:
    raise ValueError(
      f"Expected {y_name} in {path} to be classes from 0 on, at most "
      f"{MAX_CLASSES}, got {low} .. {high}."
    )
  return checked_inputs(path, x, x_name), label.astype(np.int32)


def checked_inputs(path: str, x: np.ndarray, name: str) -> np.ndarray:
  """float32, or int32 where they are integers and no images."""
  if 0 in x.shape[1:]:
    raise ValueError(
      f"Expected {name} in {path} to have numbers in a row, got none: shape "
      f"{list(x.shape)}."
    )
  is_image = x.dtype == np.uint8 and x.ndim == 4
  if x.dtype.kind in "iu" and not is_image:
    limits = np.iinfo(np.int32)
    low, high = (int(x.min()), int(x.max())) if x.size else (0, 0)
    if low < limits.min or high > limits.max:
      bad = low if low < limits.min else high
      raise ValueError(
        f"Expected {name} in {path} of integers that 32 bits hold, got {bad}."
      )
    return x.astype(np.int32)
  with np.errstate(over="ignore"):  # What float32 does not hold is found below.
    x = x.astype(np.float32)
  bad = int(x.size - np.isfinite(x).sum())
  if bad:
    raise ValueError(
      f"Expected {name} in {path} to be finite, got {bad} values that are "
      "nan or infinite."
    )
  return x


def _sizes(shape: tuple[int, ...]) -> str:
  return ", ".join(map(str, shape))


def _balanced(label: np.ndarray, count: int | None) -> np.ndarray:
  """The first rows of every class, `count` altogether, in their order."""
  if count is None:
    return np.arange(len(label))
  classes = np.unique(label)
  each = max(1, count // len(classes))
  rows = [np.flatnonzero(label == c)[:each] for c in classes]
  return np.sort(np.concatenate(rows))


def _jpeg_images(
  path: Path, count: int | None
) -> tuple[np.ndarray, np.ndarray]:
  """uint8 [n, H, W, 3] and labels from JPEG files laid end to end."""
  try:
    from PIL import Image
  except ImportError as error:
    raise ValueError(
      "Expected Pillow for --data cifar10, got no such package; install "
      "jaxunlearn[experiments]."
    ) from error

  if not path.is_file():
    raise ValueError(
      f"Expected --data-dir with the file {path.name}, got {path.parent}, "
      "which has none."
    )
  arrays = read_npz(path)
  for key in ("jpeg", "offsets", "label"):
    if key not in arrays:
      raise ValueError(
        f"Expected {path} to have the keys jpeg, offsets and label, got no "
        f"{key}."
      )
  content, offsets, label = (arrays[k] for k in ("jpeg", "offsets", "label"))
  if len(offsets) != len(label) + 1:
    raise ValueError(
      f"Expected offsets in {path} to have one entry more than label, got "
      f"{len(offsets)} and {len(label)}."
    )
  rows = _balanced(label, count)
  images = []
  for i in rows:
    file = io.BytesIO(content[offsets[i] : offsets[i + 1]].tobytes())
    try:
      with Image.open(file) as image:
        images.append(np.asarray(image.convert("RGB")))
    except Exception as error:  # Damaged images raise many kinds.
      raise ValueError(
        f"Expected image {i} of {path} to be a JPEG, got {error}."
      ) from error
  return np.stack(images), label[rows]


def _tfds_cifar10(part: str) -> tuple[np.ndarray, np.ndarray]:
  try:
    import tensorflow_datasets as tfds
  except ImportError as error:
    raise ValueError(
      "Expected --data-dir (or JAXUNLEARN_DATA) with CIFAR-10, or the package "
      "tensorflow-datasets to fetch it (pip install 'jaxunlearn[datasets]'), got "
      "neither."
    ) from error
  try:
    rows = tfds.as_numpy(tfds.load("cifar10", split=part, batch_size=-1))
  except ModuleNotFoundError as error:  # Which it does not say that it wants.
    raise ValueError(
      f"Expected the package {error.name}, which tensorflow-datasets uses, got "
      f"none; pip install {error.name}, or give --data-dir with CIFAR-10."
    ) from error
  except Exception as error:  # No network, no space, a moved server.
    raise ValueError(
      "Expected tensorflow-datasets to fetch CIFAR-10, got "
      f"{type(error).__name__}: {error}; give --data-dir instead."
    ) from error
  return np.asarray(rows["image"]), np.asarray(rows["label"])
