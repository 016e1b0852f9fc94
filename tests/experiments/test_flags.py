"""Command lines: every argument that does not fit is one line, status 2."""

import dataclasses
import importlib
import json
import subprocess
import sys
from typing import Literal

import pytest
from refusals import refused

from experiments import flags, launch, manual

PROGRAMS = (
  "audit",
  "audit_diffusion",
  "continual",
  "forget",
  "forget_corrupted",
  "forget_graph",
  "forget_recommendations",
  "forget_regression",
  "forget_table",
  "match_oracles",
  "synthetic_tables",
  "value_data",
  "forget_exact",
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
  refused(words, flags.check, options)


def test_the_last_seed_is_a_seed():
  flags.check_seeds(5, 2**31 - 5)
  refused("the last of --seeds", flags.check_seeds, 5, 2**31 - 4)


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


def test_help_needs_no_jax(tmp_path):
  """It is stored for these very sources, or made anew; either is the truth."""
  stored = json.loads(launch.MANUALS.read_text())
  text = manual.text("zero_shot")
  assert all(len(line) <= 80 for line in text.splitlines())
  assert "gkt" in text and "2201.05629" in text and "quick (3 seeds)" in text
  code = (
    "import sys, json; from experiments import launch\n"
    f"launch.MANUALS = launch.Path({str(tmp_path / 'manuals.json')!r})\n"
    "launch.MANUALS.write_text(json.dumps("
    "{'sources': launch.sources(), 'zero_shot': 'all there is to say'}))\n"
    "from experiments import zero_shot\n"
    "try: zero_shot.main(['--help'])\n"
    "finally: assert not {'jax', 'tyro'} & sys.modules.keys()\n"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True)
  assert done.stdout == b"all there is to say\n" and not done.returncode
  assert {"sources", "forget", "zero_shot", "forget_fact"} <= stored.keys()
  assert max(len(line) for t in stored.values() for line in t.split("\n")) <= 80
