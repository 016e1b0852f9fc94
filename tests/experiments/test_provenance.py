"""The command that a report prints makes the same options again."""

import dataclasses
import shlex
import types

import pytest

from experiments import flags
from experiments.bench import certify
from experiments.studies import forget


@pytest.mark.parametrize(
  "asked",
  [
    [],
    ["--preset", "smoke", "--request", "class:3;random:0.1", "--seeds", "4"],
    ["--sequence", "--no-retrain", "--methods", "unsir,scrub", "--out", "a b"],
  ],
)
def test_the_command_is_read_as_the_options_it_was_made_from(asked):
  options = flags.parse(forget.Options, "forget", asked)
  plan = types.SimpleNamespace(study=forget.STUDY, options=options)
  words = shlex.split(certify.command(plan))
  assert words[:3] == ["python", "-m", "experiments.forget"]
  again = flags.parse(forget.Options, "forget", words[3:])
  assert dataclasses.asdict(again) == dataclasses.asdict(options)
