"""A run's folder: switched once, swept, and never at the cost of others."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import pytest
from refusals import refused
from staging_child import NAMES, STEPS, write

from experiments import common, staging


def texts(out):
  return {
    path.relative_to(out).as_posix(): path.read_text()
    for path in sorted(out.rglob("*"))
    if path.is_file() and path.name != staging.MANIFEST
  }


def hidden(folder):
  return [path.name for path in folder.iterdir() if path.name[0] == "."]


@pytest.fixture
def out(tmp_path):
  return tmp_path / "runs" / "out"


def test_a_run_replaces_the_one_before_and_nothing_else(out):
  write(out, "old")
  (out / "notes.txt").write_text("mine")
  (out / "folder").mkdir()
  (out / "folder" / "data").write_text("mine")
  write(out, "new", ("report.html", "params/b"))
  assert texts(out) == {
    "folder/data": "mine",
    "notes.txt": "mine",
    "params/b": "new",
    "report.html": "new",
  }
  assert hidden(out.parent) == []


@pytest.mark.parametrize(
  "name", ["report.html", "params/mine/weights.bin", "plots/thesis.pdf"]
)
def test_files_of_others_are_refused_before_the_work(out, name):
  path = out / name
  path.parent.mkdir(parents=True)
  path.write_text("precious")
  refused("files of others", write, out, "new")
  assert texts(out) == {name: "precious"} and hidden(out.parent) == []


@pytest.mark.parametrize("change", ["added", "edited"])
def test_a_users_work_among_the_results_is_not_replaced(out, change):
  write(out, "old")
  path = out / ("plots/mine.png" if change == "added" else "report.html")
  path.write_text("a user's own words")
  refused(path.name, write, out, "new")
  assert path.read_text() == "a user's own words"


def test_results_that_find_files_of_others_at_the_end_are_kept(out):
  with (
    pytest.raises(ValueError, match="The results are in") as found,
    staging.staged_output(out) as folder,
  ):
    (folder / "odd.txt").write_text("new")
    out.mkdir()
    (out / "odd.txt").write_text("mine")
  assert texts(out) == {"odd.txt": "mine"}
  kept = [path for path in out.parent.iterdir() if path != out]
  assert texts(kept[0]) == {"odd.txt": "new"}
  assert str(kept[0]) in str(found.value)


def test_a_failure_leaves_everything_as_it_was(out):
  with pytest.raises(KeyError), staging.staged_output(out):
    raise KeyError
  assert not out.parent.exists()


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
  folder = tmp_path_factory.mktemp("killed")
  child = pathlib.Path(__file__).with_name("staging_child.py")
  root = pathlib.Path(__file__).parents[2]
  subprocess.run(
    [sys.executable, str(child), str(folder)],
    check=True,
    timeout=300,
    env={**os.environ, "PYTHONPATH": str(root)},
  )
  return folder


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("step", STEPS)
def test_a_kill_leaves_the_old_or_the_new_and_is_swept(killed, step, is_first):
  out = killed / f"{step}-{is_first}" / "out"
  # Between two renames, where folders cannot be exchanged, there is no folder.
  if out.exists():
    assert set(texts(out).values()) - {"mine"} in ({"old"}, {"new"})
  else:
    assert is_first or step == "rename"
  write(out, "newest")
  notes = {} if is_first else {"notes.txt": "mine"}
  assert texts(out) == {**dict.fromkeys(NAMES, "newest"), **notes}
  assert hidden(out.parent) == []


def test_a_run_that_lives_is_not_swept(out):
  with staging.staged_output(out) as folder:
    write(out, "other")
    assert folder.is_dir()
    (folder / "report.html").write_text("mine")
  assert texts(out) == {"report.html": "mine"}


@pytest.mark.parametrize(
  "path", ["", ".", "..", "/", "~nosuchuser/x", "a" * 300, "/proc/none/x"]
)
def test_a_folder_that_a_run_cannot_take_the_place_of_is_refused(path):
  with (
    pytest.raises(ValueError, match="Expected --out"),
    staging.staged_output(path),
  ):
    pass


def test_a_file_is_no_folder(tmp_path):
  (tmp_path / "taken").write_text("mine")
  with (
    pytest.raises(ValueError, match="--out"),
    staging.staged_output(tmp_path / "taken" / "below"),
  ):
    pass
  assert (tmp_path / "taken").read_text() == "mine"


@dataclasses.dataclass
class Options:
  out: str


def test_what_proves_of_no_use_while_it_is_written_ends_with_one_line(
  out, capsys, monkeypatch
):
  monkeypatch.setattr(common, "use_compilation_cache", lambda: "")

  def write(folder, plan, outcome):
    (folder / "begun.txt").write_text("half")
    raise common.UnusableError(
      "Expected numbers for the certificate, got none."
    )

  prepare, run = (lambda asked: None), (lambda plan, bar: None)
  with pytest.raises(SystemExit) as ended:
    common.run_program(Options(str(out)), prepare, run, write)
  assert ended.value.code == 2
  lines = capsys.readouterr().err.splitlines()
  assert "error: Expected numbers for the certificate, got none." in lines
  assert not out.exists()
