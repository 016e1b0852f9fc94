"""Each mistake ends in one line and exit status 2, and leaves nothing behind."""

import subprocess
import sys

import numpy as np
import pytest

from experiments import forget


@pytest.fixture
def refuse(tmp_path, capsys, monkeypatch):
  """Runs the program on bad input; returns the line that it ends with."""

  def trained(*args):
    raise AssertionError("Training began.")

  monkeypatch.setattr(forget, "run", trained)

  def run(*argv, out=None):
    target = tmp_path / "made" / "out" if out is None else out
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as stopped:
      forget.main(["--preset", "smoke", "--out", str(target), *argv])
    assert stopped.value.code == 2
    assert sorted(tmp_path.rglob("*")) == before
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    return lines[0]

  return run


@pytest.mark.parametrize(
  ("argv", "words"),
  [
    (["--request", "class:12"], ["--request class:12", "0 .. 9", "got 12"]),
    (["--request", "class:-1"], ["--request", "0 .. 9", "got -1"]),
    (["--request", "class:three"], ["--request", "integers", "'three'"]),
    (["--request", "class:"], ["--request", "class:3,5", "'class:'"]),
    (["--request", "klass:3"], ["--request", "class:3,5", "'klass:3'"]),
    (["--request", "random:0"], ["--request", "in (0, 1)", "'0'"]),
    (["--request", "random:1"], ["--request", "in (0, 1)", "'1'"]),
    (["--request", "random:x"], ["--request", "a share", "'x'"]),
    (["--request", "random:nan"], ["--request", "in (0, 1)", "nan"]),
    (["--request", "random:0.0001"], ["--request", "empty request"]),
    (
      ["--request", "class:0,1,2,3,4,5,6,7,8,9"],
      ["--request", "covers all 1167 rows"],
    ),
    (["--request", "group:age=3"], ["--request", "label", "'age=3'"]),
    (["--request", "group:label=x"], ["--request", "a number", "'x'"]),
    (
      ["--request", "group:label=77"],
      ["--request", "a group", "77", "nearest are 7, 8, 9"],
    ),
    (["--request", "index:/nowhere"], ["--request", "no such file"]),
    (["--request", "class:1;klass:3"], ["--request", "'klass:3'"]),
    (["--request", "class:1;class:12"], ["--request class:12", "got 12"]),
    (["--request", "class:1; class:1"], ["--request", "'class:1' twice"]),
    (["--request", ";"], ["--request", "class:3,5", "';'"]),
    (["--sequence"], ["--sequence", "several", "'class:3' alone"]),
    (
      ["--sequence", "--request", "class:1,2;class:2"],
      ["--sequence", "add rows", "'class:2'"],
    ),
    (
      ["--sequence", "--request", "class:0,1,2,3,4;class:5,6,7,8,9"],
      ["--sequence", "2 that together cover all 1167 rows"],
    ),
    (["--methods", "unsirr"], ["--methods", "'unsirr'", "'unsir'?"]),
    (["--methods", "finetune,badteacher"], ["--methods", "'bad_teacher'?"]),
    (["--methods", ","], ["--methods", "','"]),
    (
      ["--methods", "ssd,gkt", "--request", "random:0.1"],
      ["--methods without gkt", "rows of every class"],
    ),
    (["--data", "mnist"], ["--data", "digits", "'mnist'"]),
    (["--data", "npz:/nowhere.npz"], ["/nowhere.npz", "no such file"]),
    (
      ["--data", "cifar10", "--data-dir", "/nowhere"],
      ["--data-dir", "cifar10_train.npz", "/nowhere"],
    ),
    (["--model", "transformer"], ["--model", "mlp", "'transformer'"]),
    (["--model", "no_such_module:f"], ["--model", "'no_such_module'"]),
    (["--model", "own_models:nothing"], ["--model", "'nothing'"]),
    (["--model", "own_models:no_module"], ["--model", "linen module", "int"]),
    (["--model", "own_models:wrong_size"], ["--model", "logits", "10"]),
    (["--checkpoint", "/nowhere"], ["--checkpoint", "does not exist"]),
    (["--seeds", "0"], ["--seeds", "> 0", "got 0"]),
    (["--train-steps", "-5"], ["--train-steps", "> 0", "got -5"]),
    (["--learning-rate", "nan"], ["--learning-rate", "> 0", "nan"]),
    (["--batch-size", "0"], ["--batch-size", "> 0", "got 0"]),
    (["--strategy", "pmap"], ["--strategy", "vmap", "'pmap'"]),
  ],
)
def test_a_bad_option_is_named_with_found_and_wanted(refuse, argv, words):
  line = refuse(*argv)
  for word in words:
    assert word in line, line


@pytest.mark.parametrize(
  ("change", "words"),
  [
    ({"x": None}, ["keys x and y", "no x"]),
    ({"y": None}, ["keys x and y", "no y"]),
    ({"x": np.full((120, 4), np.nan)}, ["x in", "finite", "480 values"]),
    ({"x": np.full((120, 4), np.inf)}, ["x in", "finite", "480 values"]),
    ({"x": np.ones((100, 4))}, ["x and y", "100 and 120"]),
    ({"x": np.ones(120)}, ["x in", "[N, ...]", "[120]"]),
    ({"x": np.full((120, 4), "a")}, ["x in", "numbers", "<U1"]),
    ({"y": np.arange(120) / 7}, ["y in", "integers", "float64"]),
    ({"y": np.arange(120) % 3 - 1}, ["y in", "from 0 on", "-1 .. 1"]),
    ({"y": np.arange(120) % 3 * 2}, ["y in", "gaps", "0 .. 4"]),
    ({"y": np.zeros(120, int)}, ["y in", "at least 2 classes", "got 1"]),
    ({"y": np.zeros((120, 3), int)}, ["y in", "[N]", "[120, 3]"]),
    ({"x_test": np.ones((5, 4))}, ["x_test and y_test", "got one"]),
    (
      {"x_test": np.ones((5, 4)), "y_test": np.full(5, 3)},
      ["y_test", "0 .. 2", "got 3"],
    ),
    (
      {"x_test": np.ones((5, 6)), "y_test": np.ones(5, int)},
      ["x_test", "[., 4]", "[., 6]"],
    ),
    ({"y": np.array([0, 1, 2] * 40, object)}, ["Python objects", "'y'"]),
  ],
)
def test_unusable_data_is_named(refuse, blobs, tmp_path, change, words):
  path = tmp_path / "own.npz"
  arrays = {k: v for k, v in {**blobs, **change}.items() if v is not None}
  np.savez(path, **arrays)
  line = refuse("--data", f"npz:{path}", "--request", "class:1")
  for word in (str(path), *words):
    assert word in line, line


def test_a_file_that_is_no_archive_is_named(refuse, tmp_path):
  path = tmp_path / "own.npz"
  path.write_bytes(b"not an archive")
  assert "to be an .npz file" in refuse("--data", f"npz:{path}")


@pytest.mark.parametrize(
  ("rows", "words"),
  [
    (np.zeros(1797, bool), ["empty request"]),
    (np.ones(1797, bool), ["at most half of 1797 rows, got 1797"]),
    (np.array([3, 1797]), ["0 .. 1796", "got 1797"]),
    (np.array([], int), ["empty request"]),
  ],
)
def test_a_bad_list_of_rows_is_named(refuse, tmp_path, rows, words):
  path = tmp_path / "rows.npy"
  np.save(path, rows)
  line = refuse("--request", f"index:{path}")
  for word in ("--request", *words):
    assert word in line, line


def test_a_checkpoint_needs_test_rows_of_their_own(refuse, blobs, tmp_path):
  np.savez(tmp_path / "own.npz", **blobs)
  line = refuse(
    *("--data", f"npz:{tmp_path / 'own.npz'}"),
    *("--request", "class:1", "--checkpoint", str(tmp_path)),
  )
  assert "x_test and y_test" in line


def test_a_checkpoint_of_another_model_is_named(refuse, blobs, tmp_path):
  import jax
  import orbax.checkpoint as ocp

  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / "other", {"a": jax.numpy.ones(3)})
  line = refuse("--checkpoint", str(tmp_path / "other"))
  assert "--checkpoint" in line and "missing" in line


def test_an_output_that_is_a_file_is_named(refuse, tmp_path):
  path = tmp_path / "taken"
  path.write_text("mine")
  line = refuse(out=path)
  assert "--out" in line and "taken" in line
  assert path.read_text() == "mine"
  assert "--out" in refuse(out=path / "below")


@pytest.mark.slow
def test_the_program_itself_ends_with_status_2(tmp_path):
  done = subprocess.run(
    [sys.executable, "-m", "experiments.forget", "--request", "class:12"]
    + ["--out", str(tmp_path / "out")],
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert done.returncode == 2
  assert done.stdout == ""
  assert done.stderr.splitlines()[-1].startswith("error: --request class:12")
  assert len(done.stderr.splitlines()) == 1
  assert not (tmp_path / "out").exists()
