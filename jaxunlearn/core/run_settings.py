"""What tells the checkpoints of two runs apart: the programs of their links."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn.core import fingerprints, sampling
from jaxunlearn.core.host_batches import NOTHING, reads_host
from jaxunlearn.core.phase import pool_of
from jaxunlearn.core.transform import Carry, Env, PhaseState, Transform
from jaxunlearn.core.types import ALL, PyTree, Request, Step, Variables


class Run(NamedTuple):
  """What stays the same throughout a run."""

  links: list[tuple[Transform, jax.Array]]
  variables: Variables
  data: PyTree
  request: Request | None


class Settings:
  """What the links compute, learning rates and all: told from their programs.

  The step of a phase that draws rows can be traced once it is known what a row
  looks like, which the first batch says, and after it the checkpoint.
  """

  def __init__(self, run: Run):
    self.run = run
    self.row: PyTree = None  # `ShapeDtypeStruct`s, without the row axis.
    self.programs: list[list[str | None]] = []

  def see(self, rows: PyTree) -> None:
    """Takes notice of the rows of a batch; None of a phase without rows."""
    if rows is not None and self.row is None:
      of_leaf = lambda leaf: jax.ShapeDtypeStruct(
        np.shape(leaf)[1:], jax.dtypes.canonicalize_dtype(leaf.dtype)
      )
      self.row, self.programs = jax.tree.map(of_leaf, rows), []
    if not self.programs:
      self.programs, _ = self.trace()

  def trace(self) -> tuple[list[list[str | None]], list[PhaseState | None]]:
    """Of each link its programs, and the state that its phase begins with."""
    run = self.run
    carry: Any = Carry(run.variables, run.variables, {})
    programs, states, known = [], [], {}
    for link, key in run.links:
      leaves, structure = jax.tree.flatten(carry)
      shapes = tuple((np.shape(leaf), leaf.dtype) for leaf in leaves)
      here = (link, structure, shapes)  # Rounds of a loop are traced once.
      if here not in known:
        known[here] = self._trace_link(link, key, carry)
      found, state, carry = known[here]
      programs.append(found)
      states.append(state)
    return programs, states

  def _trace_link(self, link: Transform, key: jax.Array, carry: Carry) -> Any:
    program = fingerprints.program
    if not link.is_phase:
      once = lambda carry, data, mask, key: link.run(
        carry, data, mask, key, Env()
      )[0]
      run = self.run
      found, carry = program(once, carry, run.data, run.request, key)
      return [found], None, carry
    begin, state = program(lambda c, key: link.init(c, key, Env()), carry, key)
    end, carry = program(link.finish, state)
    step = None
    if not reads_host(link) or self.row is not None:
      batch = self._batch(link, state)
      step, _ = program(
        link.compiled_step, state.moving(), state.begin, state.carry, batch, key
      )
    return [begin, end, step], state, carry

  def _batch(self, link: Transform, state: PhaseState) -> Step:
    """A batch as the phase draws it; of all rows, any number stands for N."""
    if link.needs.sizes == NOTHING:
      return sampling.empty_batch()
    row = self.row
    if link.needs.source is not None:  # Rows that an earlier link made.
      pool, _ = jax.eval_shape(
        lambda carry: pool_of(carry, None, Request(), link.needs), state.carry
      )
      row = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), pool
      )
    n = sum(2 if size == ALL else size for size in link.needs.sizes)
    of: Any = lambda dtype: jax.ShapeDtypeStruct((n,), dtype)
    rows = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct((n, *leaf.shape), leaf.dtype), row
    )
    ids = [of(jnp.int32)] * 3
    return Step(rows, of(jnp.float32), of(jnp.bool_), *ids)

  def to_json(self) -> dict[str, Any]:
    structure: Any
    leaves, structure = jax.tree.flatten(self.row)
    try:
      written = structure.serialize_using_proto().hex()
    except ValueError:  # Rows in a container of the caller's own.
      return {"programs": self.programs, "row": None}
    row = [[list(leaf.shape), str(leaf.dtype)] for leaf in leaves]
    return {"programs": self.programs, "row": [written, row]}

  def different(self, stored: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    """The links whose settings are others, and the states of all."""
    if stored["row"] is not None:
      written, leaves = stored["row"]
      treedef: Any = jax.tree_util.PyTreeDef
      structure = treedef.deserialize_using_proto(
        jax.tree_util.default_registry, bytes.fromhex(written)
      )
      row = [jax.ShapeDtypeStruct(s, jnp.dtype(d)) for s, d in leaves]
      self.row = jax.tree.unflatten(structure, row)
    self.programs, states = self.trace()
    names = [
      link.name
      for (link, _), ours, theirs in zip(
        self.run.links, self.programs, stored["programs"]
      )
      if any(a != b for a, b in zip(ours, theirs) if None not in (a, b))
    ]
    return list(dict.fromkeys(names)), states
