"""Command lines: every argument that does not fit is one line, status 2."""

import dataclasses
import importlib
from typing import Literal

import pytest

from experiments import flags

PROGRAMS = (
  "audit",
  "audit_diffusion",
  "continual",
  "forget",
  "forget_corrupted",
  "forget_graph",
  "forget_recommendations",
  "forget_regression",
  "synthetic_tables",
  "value_data",
  "zero_shot",
)


@dataclasses.dataclass(frozen=True)
class Options:
  """Some options."""

  preset: Literal["smoke", "quick"] = "smoke"
  seeds: int | None = None
  rate: float = 1.0
  data: str | None = None


@pytest.mark.parametrize(
  ("argv", "words"),
  [
    (["--preset", "fast"], "'fast' for argument '--preset'"),
    (["--seeds", "two"], "Expected --seeds to be a number, got 'two'."),
    (["--seeds", "1" * 5000], "Expected --seeds to be a number, got '111"),
    (["--rate", "x"], "--rate"),
    (["--sedes", "2"], "--sedes"),
    (["--seeds"], "--seeds"),
    (["two"], "two"),
  ],
)
def test_malformed_arguments_end_in_one_line(argv, words, capsys):
  with pytest.raises(SystemExit) as end:
    flags.parse(Options, "program", argv)
  said = capsys.readouterr()
  assert end.value.code == 2 and said.out == ""
  assert said.err.startswith("error: ") and said.err.count("\n") == 1
  assert words in said.err and len(said.err) < 300


def test_help_is_help(capsys):
  with pytest.raises(SystemExit) as end:
    flags.parse(Options, "program", ["--help"])
  assert not end.value.code and "--preset" in capsys.readouterr().out


@pytest.mark.parametrize(
  ("options", "words"),
  [
    (Options(data=""), "--data to say something, got ''"),
    (Options(data=" "), "--data to say something, got ' '"),
    (Options(seeds=100_000_000), "--seeds of at most 10000, got 100000000"),
    (Options(seeds=10**40), "--seeds of at most 10000"),
    (Options(seeds=-(10**40)), "--seeds of at most 10000"),
  ],
)
def test_what_no_program_takes_is_refused(options, words):
  with pytest.raises(ValueError, match=words):
    flags.check(options)


def test_the_last_seed_is_a_seed():
  flags.check_seeds(5, 2**31 - 5)
  with pytest.raises(ValueError, match="the last of --seeds"):
    flags.check_seeds(5, 2**31 - 4)


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_empty_text_is_no_default_of_any_program(
  name, tmp_path, capsys, monkeypatch
):
  module = importlib.import_module(f"experiments.{name}")
  monkeypatch.setattr(module, "prepare", None)  # Nothing is to get so far.
  fields = dataclasses.fields(module.Options)
  texts = [f.name for f in fields if str(f.type).startswith("Annotated[str")]
  known = {"out", "data", "request", "requests", "methods", "concept"}
  for option in {f.name for f in fields} & known | set(texts):
    out = [] if option == "out" else ["--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
      module.main([*out, f"--{option.replace('_', '-')}", ""])
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert f"--{option.replace('_', '-')}" in said
  assert list(tmp_path.iterdir()) == []
