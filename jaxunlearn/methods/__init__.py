"""Unlearning methods: one file each, readable as the paper's algorithm."""

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
from jaxunlearn.methods.defaults import defaults as defaults
from jaxunlearn.methods.dmm import dm_direct as dm_direct
from jaxunlearn.methods.dmm import dmm as dmm
from jaxunlearn.methods.dmm import oracle_matching as oracle_matching
from jaxunlearn.methods.fisher import fisher_forgetting as fisher_forgetting
from jaxunlearn.methods.gated_transfer import GktOptions as GktOptions
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
from jaxunlearn.methods.task_vector import reversal as reversal
from jaxunlearn.methods.task_vector import task_vector as task_vector
from jaxunlearn.methods.unsir import unsir as unsir
from jaxunlearn.methods.zero_shot import zero_shot_noise as zero_shot_noise

__all__ = [
  "GktOptions",
  "amnesiac",
  "bad_teacher",
  "blindspot",
  "boundary_expand",
  "boundary_shrink",
  "cf_k",
  "concept_poison",
  "defaults",
  "dm_direct",
  "dmm",
  "eu_k",
  "finetune",
  "fisher_forgetting",
  "gaussian_amnesiac",
  "gkt",
  "gradient_ascent",
  "gradient_restriction",
  "iau",
  "influence_unlearning",
  "l1_sparse",
  "laf",
  "neggrad_plus",
  "oracle_matching",
  "random_label",
  "restricted",
  "retrain",
  "reversal",
  "saliency_mask",
  "salun",
  "scrub",
  "ssd",
  "ssd_adaptive",
  "task_vector",
  "train_logged",
  "unsir",
  "zero_shot_noise",
]
