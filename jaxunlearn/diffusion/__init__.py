"""Prompt-conditioned diffusion models: sampling, training and unlearning them.

A model is a `Diffusion`, a few pure functions and a noise schedule; data is
{"x": images [N, H, W, C], "tokens": int [N, L]}, a request a bool mask over its
rows, and a method an ordinary `Transform`.
"""

from jaxunlearn.diffusion import schedules as schedules
from jaxunlearn.diffusion.adv_unlearn import adv_unlearn as adv_unlearn
from jaxunlearn.diffusion.doco import doco as doco
from jaxunlearn.diffusion.esd import esd as esd
from jaxunlearn.diffusion.guidance import both_eps as both_eps
from jaxunlearn.diffusion.guidance import classifier_free as classifier_free
from jaxunlearn.diffusion.guidance import guided_eps as guided_eps
from jaxunlearn.diffusion.models import from_linen as from_linen
from jaxunlearn.diffusion.models import text_to_image as text_to_image
from jaxunlearn.diffusion.models import text_to_image_unet as text_to_image_unet
from jaxunlearn.diffusion.partial_diffusion import (
  concept_curve as concept_curve,
)
from jaxunlearn.diffusion.partial_diffusion import hand_over as hand_over
from jaxunlearn.diffusion.partial_diffusion import (
  partial_diffusion as partial_diffusion,
)
from jaxunlearn.diffusion.pretrained import attach as attach
from jaxunlearn.diffusion.prompt_attack import AttackRates as AttackRates
from jaxunlearn.diffusion.prompt_attack import PromptAttack as PromptAttack
from jaxunlearn.diffusion.prompt_attack import attack_prompts as attack_prompts
from jaxunlearn.diffusion.prompt_attack import attack_rates as attack_rates
from jaxunlearn.diffusion.samplers import image_keys as image_keys
from jaxunlearn.diffusion.samplers import sample as sample
from jaxunlearn.diffusion.samplers import start_noise as start_noise
from jaxunlearn.diffusion.samplers import trajectory as trajectory
from jaxunlearn.diffusion.samplers import walk as walk
from jaxunlearn.diffusion.training import denoising as denoising
from jaxunlearn.diffusion.training import drop_words as drop_words
from jaxunlearn.diffusion.training import fitting as fitting
from jaxunlearn.diffusion.training import train as train
from jaxunlearn.diffusion.training import train_many as train_many
from jaxunlearn.diffusion.types import Diffusion as Diffusion
from jaxunlearn.diffusion.types import Predictor as Predictor
from jaxunlearn.diffusion.types import parameter_group as parameter_group
from jaxunlearn.diffusion.types import parameter_groups as parameter_groups

__all__ = [
  "AttackRates",
  "Diffusion",
  "Predictor",
  "PromptAttack",
  "adv_unlearn",
  "attach",
  "attack_prompts",
  "attack_rates",
  "both_eps",
  "classifier_free",
  "concept_curve",
  "denoising",
  "doco",
  "drop_words",
  "esd",
  "fitting",
  "from_linen",
  "guided_eps",
  "hand_over",
  "image_keys",
  "parameter_group",
  "parameter_groups",
  "partial_diffusion",
  "sample",
  "schedules",
  "start_noise",
  "text_to_image",
  "text_to_image_unet",
  "train",
  "train_many",
  "trajectory",
  "walk",
]
