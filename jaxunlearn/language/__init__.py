"""Language models: forgetting texts, facts and their owners.

Data is {"x": Text, "owner": int32 [N]}, a request a bool mask [N] over its rows,
and a method an ordinary `Transform` of a `LanguageModel`.
"""

from jaxunlearn.core.training import train as train
from jaxunlearn.core.training import train_many as train_many
from jaxunlearn.language.model import language_model as language_model
from jaxunlearn.language.scores import token_nll as token_nll
from jaxunlearn.language.scores import token_scores as token_scores
from jaxunlearn.language.types import Generated as Generated
from jaxunlearn.language.types import LanguageModel as LanguageModel
from jaxunlearn.language.types import Text as Text
from jaxunlearn.language.types import TokenScores as TokenScores
from jaxunlearn.models.decoder import DecoderConfig as DecoderConfig
from jaxunlearn.models.decoder import Edits as Edits
from jaxunlearn.models.decoder import RopeScaling as RopeScaling
from jaxunlearn.models.decoder import States as States

__all__ = [
  "DecoderConfig",
  "Edits",
  "Generated",
  "LanguageModel",
  "RopeScaling",
  "States",
  "Text",
  "TokenScores",
  "language_model",
  "token_nll",
  "token_scores",
  "train",
  "train_many",
]
