"""Numbers about models on data: pure, with weights in the place of subsets.

Every metric names the direction that is better and what the retrained model,
the standard, has in expectation. An empty set gives nan.
"""

from jaxunlearn.metrics.attribution import integrated_gradients
from jaxunlearn.metrics.concepts import (
  Bottleneck,
  ConceptBank,
  class_attributions,
  closest_class,
  concept_bank,
  concept_residue,
  concepts_of,
  fit_bottleneck,
)
from jaxunlearn.metrics.distance import (
  LayerDistance,
  WeightDistance,
  activation_distance,
  js_divergence,
  kl_divergence,
  mean_js,
  weight_distance,
)
from jaxunlearn.metrics.forgetting import zrf, zrf_over_teachers
from jaxunlearn.metrics.frechet import (
  FeatureStatistics,
  feature_frechet_distance,
  feature_statistics,
  frechet_distance,
)
from jaxunlearn.metrics.generation import (
  CanvasScores,
  PairScores,
  canvas_scores,
  class_accuracy,
  pair_groups,
  pair_scores,
)
from jaxunlearn.metrics.influence import (
  gauss_newton_vector_product,
  hessian_vector_product,
  influence_of_request,
  influence_scores,
  solve_curvature,
)
from jaxunlearn.metrics.kernel_distance import (
  KernelDistance,
  kernel_distance,
  polynomial_mmd,
)
from jaxunlearn.metrics.klom import klom, klom_floor
from jaxunlearn.metrics.membership import (
  confidence,
  entropy,
  logit_confidence,
  modified_entropy,
  separation_auc,
  svc_membership,
)
from jaxunlearn.metrics.nomus import forgetting_score, nomus
from jaxunlearn.metrics.per_example import (
  gradient_dots,
  gradient_gram,
  gradient_norms,
  per_example_loss,
)
from jaxunlearn.metrics.regression import (
  mean_absolute_error,
  mean_squared_error,
  relative_difference,
  wasserstein1,
)
from jaxunlearn.metrics.representation import linear_cka
from jaxunlearn.metrics.tabsyndex import (
  TabSynDex,
  association_matrix,
  support_coverage,
  tabsyndex,
)
from jaxunlearn.metrics.tabsyndex_bands import Bands, tabsyndex_bands
from jaxunlearn.metrics.tabsyndex_frames import encode_frames
from jaxunlearn.metrics.tabsyndex_nearest import nearest_record_distance
from jaxunlearn.metrics.utility import (
  ClassOutcomes,
  accuracy,
  class_outcomes,
  confusion_matrix,
  mean_cross_entropy,
  unweighted_f1,
  unweighted_recall,
)

__all__ = [
  "Bands",
  "Bottleneck",
  "CanvasScores",
  "ClassOutcomes",
  "ConceptBank",
  "FeatureStatistics",
  "KernelDistance",
  "LayerDistance",
  "PairScores",
  "TabSynDex",
  "WeightDistance",
  "accuracy",
  "activation_distance",
  "association_matrix",
  "canvas_scores",
  "class_accuracy",
  "class_attributions",
  "class_outcomes",
  "closest_class",
  "concept_bank",
  "concept_residue",
  "concepts_of",
  "confidence",
  "confusion_matrix",
  "encode_frames",
  "entropy",
  "feature_frechet_distance",
  "feature_statistics",
  "fit_bottleneck",
  "forgetting_score",
  "frechet_distance",
  "gauss_newton_vector_product",
  "gradient_dots",
  "gradient_gram",
  "gradient_norms",
  "hessian_vector_product",
  "influence_of_request",
  "influence_scores",
  "integrated_gradients",
  "js_divergence",
  "kernel_distance",
  "kl_divergence",
  "klom",
  "klom_floor",
  "linear_cka",
  "logit_confidence",
  "mean_absolute_error",
  "mean_cross_entropy",
  "mean_js",
  "mean_squared_error",
  "modified_entropy",
  "nearest_record_distance",
  "nomus",
  "pair_groups",
  "pair_scores",
  "per_example_loss",
  "polynomial_mmd",
  "relative_difference",
  "separation_auc",
  "solve_curvature",
  "support_coverage",
  "svc_membership",
  "tabsyndex",
  "tabsyndex_bands",
  "unweighted_f1",
  "unweighted_recall",
  "wasserstein1",
  "weight_distance",
  "zrf",
  "zrf_over_teachers",
]
