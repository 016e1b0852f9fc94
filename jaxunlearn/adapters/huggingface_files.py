"""The small files of a Hugging Face folder: JSON, texts and tokenizers."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxunlearn.core import given
from jaxunlearn.models.decoder import DecoderConfig


def check_folder(directory: Any) -> pathlib.Path:
  """A folder that can be written to: new, or empty.

  Raises:
    ValueError: it is neither.

  Example:
    >>> import pathlib, tempfile
    >>> from jaxunlearn.adapters import huggingface
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   print(huggingface.check_folder(pathlib.Path(folder, "new")).name)
    new
  """
  directory = given.path(directory)
  if directory.exists() and not directory.is_dir():
    raise ValueError(f"Expected {directory} to be a folder, got a file.")
  if directory.exists() and any(directory.iterdir()):
    raise ValueError(f"Expected {directory} to be new or empty, got files.")
  return directory


def load_tokenizer(path: Any, config: DecoderConfig | None = None) -> Any:
  """The tokenizer of a tokenizer.json, whose tokens a model must have.

  Raises:
    ValueError: no such file, no tokenizer, more tokens than the model's.

  Example:
    >>> import pathlib, tempfile
    >>> import tokenizers
    >>> from jaxunlearn.adapters import huggingface
    >>> words = tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, "tokenizer.json")
    ...   tokenizers.Tokenizer(words).save(str(path))
    ...   tokenizer = huggingface.load_tokenizer(path)
    >>> tokenizer.encode("b").ids
    [1]
  """
  from tokenizers import Tokenizer

  path = given.path(path, "path")
  if not path.is_file():
    raise ValueError(f"Expected a tokenizer in {path}, got no such file.")
  try:
    tokenizer = Tokenizer.from_file(str(path))
  except Exception as error:  # The package raises nothing more special.
    reason = str(error).splitlines()[0]
    raise ValueError(
      f"Expected {path} to be a tokenizer.json, got {reason}."
    ) from error
  if config is not None:
    check_tokenizer(tokenizer, config)
  return tokenizer


def check_tokenizer(tokenizer: Any, config: DecoderConfig) -> None:
  """A tokenizer has no tokens that the decoder has not.

  Raises:
    ValueError: it has.

  Example:
    >>> import tokenizers
    >>> from jaxunlearn.adapters import huggingface
    >>> from jaxunlearn.language import DecoderConfig
    >>> words = tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a")
    >>> tokenizer = tokenizers.Tokenizer(words)
    >>> huggingface.check_tokenizer(tokenizer, DecoderConfig(2, 4, 1, 1, 4, 8))
    >>> huggingface.check_tokenizer(tokenizer, DecoderConfig(1, 4, 1, 1, 4, 8))
    Traceback (most recent call last):
      ...
    ValueError: Expected a tokenizer of at most vocab_size=1 tokens, got 2.
  """
  size = tokenizer.get_vocab_size()
  if size > config.vocab_size:
    raise ValueError(
      f"Expected a tokenizer of at most vocab_size={config.vocab_size} tokens, "
      f"got {size}."
    )


def read_json(path: pathlib.Path) -> dict[str, Any]:
  """A JSON object of a file.

  Raises:
    ValueError: there is no such file, or something else in it.

  Example:
    >>> import pathlib, tempfile
    >>> from jaxunlearn.adapters import huggingface
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, "config.json")
    ...   huggingface.write_json(path, {"model_type": "llama"})
    ...   print(huggingface.read_json(path))
    {'model_type': 'llama'}
  """
  if not path.is_file():
    raise ValueError(
      f"Expected {path.name} in {path.parent}, got no such file."
    )
  text = read_text(path)
  try:
    found = json.loads(text)
  except (json.JSONDecodeError, RecursionError) as error:
    raise ValueError(f"Expected {path} to be JSON, got {error}.") from error
  if not isinstance(found, dict):
    raise ValueError(
      f"Expected an object in {path}, got {type(found).__name__}."
    )
  return found


def read_text(path: pathlib.Path) -> str:
  """A text as it is there, ends of lines too.

  Raises:
    ValueError: it is no UTF-8.

  Example:
    >>> import pathlib, tempfile
    >>> from jaxunlearn.adapters import huggingface
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, "merges.txt")
    ...   _ = path.write_bytes(b"a b")
    ...   print(huggingface.read_text(path))
    a b
  """
  try:
    return path.read_bytes().decode()
  except UnicodeDecodeError as error:
    raise ValueError(f"Expected {path} to be UTF-8, got {error}.") from error


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
  """As transformers writes it.

  Example:
    >>> import pathlib, tempfile
    >>> from jaxunlearn.adapters import huggingface
    >>> with tempfile.TemporaryDirectory() as folder:
    ...   path = pathlib.Path(folder, "config.json")
    ...   huggingface.write_json(path, {"model_type": "llama"})
    ...   print(path.read_text())
    {
      "model_type": "llama"
    }
  """
  text = json.dumps(content, indent=2, sort_keys=True)
  path.write_text(text + "\n", encoding="utf-8")
