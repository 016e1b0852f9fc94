"""Attacks: they try to tell what a model was trained on, or to bring it back.

A score is one number a row, pure and vmapped, and high speaks for membership;
curves and intervals of scores are shared by all attacks.
"""

from jaxunlearn.attacks.anamnesis import AnamnesisIndex as AnamnesisIndex
from jaxunlearn.attacks.anamnesis import Relearned as Relearned
from jaxunlearn.attacks.anamnesis import anamnesis_index as anamnesis_index
from jaxunlearn.attacks.anamnesis import random_subset as random_subset
from jaxunlearn.attacks.anamnesis import relearn as relearn
from jaxunlearn.attacks.anamnesis import relearn_area as relearn_area
from jaxunlearn.attacks.anamnesis import relearn_target as relearn_target
from jaxunlearn.attacks.anamnesis import relearning as relearning
from jaxunlearn.attacks.anamnesis import steps_to_target as steps_to_target
from jaxunlearn.attacks.challenge import ForgettingQuality as ForgettingQuality
from jaxunlearn.attacks.challenge import QualityRuns as QualityRuns
from jaxunlearn.attacks.challenge import Questions as Questions
from jaxunlearn.attacks.challenge import challenge_score as challenge_score
from jaxunlearn.attacks.challenge import (
  forgetting_quality as forgetting_quality,
)
from jaxunlearn.attacks.challenge import (
  forgetting_quality_runs as forgetting_quality_runs,
)
from jaxunlearn.attacks.classifiers import LogisticAttack as LogisticAttack
from jaxunlearn.attacks.classifiers import SvcAttack as SvcAttack
from jaxunlearn.attacks.classifiers import fit_logistic as fit_logistic
from jaxunlearn.attacks.classifiers import (
  logistic_accuracy as logistic_accuracy,
)
from jaxunlearn.attacks.classifiers import logistic_attack as logistic_attack
from jaxunlearn.attacks.classifiers import svc_attack as svc_attack
from jaxunlearn.attacks.comparator import ModelRecord as ModelRecord
from jaxunlearn.attacks.comparator import PrivacyScore as PrivacyScore
from jaxunlearn.attacks.comparator import ThresholdCurve as ThresholdCurve
from jaxunlearn.attacks.comparator import layer_names as layer_names
from jaxunlearn.attacks.comparator import model_record as model_record
from jaxunlearn.attacks.comparator import privacy_epsilon as privacy_epsilon
from jaxunlearn.attacks.comparator import privacy_score as privacy_score
from jaxunlearn.attacks.comparator import (
  retraining_signals as retraining_signals,
)
from jaxunlearn.attacks.comparator import threshold_curve as threshold_curve
from jaxunlearn.attacks.concept_probe import ConceptProbe as ConceptProbe
from jaxunlearn.attacks.concept_probe import (
  fit_concept_probe as fit_concept_probe,
)
from jaxunlearn.attacks.concept_probe import (
  hard_triplet_loss as hard_triplet_loss,
)
from jaxunlearn.attacks.concept_probe import probe_outputs as probe_outputs
from jaxunlearn.attacks.concept_retrieval import (
  concept_confidence_score as concept_confidence_score,
)
from jaxunlearn.attacks.concept_retrieval import (
  concept_retrieval_score as concept_retrieval_score,
)
from jaxunlearn.attacks.concept_retrieval import (
  excess_retrieval as excess_retrieval,
)
from jaxunlearn.attacks.concept_retrieval import (
  reference_similarity as reference_similarity,
)
from jaxunlearn.attacks.entity_probes import EntityFact as EntityFact
from jaxunlearn.attacks.entity_probes import EntityProbe as EntityProbe
from jaxunlearn.attacks.entity_probes import ProbeReport as ProbeReport
from jaxunlearn.attacks.entity_probes import TextMembership as TextMembership
from jaxunlearn.attacks.entity_probes import entity_probe as entity_probe
from jaxunlearn.attacks.entity_probes import probe_report as probe_report
from jaxunlearn.attacks.entity_probes import text_membership as text_membership
from jaxunlearn.attacks.in_context import Facts as Facts
from jaxunlearn.attacks.in_context import context_price as context_price
from jaxunlearn.attacks.in_context import in_context as in_context
from jaxunlearn.attacks.in_context import in_context_gaps as in_context_gaps
from jaxunlearn.attacks.in_context import told_in_context as told_in_context
from jaxunlearn.attacks.intervals import Interval as Interval
from jaxunlearn.attacks.intervals import TprInterval as TprInterval
from jaxunlearn.attacks.intervals import bootstrap as bootstrap
from jaxunlearn.attacks.intervals import (
  certified_threshold as certified_threshold,
)
from jaxunlearn.attacks.intervals import clopper_pearson as clopper_pearson
from jaxunlearn.attacks.intervals import tpr_interval as tpr_interval
from jaxunlearn.attacks.inversion import Inverted as Inverted
from jaxunlearn.attacks.inversion import invert as invert
from jaxunlearn.attacks.inversion import likeness as likeness
from jaxunlearn.attacks.knowledge_recovery import Recovered as Recovered
from jaxunlearn.attacks.knowledge_recovery import recover as recover
from jaxunlearn.attacks.knowledge_recovery import recovery as recovery
from jaxunlearn.attacks.language import (
  gradient_norm_score as gradient_norm_score,
)
from jaxunlearn.attacks.language import lowest_mean as lowest_mean
from jaxunlearn.attacks.language import mean_log_prob as mean_log_prob
from jaxunlearn.attacks.language import min_k as min_k
from jaxunlearn.attacks.language import min_k_plus_plus as min_k_plus_plus
from jaxunlearn.attacks.language import (
  normalised_token_log_probs as normalised_token_log_probs,
)
from jaxunlearn.attacks.language import privleak as privleak
from jaxunlearn.attacks.language import reference_score as reference_score
from jaxunlearn.attacks.language import token_log_probs as token_log_probs
from jaxunlearn.attacks.language import zlib_score as zlib_score
from jaxunlearn.attacks.leakage import Leaks as Leaks
from jaxunlearn.attacks.leakage import fact_distances as fact_distances
from jaxunlearn.attacks.leakage import leaks as leaks
from jaxunlearn.attacks.leakage import success_at as success_at
from jaxunlearn.attacks.leakage import suppressed as suppressed
from jaxunlearn.attacks.lira import global_threshold as global_threshold
from jaxunlearn.attacks.lira import lira_leave_one_out as lira_leave_one_out
from jaxunlearn.attacks.lira import lira_scores as lira_scores
from jaxunlearn.attacks.own_models import LiraAttack as LiraAttack
from jaxunlearn.attacks.own_models import lira_attack as lira_attack
from jaxunlearn.attacks.population import MembershipRatio as MembershipRatio
from jaxunlearn.attacks.population import MembershipSignals as MembershipSignals
from jaxunlearn.attacks.population import PopulationAttack as PopulationAttack
from jaxunlearn.attacks.population import ThresholdAttack as ThresholdAttack
from jaxunlearn.attacks.population import correctness as correctness
from jaxunlearn.attacks.population import fit_thresholds as fit_thresholds
from jaxunlearn.attacks.population import margin as margin
from jaxunlearn.attacks.population import membership_ratio as membership_ratio
from jaxunlearn.attacks.population import (
  membership_signals as membership_signals,
)
from jaxunlearn.attacks.population import population_attack as population_attack
from jaxunlearn.attacks.population import threshold_attack as threshold_attack
from jaxunlearn.attacks.probe import Probe as Probe
from jaxunlearn.attacks.probe import linear_probe as linear_probe
from jaxunlearn.attacks.probe import probe_model as probe_model
from jaxunlearn.attacks.quantization import bucket_survival as bucket_survival
from jaxunlearn.attacks.quantization import nf4_table as nf4_table
from jaxunlearn.attacks.quantization import quantize as quantize
from jaxunlearn.attacks.quantization import quantize_nf4 as quantize_nf4
from jaxunlearn.attacks.quantization import quantize_stacked as quantize_stacked
from jaxunlearn.attacks.regression import RegressionAttack as RegressionAttack
from jaxunlearn.attacks.regression import (
  regression_attack as regression_attack,
)
from jaxunlearn.attacks.rmia import rmia_leave_one_out as rmia_leave_one_out
from jaxunlearn.attacks.rmia import rmia_scores as rmia_scores
from jaxunlearn.attacks.rmia import tune_offline_a as tune_offline_a
from jaxunlearn.attacks.roc import AttackSummary as AttackSummary
from jaxunlearn.attacks.roc import Roc as Roc
from jaxunlearn.attacks.roc import attack_summary as attack_summary
from jaxunlearn.attacks.roc import auc as auc
from jaxunlearn.attacks.roc import balanced_accuracy as balanced_accuracy
from jaxunlearn.attacks.roc import check_groups as check_groups
from jaxunlearn.attacks.roc import roc_curve as roc_curve
from jaxunlearn.attacks.roc import tpr_at_fpr as tpr_at_fpr
from jaxunlearn.attacks.shadow import RowQueries as RowQueries
from jaxunlearn.attacks.shadow import query_statistics as query_statistics
from jaxunlearn.attacks.shadow import shadow_masks as shadow_masks
from jaxunlearn.attacks.shadow import train_shadows as train_shadows
from jaxunlearn.attacks.shadow import u_lira_masks as u_lira_masks
from jaxunlearn.attacks.step_by_step import Queries as Queries
from jaxunlearn.attacks.step_by_step import Said as Said
from jaxunlearn.attacks.step_by_step import brings_out as brings_out
from jaxunlearn.attacks.step_by_step import make_queries as make_queries
from jaxunlearn.attacks.step_by_step import step_by_step as step_by_step
from jaxunlearn.attacks.u_lira import ULiraReport as ULiraReport
from jaxunlearn.attacks.u_lira import ULiraStatistics as ULiraStatistics
from jaxunlearn.attacks.u_lira import u_lira_report as u_lira_report
from jaxunlearn.attacks.u_lira import u_lira_scores as u_lira_scores
from jaxunlearn.attacks.u_lira import u_lira_shadows as u_lira_shadows
