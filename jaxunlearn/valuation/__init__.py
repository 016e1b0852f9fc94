"""Data valuation: what each row is worth to a model trained on the data.

A utility is a pure function of a mask over the rows; every estimator asks it for
many masks in one program.
"""

from jaxunlearn.valuation.banzhaf import banzhaf_msr as banzhaf_msr
from jaxunlearn.valuation.banzhaf import msr_values as msr_values
from jaxunlearn.valuation.class_wise import ClassScores as ClassScores
from jaxunlearn.valuation.class_wise import (
  class_wise_shapley as class_wise_shapley,
)
from jaxunlearn.valuation.class_wise import (
  trained_class_scores as trained_class_scores,
)
from jaxunlearn.valuation.closed_form import (
  kernel_ridge_utility as kernel_ridge_utility,
)
from jaxunlearn.valuation.closed_form import logistic_fit as logistic_fit
from jaxunlearn.valuation.closed_form import (
  logistic_utility as logistic_utility,
)
from jaxunlearn.valuation.closed_form import ridge_utility as ridge_utility
from jaxunlearn.valuation.clusters import Clusters as Clusters
from jaxunlearn.valuation.clusters import cluster_rows as cluster_rows
from jaxunlearn.valuation.clusters import interleaved as interleaved
from jaxunlearn.valuation.clusters import nearest_clusters as nearest_clusters
from jaxunlearn.valuation.datamodels import Datamodels as Datamodels
from jaxunlearn.valuation.datamodels import ame as ame
from jaxunlearn.valuation.datamodels import fit_lasso as fit_lasso
from jaxunlearn.valuation.datamodels import fit_ridge as fit_ridge
from jaxunlearn.valuation.datamodels import (
  linear_datamodelling_score as linear_datamodelling_score,
)
from jaxunlearn.valuation.datamodels import subset_masks as subset_masks
from jaxunlearn.valuation.distributional import (
  distributional_shapley as distributional_shapley,
)
from jaxunlearn.valuation.ecoval import EcoVal as EcoVal
from jaxunlearn.valuation.ecoval import PriceRule as PriceRule
from jaxunlearn.valuation.ecoval import ecoval_of_points as ecoval_of_points
from jaxunlearn.valuation.ecoval import ecoval_values as ecoval_values
from jaxunlearn.valuation.exact import exact_semivalue as exact_semivalue
from jaxunlearn.valuation.exact import loo as loo
from jaxunlearn.valuation.knn import knn_shapley as knn_shapley
from jaxunlearn.valuation.out_of_bag import ScoreRows as ScoreRows
from jaxunlearn.valuation.out_of_bag import data_oob as data_oob
from jaxunlearn.valuation.out_of_bag import is_correct as is_correct
from jaxunlearn.valuation.out_of_bag import logistic_scores as logistic_scores
from jaxunlearn.valuation.out_of_bag import trained_scores as trained_scores
from jaxunlearn.valuation.permutation import Progress as Progress
from jaxunlearn.valuation.permutation import StopRule as StopRule
from jaxunlearn.valuation.permutation import beta_shapley as beta_shapley
from jaxunlearn.valuation.permutation import (
  relative_change_below as relative_change_below,
)
from jaxunlearn.valuation.permutation import semivalue as semivalue
from jaxunlearn.valuation.permutation import shapley as shapley
from jaxunlearn.valuation.permutation import (
  standard_error_below as standard_error_below,
)
from jaxunlearn.valuation.quality import Quality as Quality
from jaxunlearn.valuation.quality import confidence as confidence
from jaxunlearn.valuation.quality import curated as curated
from jaxunlearn.valuation.quality import typicality as typicality
from jaxunlearn.valuation.sizes import banzhaf_sizes as banzhaf_sizes
from jaxunlearn.valuation.sizes import beta_sizes as beta_sizes
from jaxunlearn.valuation.sizes import loo_sizes as loo_sizes
from jaxunlearn.valuation.sizes import shapley_sizes as shapley_sizes
from jaxunlearn.valuation.types import Utility as Utility
from jaxunlearn.valuation.types import Valuation as Valuation
from jaxunlearn.valuation.uses import NoisyLabelScores as NoisyLabelScores
from jaxunlearn.valuation.uses import addition_curve as addition_curve
from jaxunlearn.valuation.uses import flagged as flagged
from jaxunlearn.valuation.uses import highest as highest
from jaxunlearn.valuation.uses import lowest as lowest
from jaxunlearn.valuation.uses import noisy_label_scores as noisy_label_scores
from jaxunlearn.valuation.uses import rank_correlation as rank_correlation
from jaxunlearn.valuation.uses import removal_curve as removal_curve
from jaxunlearn.valuation.uses import (
  weighted_accuracy_drop as weighted_accuracy_drop,
)
from jaxunlearn.valuation.utility import grouped as grouped
from jaxunlearn.valuation.utility import log_likelihood as log_likelihood
from jaxunlearn.valuation.utility import restricted as restricted
from jaxunlearn.valuation.utility import squared_error as squared_error
from jaxunlearn.valuation.utility import trained_utility as trained_utility
