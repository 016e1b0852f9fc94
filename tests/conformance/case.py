"""What a row of the table holds."""

from collections.abc import Callable
from typing import NamedTuple

from conformance.worlds import World

import jaxunlearn as ju


class Case(NamedTuple):
  """A row of the table.

  Attributes:
    factory: the public function that the row stands for.
    world: what it is called on.
    build: `subject -> Transform`.
    variant: what tells it from other rows of the factory.
    reads: the rows whose inputs may change the result: "all", "forget",
      "retain" or "nothing".
    uses_retain: whether rows to retain change the result of a method that may
      read all; otherwise only what is forgotten does.
    keyless: the key changes nothing.
    requestless: the request changes nothing: the method was told its concept
      when it was made, or looks at none.
    moves: whether params change; otherwise the model state does.
    identity: nothing changes at all.
    keeps_state: whether the model state keeps its structure.
    soft_request: float weights are taken as well as a bool mask.
    low_precision: bfloat16 params are taken.
    devices: a batch may be shared by devices.
    group: of a diffusion model, the parameters that may move; "" if all may.
    slow: the battery takes over ten seconds.
  """

  factory: Callable
  world: Callable[[], World]
  build: Callable[..., ju.Transform]
  variant: str = ""
  reads: str = "all"
  uses_retain: bool = True
  keyless: bool = False
  requestless: bool = False
  moves: bool = True
  identity: bool = False
  keeps_state: bool = True
  soft_request: bool = True
  low_precision: bool = True
  devices: bool = True
  group: str = ""
  slow: bool = False

  @property
  def name(self) -> str:
    room = self.factory.__module__.split(".")[1]
    return f"{room}.{self.factory.__name__}" + self.variant * bool(self.variant)


def row(world, factory, build, variant="", **flags) -> Case:
  return Case(factory, world, build, variant and f"-{variant}", **flags)
