"""The core: types, requests, sampling, phases, combinators and drivers."""

from jaxunlearn.core import augment as augment
from jaxunlearn.core.combinators import with_term as with_term
from jaxunlearn.core.devices import make_mesh as make_mesh
from jaxunlearn.core.devices import rows_for_budget as rows_for_budget
from jaxunlearn.core.host_batches import host_batch as host_batch
from jaxunlearn.core.host_batches import host_batches as host_batches
from jaxunlearn.core.indexed import indexed_batches as indexed_batches
from jaxunlearn.core.indexed import prefetched as prefetched
from jaxunlearn.core.indexed import write_index as write_index
from jaxunlearn.core.links import ema as ema
from jaxunlearn.core.links import restore as restore
from jaxunlearn.core.per_example import map_rows as map_rows
from jaxunlearn.core.per_example import sum_rows as sum_rows
from jaxunlearn.core.phase import remember as remember
from jaxunlearn.core.recording import record as record
from jaxunlearn.core.tasks import apply_rows as apply_rows
from jaxunlearn.core.training import lanes_for_budget as lanes_for_budget
from jaxunlearn.core.transform import PhaseInfo as PhaseInfo
from jaxunlearn.core.trees import last_layers as last_layers
from jaxunlearn.core.types import as_step as as_step

__all__ = [
  "PhaseInfo",
  "apply_rows",
  "as_step",
  "augment",
  "ema",
  "host_batch",
  "host_batches",
  "indexed_batches",
  "lanes_for_budget",
  "last_layers",
  "make_mesh",
  "map_rows",
  "prefetched",
  "record",
  "remember",
  "restore",
  "rows_for_budget",
  "sum_rows",
  "with_term",
  "write_index",
]
