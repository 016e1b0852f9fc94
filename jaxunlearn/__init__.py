"""jaxunlearn: machine unlearning as pure, composable transforms in JAX.

    forget_mask = ju.requests.classes(data["label"], [3])
    unlearn = ju.unsir(model, num_classes=10)
    unlearned, info = jax.jit(unlearn)(variables, data, forget_mask, key)

Flax models come in through `jaxunlearn.adapters.flax`, checkpoints through
`jaxunlearn.adapters.orbax`; both are imported by name.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxunlearn import attacks as attacks
from jaxunlearn import losses as losses
from jaxunlearn import metrics as metrics
from jaxunlearn.core import requests as requests
from jaxunlearn.core.combinators import alternate as alternate
from jaxunlearn.core.combinators import by_forget_gradient as by_forget_gradient
from jaxunlearn.core.combinators import chain as chain
from jaxunlearn.core.combinators import masked as masked
from jaxunlearn.core.combinators import repeat as repeat
from jaxunlearn.core.devices import make_mesh as make_mesh
from jaxunlearn.core.devices import rows_for_budget as rows_for_budget
from jaxunlearn.core.drivers import predict as predict
from jaxunlearn.core.drivers import predict_many as predict_many
from jaxunlearn.core.drivers import unlearn as unlearn
from jaxunlearn.core.drivers import unlearn_sequence as unlearn_sequence
from jaxunlearn.core.host_batches import host_batch as host_batch
from jaxunlearn.core.host_batches import host_batches as host_batches
from jaxunlearn.core.keys import derive as derive
from jaxunlearn.core.links import edit as edit
from jaxunlearn.core.links import ema as ema
from jaxunlearn.core.links import per_row as per_row
from jaxunlearn.core.links import provide as provide
from jaxunlearn.core.links import restore as restore
from jaxunlearn.core.per_example import map_rows as map_rows
from jaxunlearn.core.per_example import sum_rows as sum_rows
from jaxunlearn.core.phase import PARAMS as PARAMS
from jaxunlearn.core.phase import phase as phase
from jaxunlearn.core.phase import remember as remember
from jaxunlearn.core.phase import supervised as supervised
from jaxunlearn.core.rows import split_rows as split_rows
from jaxunlearn.core.streaming import stream as stream
from jaxunlearn.core.tasks import Fit as Fit
from jaxunlearn.core.tasks import Model as Model
from jaxunlearn.core.tasks import Task as Task
from jaxunlearn.core.tasks import apply_rows as apply_rows
from jaxunlearn.core.training import lanes_for_budget as lanes_for_budget
from jaxunlearn.core.training import map_many as map_many
from jaxunlearn.core.training import train as train
from jaxunlearn.core.training import train_many as train_many
from jaxunlearn.core.training import unlearn_many as unlearn_many
from jaxunlearn.core.transform import PhaseInfo as PhaseInfo
from jaxunlearn.core.transform import Transform as Transform
from jaxunlearn.core.trees import last_layers as last_layers
from jaxunlearn.core.trees import stack as stack
from jaxunlearn.core.types import ALL as ALL
from jaxunlearn.core.types import Draw as Draw
from jaxunlearn.core.types import Losses as Losses
from jaxunlearn.core.types import Request as Request
from jaxunlearn.core.types import Slot as Slot
from jaxunlearn.core.types import Step as Step
from jaxunlearn.core.types import Variables as Variables
from jaxunlearn.core.views import View as View
from jaxunlearn.core.views import through as through
from jaxunlearn.methods._saliency import saliency_mask as saliency_mask
from jaxunlearn.methods.amnesiac import amnesiac as amnesiac
from jaxunlearn.methods.amnesiac import train_logged as train_logged
from jaxunlearn.methods.bad_teacher import bad_teacher as bad_teacher
from jaxunlearn.methods.baselines import finetune as finetune
from jaxunlearn.methods.baselines import gradient_ascent as gradient_ascent
from jaxunlearn.methods.baselines import l1_sparse as l1_sparse
from jaxunlearn.methods.baselines import neggrad_plus as neggrad_plus
from jaxunlearn.methods.baselines import retrain as retrain
from jaxunlearn.methods.blindspot import blindspot as blindspot
from jaxunlearn.methods.boundary import boundary_expand as boundary_expand
from jaxunlearn.methods.boundary import boundary_shrink as boundary_shrink
from jaxunlearn.methods.concept_poison import concept_poison as concept_poison
from jaxunlearn.methods.dmm import dm_direct as dm_direct
from jaxunlearn.methods.dmm import dmm as dmm
from jaxunlearn.methods.dmm import oracle_matching as oracle_matching
from jaxunlearn.methods.fisher import fisher_forgetting as fisher_forgetting
from jaxunlearn.methods.gated_transfer import gkt as gkt
from jaxunlearn.methods.gaussian_amnesiac import (
  gaussian_amnesiac as gaussian_amnesiac,
)
from jaxunlearn.methods.iau import gradient_restriction as gradient_restriction
from jaxunlearn.methods.iau import iau as iau
from jaxunlearn.methods.iau import restricted as restricted
from jaxunlearn.methods.influence_unlearning import (
  influence_unlearning as influence_unlearning,
)
from jaxunlearn.methods.laf import laf as laf
from jaxunlearn.methods.last_layers import cf_k as cf_k
from jaxunlearn.methods.last_layers import eu_k as eu_k
from jaxunlearn.methods.random_label import random_label as random_label
from jaxunlearn.methods.salun import salun as salun
from jaxunlearn.methods.scrub import scrub as scrub
from jaxunlearn.methods.ssd import ssd as ssd
from jaxunlearn.methods.ssd import ssd_adaptive as ssd_adaptive
from jaxunlearn.methods.unsir import unsir as unsir
from jaxunlearn.methods.zero_shot import zero_shot_noise as zero_shot_noise

if TYPE_CHECKING:
  from jaxunlearn import attribution as attribution
  from jaxunlearn import continual as continual
  from jaxunlearn import diffusion as diffusion
  from jaxunlearn import exact as exact
  from jaxunlearn import graph as graph
  from jaxunlearn import language as language
  from jaxunlearn import recsys as recsys
  from jaxunlearn import tables as tables
  from jaxunlearn import valuation as valuation

__version__ = "0.1.0"

# Rooms of a domain, imported when they are first asked for.
_ROOMS = (
  "attribution",
  "continual",
  "diffusion",
  "exact",
  "graph",
  "language",
  "recsys",
  "tables",
  "valuation",
)


def __getattr__(name: str) -> Any:
  if name in _ROOMS:
    return importlib.import_module(f"jaxunlearn.{name}")
  raise AttributeError(f"module 'jaxunlearn' has no attribute {name!r}")


def __dir__() -> list[str]:
  return sorted({*globals(), *_ROOMS})


__all__ = [
  "ALL",
  "PARAMS",
  "Draw",
  "Fit",
  "Losses",
  "Model",
  "PhaseInfo",
  "Request",
  "Slot",
  "Step",
  "Task",
  "Transform",
  "Variables",
  "View",
  "alternate",
  "amnesiac",
  "apply_rows",
  "attacks",
  "attribution",
  "bad_teacher",
  "blindspot",
  "boundary_expand",
  "boundary_shrink",
  "by_forget_gradient",
  "cf_k",
  "chain",
  "concept_poison",
  "continual",
  "derive",
  "diffusion",
  "dm_direct",
  "dmm",
  "edit",
  "ema",
  "eu_k",
  "exact",
  "finetune",
  "fisher_forgetting",
  "gaussian_amnesiac",
  "gkt",
  "gradient_ascent",
  "gradient_restriction",
  "graph",
  "host_batch",
  "host_batches",
  "iau",
  "influence_unlearning",
  "l1_sparse",
  "laf",
  "lanes_for_budget",
  "language",
  "last_layers",
  "losses",
  "make_mesh",
  "map_many",
  "map_rows",
  "masked",
  "metrics",
  "neggrad_plus",
  "oracle_matching",
  "per_row",
  "phase",
  "predict",
  "provide",
  "random_label",
  "recsys",
  "remember",
  "repeat",
  "requests",
  "restore",
  "restricted",
  "retrain",
  "rows_for_budget",
  "saliency_mask",
  "salun",
  "scrub",
  "ssd",
  "ssd_adaptive",
  "stream",
  "sum_rows",
  "supervised",
  "tables",
  "through",
  "train",
  "train_logged",
  "train_many",
  "unlearn",
  "unlearn_many",
  "unlearn_sequence",
  "unsir",
  "valuation",
  "zero_shot_noise",
]
