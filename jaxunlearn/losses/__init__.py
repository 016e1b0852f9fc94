"""Pure losses: one value per example, so that masks and means stay outside.

Each takes a batch and returns [B], accumulates in at least float32 whatever the
dtype of its inputs, and is safe under `jit`, `grad` and `vmap`.
"""

from jaxunlearn.losses.attention import attention_difference, attention_map
from jaxunlearn.losses.classification import cross_entropy
from jaxunlearn.losses.contrastive import (
  confidence_weighted_mse,
  supervised_contrastive,
  teacher_contrastive,
)
from jaxunlearn.losses.distillation import kl_to_target, kl_to_teacher
from jaxunlearn.losses.noise import error_maximising, error_minimising
from jaxunlearn.losses.ranking import bpr, reverse_bpr
from jaxunlearn.losses.regression import (
  absolute_error,
  on_targets,
  quantile_loss,
  squared_error,
)

__all__ = [
  "absolute_error",
  "attention_difference",
  "attention_map",
  "bpr",
  "confidence_weighted_mse",
  "cross_entropy",
  "error_maximising",
  "error_minimising",
  "kl_to_target",
  "kl_to_teacher",
  "on_targets",
  "quantile_loss",
  "reverse_bpr",
  "squared_error",
  "supervised_contrastive",
  "teacher_contrastive",
]
