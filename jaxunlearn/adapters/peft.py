"""Low-rank adapters in the folders of PEFT: adapter_config.json and safetensors.

    part, alpha = load("adapter", loaded.config)
    params = lora(rank=8, alpha=alpha).join(part, loaded.params)

Adapters are as `language.lora` has them, {path of a kernel: {"a" [layers, in, r],
"b" [layers, r, out]}}; the layer has W + (alpha / r) a b. Decoders of the Llama
kind: GPT-2 has q, k and v in one matrix, whose adapter is none of theirs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxunlearn.adapters.huggingface import (
  check_folder,
  read_json,
  shapes_of,
  write_json,
)
from jaxunlearn.adapters.huggingface_layouts import entries
from jaxunlearn.core import given
from jaxunlearn.models.decoder import DecoderConfig

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
Part = Mapping[str, Mapping[str, Any]]


def load(directory: Any, config: DecoderConfig) -> tuple[dict[str, Any], float]:
  """The adapters of a folder, and alpha.

  Args:
    directory: as PEFT writes it.
    config: of the decoder that they belong to.

  Raises:
    ValueError: in one line: a file is missing or broken, adapters of another
      kind, rank or shape, of other kernels or of some layers only.

  Example:
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from jaxunlearn.adapters import peft
    >>> from jaxunlearn.language import DecoderConfig
    >>> config = DecoderConfig(28, 16, 2, 2, 12, 12)
    >>> kernel = "blocks/attention/q/kernel"
    >>> adapter = {"a": np.ones((2, 16, 4)), "b": np.zeros((2, 4, 16))}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, "adapter")
    ...   peft.save(path, config, {kernel: adapter}, alpha=8.0)
    ...   part, alpha = peft.load(path, config)
    >>> part[kernel]["a"].shape, alpha
    ((2, 16, 4), 8.0)
  """
  from safetensors.numpy import load_file

  directory = given.path(directory)
  settings = read_json(directory / _CONFIG)
  _check_settings(settings)
  rank = int(settings["r"])
  # Rank-stabilised ones are divided by the root of the rank.
  alpha = float(settings["lora_alpha"])
  alpha *= rank**0.5 if settings.get("use_rslora") else 1.0
  path = directory / _WEIGHTS
  if not path.is_file():
    raise ValueError(f"Expected {_WEIGHTS} in {directory}, got no such file.")
  try:
    tensors = load_file(path)
  except Exception as error:  # Of a class of the package's own.
    raise ValueError(
      f"Expected {_WEIGHTS} to be a whole safetensors file, got {error}."
    ) from error
  shapes = shapes_of(config)
  found: dict[str, Any] = {}
  for kernel, name in _kernels(config).items():
    own: list[dict[str, Any]] = [
      {side: tensors.pop(_name(name, i, side), None) for side in "AB"}
      for i in range(config.num_layers)
    ]
    there = [layer["A"] is not None and layer["B"] is not None for layer in own]
    if not any(there):
      continue
    if not all(there):
      raise ValueError(
        f"Expected adapters of {name} in all {config.num_layers} layers, got "
        f"{sum(there)}."
      )
    _, size, out = shapes[kernel]
    for i, layer in enumerate(own):
      for side, want in (("A", (rank, size)), ("B", (out, rank))):
        if layer[side].shape != want:
          raise ValueError(
            f"Expected {_name(name, i, side)} of shape {want}, r={rank}, got "
            f"{layer[side].shape}."
          )
    stack = lambda side, own=own: np.stack([layer[side].T for layer in own])
    found[kernel] = {"a": stack("A"), "b": stack("B")}
  if tensors or not found:
    got = next(iter(tensors), "none")
    raise ValueError(f"Expected adapters of a decoder's kernels, got {got}.")
  return found, alpha


def save(
  directory: Any, config: DecoderConfig, part: Part, *, alpha: float
) -> None:
  """Writes a folder that `load` and PEFT read.

  Args:
    directory: new or empty.
    config: of the decoder.
    part: adapters by the path of their kernel.
    alpha: of the scale alpha / rank.

  Raises:
    ValueError: a folder with something in it, paths that are no kernels' of the
      decoder, or adapters of several ranks.

  Example:
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from jaxunlearn.adapters import peft
    >>> from jaxunlearn.language import DecoderConfig
    >>> config = DecoderConfig(28, 16, 2, 2, 12, 12)
    >>> kernel = "blocks/attention/q/kernel"
    >>> adapter = {"a": np.ones((2, 16, 4)), "b": np.zeros((2, 4, 16))}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, "adapter")
    ...   peft.save(path, config, {kernel: adapter}, alpha=8.0)
    ...   print(sorted(file.name for file in path.iterdir()))
    ['adapter_config.json', 'adapter_model.safetensors']
  """
  from safetensors.numpy import save_file

  directory = check_folder(directory)
  names = _kernels(config)
  unknown = [path for path in part if path not in names]
  if unknown or not part:
    got = unknown[0] if unknown else "none"
    raise ValueError(f"Expected adapters of {', '.join(names)}, got {got}.")
  ranks = {np.shape(own["a"])[-1] for own in part.values()}
  if len(ranks) > 1:
    raise ValueError(f"Expected adapters of one rank, got {sorted(ranks)}.")
  tensors = {}
  for path, own in part.items():
    for side, stacked in (("A", own["a"]), ("B", own["b"])):
      for i, leaf in enumerate(np.asarray(stacked)):
        name = _name(names[path], i, side)
        tensors[name] = np.ascontiguousarray(leaf.T)
  directory.mkdir(parents=True, exist_ok=True)
  save_file(tensors, directory / _WEIGHTS, metadata={"format": "pt"})
  settings = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": int(ranks.pop()),
    "lora_alpha": float(alpha),
    "lora_dropout": 0.0,
    "bias": "none",
    "target_modules": sorted({names[p].rpartition(".")[2] for p in part}),
  }
  write_json(directory / _CONFIG, settings)


def _check_settings(settings: Mapping[str, Any]) -> None:
  wanted: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_dora": (False, None),
    "fan_in_fan_out": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
  }
  for name, known in wanted.items():
    if settings.get(name) not in known:
      raise ValueError(
        f"Expected plain LoRA, {name}={known[0]!r}, got {settings.get(name)!r}."
      )
  for name in ("r", "lora_alpha"):
    found = settings.get(name)
    if not isinstance(found, int | float) or not 0 < found < math.inf:
      raise ValueError(f"Expected {name} > 0, got {found!r}.")


def _kernels(config: DecoderConfig) -> dict[str, str]:
  """Module of each kernel of the blocks, with {} for the layer."""
  if config.positions == "learned":
    raise ValueError("Expected a decoder of the Llama kind, got GPT-2's.")
  return {
    entry.paths[0]: re.sub(r"\.weight$", "", entry.name)
    for entry in entries(config)
    if entry.stacked and entry.paths[0].endswith("/kernel")
  }


def _name(module: str, layer: int, side: str) -> str:
  return f"{_PREFIX}{module.format(layer)}.lora_{side}.weight"
