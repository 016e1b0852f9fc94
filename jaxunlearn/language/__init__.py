"""Language models: forgetting texts, facts and their owners.

Data is {"x": Text, "owner": int32 [N]}, a request a bool mask [N] over its rows,
and a method an ordinary `Transform` of a `LanguageModel`.
"""

from jaxunlearn.core.training import train as train
from jaxunlearn.core.training import train_many as train_many
from jaxunlearn.language import requests as requests
from jaxunlearn.language import rows as rows
from jaxunlearn.language import sharding as sharding
from jaxunlearn.language.ascent import gradient_ascent as gradient_ascent
from jaxunlearn.language.ascent import idk as idk
from jaxunlearn.language.automaton import forbid as forbid
from jaxunlearn.language.causal_isolation import (
  causal_isolation as causal_isolation,
)
from jaxunlearn.language.diverge import diverge as diverge
from jaxunlearn.language.dp2 import protect as protect
from jaxunlearn.language.dpo import dpo as dpo
from jaxunlearn.language.eco import eco as eco
from jaxunlearn.language.eco import eco_model as eco_model
from jaxunlearn.language.entity_guards import (
  activation_guard as activation_guard,
)
from jaxunlearn.language.entity_guards import control_vector as control_vector
from jaxunlearn.language.entity_guards import prefix_guard as prefix_guard
from jaxunlearn.language.flat import flat as flat
from jaxunlearn.language.generation import Guide as Guide
from jaxunlearn.language.generation import generate as generate
from jaxunlearn.language.guard import guard as guard
from jaxunlearn.language.guard import guard_model as guard_model
from jaxunlearn.language.loku import inverted_hinge as inverted_hinge
from jaxunlearn.language.loku import loku as loku
from jaxunlearn.language.lora import block_window as block_window
from jaxunlearn.language.lora import fila as fila
from jaxunlearn.language.lora import lora as lora
from jaxunlearn.language.model import language_model as language_model
from jaxunlearn.language.o3 import o3 as o3
from jaxunlearn.language.o3 import o3_model as o3_model
from jaxunlearn.language.own_words import own_words as own_words
from jaxunlearn.language.own_words import spliced as spliced
from jaxunlearn.language.pdu import pdu as pdu
from jaxunlearn.language.preference import npo as npo
from jaxunlearn.language.preference import simnpo as simnpo
from jaxunlearn.language.rewriting import rewrite as rewrite
from jaxunlearn.language.rmu import rmu as rmu
from jaxunlearn.language.rocr import key_moments as key_moments
from jaxunlearn.language.rocr import null_projector as null_projector
from jaxunlearn.language.rocr import rocr as rocr
from jaxunlearn.language.scores import token_nll as token_nll
from jaxunlearn.language.scores import token_scores as token_scores
from jaxunlearn.language.serving import bare as bare
from jaxunlearn.language.smooth import averaged as averaged
from jaxunlearn.language.smooth import curvature_penalty as curvature_penalty
from jaxunlearn.language.smooth import gradient_penalty as gradient_penalty
from jaxunlearn.language.smooth import (
  randomized_smoothing as randomized_smoothing,
)
from jaxunlearn.language.smooth import sam as sam
from jaxunlearn.language.subjects import Subjects as Subjects
from jaxunlearn.language.subjects import subjects as subjects
from jaxunlearn.language.token_weights import satimp as satimp
from jaxunlearn.language.token_weights import wga as wga
from jaxunlearn.language.types import Generated as Generated
from jaxunlearn.language.types import LanguageModel as LanguageModel
from jaxunlearn.language.types import Text as Text
from jaxunlearn.language.types import TokenScores as TokenScores
from jaxunlearn.language.undial import ceu as ceu
from jaxunlearn.language.undial import undial as undial
from jaxunlearn.language.whp import whp as whp
from jaxunlearn.language.whp import whp_model as whp_model
from jaxunlearn.models.decoder import DecoderConfig as DecoderConfig
from jaxunlearn.models.decoder import Edits as Edits
from jaxunlearn.models.decoder import RopeScaling as RopeScaling
from jaxunlearn.models.decoder import States as States

__all__ = [
  "DecoderConfig",
  "Edits",
  "Generated",
  "Guide",
  "LanguageModel",
  "RopeScaling",
  "States",
  "Subjects",
  "Text",
  "TokenScores",
  "activation_guard",
  "averaged",
  "bare",
  "block_window",
  "causal_isolation",
  "ceu",
  "control_vector",
  "curvature_penalty",
  "diverge",
  "dpo",
  "eco",
  "eco_model",
  "fila",
  "flat",
  "forbid",
  "generate",
  "gradient_ascent",
  "gradient_penalty",
  "guard",
  "guard_model",
  "idk",
  "inverted_hinge",
  "key_moments",
  "language_model",
  "loku",
  "lora",
  "npo",
  "null_projector",
  "o3",
  "o3_model",
  "own_words",
  "pdu",
  "prefix_guard",
  "protect",
  "randomized_smoothing",
  "requests",
  "rewrite",
  "rmu",
  "rocr",
  "rows",
  "sam",
  "satimp",
  "sharding",
  "simnpo",
  "spliced",
  "subjects",
  "token_nll",
  "token_scores",
  "train",
  "train_many",
  "undial",
  "wga",
  "whp",
  "whp_model",
]
