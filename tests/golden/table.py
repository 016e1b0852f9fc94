"""Which function answers for which file of published numbers.

Files hold inputs, constants and outputs of the papers' own published code. A
reader takes a file's arrays and returns what we compute, by the name of the
entry that it must equal; a file may have several.
"""

import fnmatch
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from golden import attacks, graphs, losses, methods, metrics, sequences

Arrays = Mapping[str, Any]
DATA = pathlib.Path(__file__).parents[1] / "data"


def load(name: str) -> Arrays:
  """The arrays of a file."""
  with np.load(DATA / f"{name}.npz") as file:
    return dict(file)


class Reader(NamedTuple):
  """A row of the table.

  Attributes:
    pattern: of names of files, as a shell's.
    compute: `arrays -> {entry: value}`; what no entry holds it asserts itself.
    relative: the largest difference, as a share of the entry's largest number.
    absolute: the largest difference; the larger of the two counts.
    elementwise: `relative` is a share of each number, and both add up.
    float64: whether to compute in double precision.
  """

  pattern: str
  compute: Callable[[Arrays], Mapping[str, Any]]
  relative: float = 1e-5
  absolute: float = 0.0
  elementwise: bool = False
  float64: bool = False


EACH = {"elementwise": True}
DOUBLE = {"float64": True}
LAYERS = "gnndelete__layers_*"
BLINDSPOT = "deep_regression__blindspot_step_*"

TABLE = [
  Reader("bad_teaching__unlearner_loss_*", losses.kl_to_a_teacher_per_row),
  Reader("bad_teaching__jsdiv_*", metrics.jensen_shannon),
  Reader("bad_teaching__zrf", metrics.zero_retrain_forgetting),
  Reader("bad_teaching__actv_dist", metrics.activation_distance),
  Reader("bad_teaching__svc_entropy_*", metrics.entropies_of_groups),
  Reader("bad_teaching__svc_entropy_*", metrics.svc_on_entropies, 0, 1e-12),
  Reader(
    "concealment__crs_ccs", attacks.concept_retrieval_scores, 1e-7, 1e-6, **EACH
  ),
  Reader("concealment__crs_ccs", attacks.concept_confidence),
  Reader("concealment__hard_triplet_loss", attacks.hard_triplet, 1e-6),
  Reader(
    "concealment__hard_triplet_loss",
    attacks.slopes_of_hard_triplet,
    1e-7,
    1e-6,
    **EACH,
  ),
  Reader("deep_regression__ain", attacks.steps_by_loss, 1e-6),
  Reader(BLINDSPOT, methods.blindspot_step, 1e-5, 1e-7, **EACH),
  Reader(BLINDSPOT, methods.slopes_of_blindspot_layers, 1e-5, 1e-12),
  Reader("deep_regression__evaluate_mae", metrics.mean_absolute_error, 1e-6),
  Reader(
    "deep_regression__gaussian_amnesiac", methods.moments_of_targets, 1e-6
  ),
  Reader(
    "deep_regression__gaussian_amnesiac", methods.gaussian_targets, **EACH
  ),
  Reader(
    "deep_regression__membership_attack", attacks.regression_losses, **EACH
  ),
  Reader("deep_regression__membership_attack", attacks.regression_svc, 0),
  Reader("deep_regression__metrics", metrics.wasserstein),
  Reader(
    "deep_regression__metrics", metrics.relative_difference, 1e-4, 1e-6, **EACH
  ),
  Reader("deep_regression__quantile_loss", losses.quantile_loss),
  Reader(
    "deep_regression__quantile_loss",
    losses.slope_of_quantile_loss,
    1e-7,
    1e-6,
    **EACH,
  ),
  Reader(LAYERS, graphs.layers),
  Reader(LAYERS, graphs.link_logits),
  Reader(LAYERS, graphs.deletion_operators),
  Reader("gnndelete__losses", graphs.deletion_losses),
  Reader("gnndelete__losses", graphs.papers_losses),
  Reader("gnndelete__losses", graphs.zones, 0),
  Reader("llm__ceu", sequences.ceu),
  Reader("llm__dpo", sequences.dpo),
  Reader("llm__grad_ascent", sequences.grad_ascent),
  Reader("llm__grad_diff_kl", sequences.grad_diff_kl),
  Reader("llm__grad_diff_nll", sequences.grad_diff_nll),
  Reader("llm__npo_*", sequences.npo),
  Reader("llm__pdu_*", sequences.pdu),
  Reader("llm__rmu", sequences.rmu),
  Reader("llm__satimp", sequences.satimp),
  Reader("llm__simnpo*", sequences.simnpo),
  Reader("llm__undial_*", sequences.undial),
  Reader("llm__wga_*", sequences.wga),
  Reader("llm_ihl__*", sequences.inverted_hinge),
  Reader("llm_simple__dpo", sequences.dpo_alone),
  Reader("llm_simple__kl", sequences.kl_minimisation),
  Reader("llm_simple__kto_sigmoid", sequences.kto_sigmoid),
  Reader("llm_simple__npo", sequences.npo_alone),
  Reader("llm_simple__npo_grad_diff", sequences.npo_grad_diff),
  Reader("llm_simple__npo_kl", sequences.npo_kl),
  Reader("llm_simple__simnpo", sequences.simnpo_alone),
  Reader("llm_simple__simnpo_grad_diff", sequences.simnpo_grad_diff),
  Reader("membership__lira", attacks.lira),
  Reader("membership__lira", attacks.first_lira),
  Reader("membership__lira", attacks.lira_of_the_paper),
  Reader("membership__lira", attacks.lira_offline_of_the_paper),
  Reader("membership__logit_statistic", metrics.logit_signals),
  Reader("membership__logit_statistic", attacks.hinge, 1e-5, 1e-5, **EACH),
  Reader("membership__min_k", attacks.token_scores),
  Reader("membership__min_k", attacks.min_k),
  Reader("membership__rmia", attacks.rmia, 0, 1e-6),
  Reader("ridge__remove_*", methods.influence_on_ridge, 1e-9, **DOUBLE),
  Reader("ridge__logistic_*", methods.influence_on_logistic, 1e-9, **DOUBLE),
  Reader("salun__mask_from_gradient", methods.largest_gradients, 0),
  Reader("salun__mask_ties_counts", methods.counts_with_ties, 0),
  Reader("salun__mask_mlp_batches", methods.saliency_order),
  Reader("salun__svc_mia", metrics.entropies_of_salun),
  Reader("salun__svc_mia", metrics.svc_of_salun, 0, 1e-12),
  Reader("salun__svc_mia", attacks.released_modified_entropy),
  Reader("salun__svc_mia", attacks.svc_attack, 0, 1e-12),
  Reader("salun__threshold_mia", attacks.class_thresholds, 1e-6),
  Reader("ssd__importance", methods.importance, 2e-5),
  Reader("ssd__dampen_*", methods.dampening, 1e-5, 1e-7, **EACH),
  Reader("tabsyndex__*", metrics.tabsyndex_parts, 1e-7, 1e-9, **EACH, **DOUBLE),
  Reader("tabsyndex__*", metrics.tabsyndex_pmse, 1e-3, **DOUBLE),
  Reader("tabsyndex__*", metrics.tabsyndex_total, 0, 5e-3, **DOUBLE),
  Reader("tabsyndex__*", metrics.tabsyndex_efficacy, 0, 0.02, **DOUBLE),
  Reader("unsir__impair_repair_step", methods.impair_and_repair),
  Reader("unsir__noise_linear", losses.error_maximising_noise),
  Reader("unsir__noise_linear", losses.steps_of_error_maximising_noise, 1e-4),
  Reader("unsir__noise_mlp", losses.error_maximising_noise),
  Reader("unsir__noise_mlp", losses.steps_of_error_maximising_noise, 1e-4),
  Reader("zero_shot__ain", attacks.steps_by_accuracy, 1e-6),
  Reader("zero_shot__attention_diff", losses.attention_maps),
  Reader("zero_shot__band_pass_filter", methods.band_pass_filter, 0),
  Reader("zero_shot__error_min_max_noise", losses.noise_with_a_label_per_row),
  Reader("zero_shot__kt_*", losses.the_students_loss),
  Reader("zero_shot__kt_*", losses.the_generators_loss),
]

# Met by tests of their method, which drive its phases step by step.
IN_ROOMS = {
  "salun__random_label_epoch": "methods/test_salun.py",
  "unsir__noise_conv_bn_train_mode": "methods/test_unsir.py",
}
# A convolution whose case in training mode is met above.
NOT_READ = ("unsir__noise_conv",)


# They look at numbers on their way; any other reader is compiled as a whole.
LOOKS = {
  *(attacks.class_thresholds, attacks.first_lira, attacks.lira, attacks.min_k),
  *(attacks.lira_of_the_paper, attacks.lira_offline_of_the_paper),
  *(attacks.regression_svc, attacks.steps_by_accuracy, attacks.svc_attack),
  *(attacks.token_scores, graphs.layers, graphs.deletion_operators),
  *(methods.counts_with_ties, methods.dampening, methods.gaussian_targets),
  *(methods.influence_on_logistic, methods.influence_on_ridge),
  *(methods.largest_gradients, methods.saliency_order),
  *(metrics.entropies_of_groups, metrics.mean_absolute_error),
  *(metrics.svc_of_salun, metrics.svc_on_entropies),
  *(metrics.tabsyndex_efficacy, metrics.tabsyndex_parts),
  *(metrics.tabsyndex_pmse, metrics.tabsyndex_total),
  metrics.zero_retrain_forgetting,
}


def readers_of(name: str) -> list[Reader]:
  return [r for r in TABLE if fnmatch.fnmatchcase(name, r.pattern)]
