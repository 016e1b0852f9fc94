"""Atomic writing and strict JSON."""

import dataclasses
import enum
import json
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from refusals import refused

from jaxunlearn.report import files


class Colour(enum.Enum):
  RED = 1


@dataclasses.dataclass(frozen=True)
class Config:
  rate: float = 0.5
  sizes: tuple[int, ...] = (8, 4)
  folder: Path = Path("some/where")


def test_a_written_file_holds_the_content_and_nothing_stays_beside_it(tmp_path):
  path = files.write_text(tmp_path / "new" / "a.txt", "äö\n")
  assert path.read_bytes() == "äö\n".encode()
  assert os.listdir(path.parent) == ["a.txt"]
  files.write_bytes(path, b"\x00\x01")
  assert path.read_bytes() == b"\x00\x01"


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_a_failure_midway_keeps_the_old_file_and_leaves_nothing(
  tmp_path, monkeypatch, stage
):
  path = files.write_text(tmp_path / "a.txt", "old")

  def fail(*args):
    raise KeyboardInterrupt

  monkeypatch.setattr(os, stage, fail)
  with pytest.raises(KeyboardInterrupt):
    files.write_text(path, "new")
  monkeypatch.undo()
  assert path.read_text() == "old"
  assert os.listdir(tmp_path) == ["a.txt"]


def test_a_value_without_a_form_in_json_writes_no_file(tmp_path):
  with pytest.raises(ValueError, match=r"value\.deep\[1\].*got object"):
    files.write_json(tmp_path / "a.json", {"deep": [1, object()]})
  assert os.listdir(tmp_path) == []


def test_nan_and_infinities_become_null(tmp_path):
  value = {
    "a": float("nan"),
    "b": [np.inf, -np.inf, 1.5],
    "c": np.array([np.nan, 2.0], np.float32),
    "d": jnp.array([1.0, jnp.inf], jnp.bfloat16),
  }
  path = files.write_json(tmp_path / "a.json", value)

  def reject(name):
    raise AssertionError(name)

  assert json.loads(path.read_text(), parse_constant=reject) == {
    "a": None,
    "b": [None, None, 1.5],
    "c": [None, 2.0],
    "d": [1.0, None],
  }


def test_plain_takes_what_a_configuration_holds():
  value = {
    "config": Config(),
    "colour": Colour.RED,
    "count": np.int64(3),
    "flag": np.bool_(True),
    1: None,
  }
  assert files.plain(value) == {
    "config": {"rate": 0.5, "sizes": [8, 4], "folder": "some/where"},
    "colour": "RED",
    "count": 3,
    "flag": True,
    "1": None,
  }


def test_keys_that_become_the_same_text_are_rejected():
  refused("distinct keys", files.plain, {1: "a", "1": "b"}, "config")
  refused("keys of text, got tuple", files.plain, {(1, 2): "a"}, "config")


def test_arrays_without_numbers_are_rejected():
  refused("array of numbers, got complex", files.plain, np.array([1j]), "rows")


def test_text_with_half_a_surrogate_can_be_written(tmp_path):
  path = files.write_json(tmp_path / "a.json", {"file": "x\udcff"})
  assert json.loads(path.read_text()) == {"file": "x\udcff"}


def test_check_writable_makes_the_folder_and_leaves_it_empty(tmp_path):
  path = files.check_writable(tmp_path / "a" / "b")
  assert path.is_dir()
  assert os.listdir(path) == []


@pytest.mark.parametrize("below", ["", "deeper"])
def test_check_writable_rejects_a_file_in_the_way(tmp_path, below):
  (tmp_path / "file").write_text("")
  with pytest.raises(
    ValueError, match=r"Expected out to be a writable directory, got .*file"
  ):
    files.check_writable(tmp_path / "file" / below)


def test_check_writable_rejects_a_folder_that_takes_no_file(
  tmp_path, monkeypatch
):
  def refuse(*args, **kwargs):
    raise PermissionError(13, "Permission denied")

  monkeypatch.setattr("builtins.open", refuse)
  refused(r"\(Permission denied\)", files.check_writable, tmp_path)


def test_check_writable_does_not_take_nothing_for_the_working_folder():
  refused("got an empty path", files.check_writable, "")


def test_check_writable_rejects_a_path_that_cannot_exist():
  refused("writable directory", files.check_writable, "a\0b")
