"""Decoders in the folders of Hugging Face: config.json, safetensors, tokenizer.

    loaded = load("SmolLM2-135M")
    lm = language_model(loaded.config)
    variables = Variables(loaded.params)
    ...
    save("forgotten", loaded.config, variables.params, like=loaded)

GPT-2, Llama 1 to 3, SmolLM2, Mistral, Qwen2 and Qwen3, also in shards. A folder
that is read and written again has the same bits. Nothing is fetched, and no code
of a folder is run. `huggingface_layouts` has the names of the weights, `peft` the
adapters. Needs the extra `language`.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxunlearn.adapters.huggingface_files import check_folder as check_folder
from jaxunlearn.adapters.huggingface_files import (
  check_tokenizer as check_tokenizer,
)
from jaxunlearn.adapters.huggingface_files import (
  load_tokenizer as load_tokenizer,
)
from jaxunlearn.adapters.huggingface_files import read_json as read_json
from jaxunlearn.adapters.huggingface_files import read_text as read_text
from jaxunlearn.adapters.huggingface_files import write_json as write_json
from jaxunlearn.adapters.huggingface_layouts import (
  Entry,
  config_of,
  entries,
  is_ignored,
  settings_of,
)
from jaxunlearn.core import given
from jaxunlearn.core.types import PyTree
from jaxunlearn.models.decoder import Decoder, DecoderConfig

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_TOKENIZER, _CONFIG = "tokenizer.json", "config.json"
# Small files that others need and that are passed on as they are.
_PASSED_ON = (
  *("chat_template.jinja", "generation_config.json"),
  *("special_tokens_map.json", "tokenizer_config.json"),
)
# Likewise, but they repeat a tokenizer and go with it alone.
_VOCABULARY = ("added_tokens.json", "merges.txt", "vocab.json")


class Pretrained(NamedTuple):
  """A decoder that was trained elsewhere.

  Attributes:
    config: its sizes and switches.
    params: as `models.decoder` has them, NumPy arrays.
    tokenizer: of the package `tokenizers`; None where there was none.
    settings: config.json as it was.
    files: further texts by name, passed on.
  """

  config: DecoderConfig
  params: PyTree
  tokenizer: Any = None
  settings: Mapping[str, Any] | None = None
  files: Mapping[str, str] = {}


def load(directory: Any, *, dtype: Any = None) -> Pretrained:
  """Reads a folder.

  Args:
    directory: with config.json, model.safetensors (or its index and shards) and,
      where there is one, tokenizer.json.
    dtype: of the weights; None is the folder's own.

  Raises:
    ValueError: in one line: a file is missing or broken, the layout is not known,
      weights are missing, of another shape or of no use, the tokenizer has more
      tokens than the model.

  Example:
    >>> import pathlib, tempfile
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.adapters import huggingface
    >>> from jaxunlearn.language import DecoderConfig
    >>> params = toy.decoder().variables.params
    >>> config = DecoderConfig(28, 16, 2, 2, 12, 12, tied_embeddings=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, "model")
    ...   huggingface.save(path, config, params)
    ...   loaded = huggingface.load(path)
    >>> loaded.config == config, loaded.params["embed"]["embedding"].shape
    (True, (28, 16))
  """
  directory = given.path(directory)
  settings = read_json(directory / _CONFIG)
  config = config_of(settings)
  tensors = _Tensors(directory)
  params: dict[str, Any] = {}
  for entry in entries(config):
    for path, leaf in zip(entry.paths, _read(tensors, entry, config)):
      _put(params, path, leaf if dtype is None else leaf.astype(dtype))
  unused = [n for n in tensors.unused() if not is_ignored(n, config)]
  if unused:
    raise ValueError(
      f"Expected weights of a decoder of the kind {settings['model_type']!r}, "
      f"got {unused[0]} besides."
    )
  check_params(params, config)
  tokenizer = None
  if (directory / _TOKENIZER).exists():
    tokenizer = load_tokenizer(directory / _TOKENIZER, config)
  files = {
    name: read_text(directory / name)
    for name in (*_PASSED_ON, *_VOCABULARY)
    if (directory / name).exists()
  }
  return Pretrained(config, params, tokenizer, settings, files)


def save(
  directory: Any,
  config: DecoderConfig,
  params: PyTree,
  tokenizer: Any = None,
  *,
  like: Pretrained | None = None,
  max_shard_bytes: int = 5_000_000_000,
) -> None:
  """Writes a folder that `load` and transformers read.

  Args:
    directory: new or empty.
    config: of the decoder.
    params: its parameters, in their own dtype.
    tokenizer: of the package `tokenizers`, or None.
    like: what the model was loaded as: its config.json, tokenizer and small files
      are written again where nothing else is given.
    max_shard_bytes: larger weights are written in several files.

  Raises:
    ValueError: params of another shape, a folder with something in it, a
      tokenizer that does not fit, a config that none of the layouts has.

  Example:
    >>> import pathlib, tempfile
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.adapters import huggingface
    >>> from jaxunlearn.language import DecoderConfig
    >>> params = toy.decoder().variables.params
    >>> config = DecoderConfig(28, 16, 2, 2, 12, 12, tied_embeddings=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, "model")
    ...   huggingface.save(path, config, params)
    ...   print(sorted(file.name for file in path.iterdir()))
    ['config.json', 'model.safetensors']
  """
  directory = check_folder(directory)
  check_params(params, config)
  settings = settings_of(config)
  files = dict(like.files) if like else {}
  if like is not None:
    if tokenizer is not None and tokenizer is not like.tokenizer:
      files = {n: text for n, text in files.items() if n not in _VOCABULARY}
    tokenizer = like.tokenizer if tokenizer is None else tokenizer
    if like.settings and config_of(like.settings) == _plain(config):
      settings = dict(like.settings)
  if tokenizer is not None:
    check_tokenizer(tokenizer, config)
  key = "torch_dtype" if "torch_dtype" in settings else "dtype"
  settings[key] = np.dtype(jax.tree.leaves(params)[0].dtype).name
  directory.mkdir(parents=True, exist_ok=True)
  _write(directory, dict(_named(config, params)), max_shard_bytes)
  for name, text in files.items():
    (directory / name).write_bytes(text.encode())
  if tokenizer is not None:
    tokenizer.save(str(directory / _TOKENIZER))
  write_json(directory / _CONFIG, settings)


def check_params(params: PyTree, config: DecoderConfig) -> None:
  """Params have the tree and the shapes of the decoder.

  Raises:
    ValueError: the first that has not.

  Example:
    >>> from jaxunlearn import toy
    >>> from jaxunlearn.adapters import huggingface
    >>> from jaxunlearn.language import DecoderConfig
    >>> params = toy.decoder().variables.params  # Of a vocabulary of 28.
    >>> one, other = (
    ...   DecoderConfig(size, 16, 2, 2, 12, 12, tied_embeddings=False)
    ...   for size in (28, 30))
    >>> huggingface.check_params(params, one)
    >>> huggingface.check_params(params, other)
    Traceback (most recent call last):
      ...
    ValueError: Expected embed/embedding of shape (30, 16), got (28, 16).
  """
  wanted = shapes_of(config)
  found = {path: np.shape(leaf) for path, leaf in _flat(params)}
  for path in [*wanted, *(p for p in found if p not in wanted)]:
    want, got = wanted.get(path, "nothing"), found.get(path, "nothing")
    if want != got:
      raise ValueError(f"Expected {path} of shape {want}, got {got}.")


class _Tensors:
  """The weights of a folder by name, whichever file they are in."""

  def __init__(self, directory: pathlib.Path):
    from safetensors import safe_open

    index = directory / _INDEX
    if index.exists():
      names = read_json(index).get("weight_map")
      if not isinstance(names, dict) or not names:
        raise ValueError(f"Expected a weight_map in {index}, got none.")
      files = sorted({str(name) for name in names.values()})
    else:
      files = [_WEIGHTS]
    # A name with a folder in it would read from elsewhere.
    there = lambda f: (
      pathlib.PurePath(f).name == f and (directory / f).is_file()
    )
    missing = [f for f in files if not there(f)]
    if missing:
      raise ValueError(
        f"Expected {missing[0]} in {directory}, got {len(files) - len(missing)} "
        f"of {len(files)} files of weights."
      )
    self._of: dict[str, Any] = {}
    self._used: set[str] = set()
    for file in files:
      try:
        opened = safe_open(directory / file, framework="numpy")
      except Exception as error:  # Of a class of the package's own.
        raise ValueError(
          f"Expected {file} to be a whole safetensors file, got {error}."
        ) from error
      self._of |= dict.fromkeys(opened.keys(), opened)

  def __contains__(self, name: str) -> bool:
    return name in self._of

  def check(self, name: str) -> str:
    if name not in self._of:
      raise ValueError(f"Expected weights {name}, got none of that name.")
    return name

  def get(self, name: str) -> np.ndarray:
    self._used.add(name)
    return self._of[name].get_tensor(name)

  def unused(self) -> list[str]:
    return sorted(set(self._of) - self._used)


def _read(
  tensors: _Tensors, entry: Entry, config: DecoderConfig
) -> Iterator[np.ndarray]:
  """The arrays of an entry's paths; those of all layers stacked."""
  names: list[str] = []
  for name in entry.names(config):
    # The first releases of GPT-2 have no prefix.
    short = name.partition(".")[2]
    old = name not in tensors and short in tensors
    # All are looked for before there is room for any: config.json may say
    # any number of layers.
    names.append(tensors.check(short if old else name))
  parts: list[np.ndarray] = []
  for layer, name in enumerate(names):
    leaf = tensors.get(name)
    pieces = entry.split(leaf, config)
    if not entry.stacked:
      yield from pieces
      return
    if not parts:
      # Filled one by one: no more than one layer is there twice.
      parts = [np.empty((len(names), *p.shape), p.dtype) for p in pieces]
    for part, piece in zip(parts, pieces):
      if piece.shape != part.shape[1:] or piece.dtype != part.dtype:
        raise ValueError(
          f"Expected {name} of shape {part.shape[1:]} and {part.dtype}, got "
          f"{piece.shape} and {piece.dtype}."
        )
      part[layer] = piece
  yield from parts


def _named(
  config: DecoderConfig, params: PyTree
) -> Iterator[tuple[str, np.ndarray]]:
  """Weights under the names of the layout."""
  leaves = dict(_flat(params))
  for entry in entries(config):
    parts = [np.asarray(leaves[path]) for path in entry.paths]
    for layer, name in enumerate(entry.names(config)):
      own = [part[layer] for part in parts] if entry.stacked else parts
      yield name, entry.join(own)


def _write(
  directory: pathlib.Path, tensors: dict[str, np.ndarray], most: int
) -> None:
  from safetensors.numpy import save_file

  shards: list[dict[str, np.ndarray]] = [{}]
  for name, leaf in tensors.items():
    size = sum(held.nbytes for held in shards[-1].values())
    if shards[-1] and size + leaf.nbytes > most:
      shards.append({})
    shards[-1][name] = np.ascontiguousarray(leaf)
  whole = len(shards) == 1
  files = [
    _WEIGHTS if whole else f"model-{i:05d}-of-{len(shards):05d}.safetensors"
    for i in range(1, len(shards) + 1)
  ]
  for file, shard in zip(files, shards):
    save_file(shard, directory / file, metadata={"format": "pt"})
  if not whole:
    total = sum(leaf.nbytes for leaf in tensors.values())
    index = {n: file for file, shard in zip(files, shards) for n in shard}
    content = {"metadata": {"total_size": total}, "weight_map": index}
    write_json(directory / _INDEX, content)


def _plain(config: DecoderConfig) -> DecoderConfig:
  """Without what a folder does not say."""
  import dataclasses

  return dataclasses.replace(
    config, dtype=None, embedding_std=0.02, remat=False
  )


def shapes_of(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
  """Of a decoder's parameters, by path.

  Example:
    >>> from jaxunlearn.adapters import huggingface
    >>> from jaxunlearn.language import DecoderConfig
    >>> shapes = huggingface.shapes_of(DecoderConfig(28, 16, 2, 2, 12, 12))
    >>> shapes["embed/embedding"], shapes["blocks/mlp/up/kernel"]
    ((28, 16), (2, 16, 12))
  """
  tokens = np.zeros((1, 1), np.int32)
  init = lambda: Decoder(config).init(jax.random.key(0), tokens)["params"]
  return {path: leaf.shape for path, leaf in _flat(jax.eval_shape(init))}


def _flat(params: PyTree) -> list[tuple[str, Any]]:
  found = jax.tree_util.tree_leaves_with_path(params)
  name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
  return [(name(path), leaf) for path, leaf in found]


def _put(tree: dict[str, Any], path: str, leaf: Any) -> None:
  *outer, last = path.split("/")
  for name in outer:
    tree = tree.setdefault(name, {})
  tree[last] = leaf
