"""Prompt-conditioned diffusion models: sampling, training and unlearning them.

A model is a `Diffusion`, a few pure functions and a noise schedule; data is
{"x": images [N, H, W, C], "tokens": int [N, L]}. A request is a concept in prompts
(`requests.concept`), a mask over the rows, or both, and a method an ordinary
`Transform`. Methods that need a loss only (`ju.methods.finetune`, `ju.methods.gradient_ascent`,
...) take the model itself, or a `denoising_task` of it.
"""

from jaxunlearn.core.training import train as train
from jaxunlearn.core.training import train_many as train_many
from jaxunlearn.diffusion import requests as requests
from jaxunlearn.diffusion import schedules as schedules
from jaxunlearn.diffusion.adv_unlearn import adv_unlearn as adv_unlearn
from jaxunlearn.diffusion.concept_ablation import (
  concept_ablation as concept_ablation,
)
from jaxunlearn.diffusion.doco import doco as doco
from jaxunlearn.diffusion.esd import esd as esd
from jaxunlearn.diffusion.forget_me_not import attention_norm as attention_norm
from jaxunlearn.diffusion.forget_me_not import forget_me_not as forget_me_not
from jaxunlearn.diffusion.forget_me_not import word_positions as word_positions
from jaxunlearn.diffusion.guidance import both_eps as both_eps
from jaxunlearn.diffusion.guidance import classifier_free as classifier_free
from jaxunlearn.diffusion.guidance import guided_eps as guided_eps
from jaxunlearn.diffusion.models import Denoiser as Denoiser
from jaxunlearn.diffusion.models import UNet as UNet
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
from jaxunlearn.diffusion.pretrained import Embeddings as Embeddings
from jaxunlearn.diffusion.pretrained import Latents as Latents
from jaxunlearn.diffusion.pretrained import attach as attach
from jaxunlearn.diffusion.prompt_attack import AttackRates as AttackRates
from jaxunlearn.diffusion.prompt_attack import PromptAttack as PromptAttack
from jaxunlearn.diffusion.prompt_attack import Sampler as Sampler
from jaxunlearn.diffusion.prompt_attack import attack_prompts as attack_prompts
from jaxunlearn.diffusion.prompt_attack import attack_rates as attack_rates
from jaxunlearn.diffusion.requests import Concept as Concept
from jaxunlearn.diffusion.safe_guidance import (
  SAFETY_MAX as SAFETY_MAX,
)
from jaxunlearn.diffusion.safe_guidance import (
  SAFETY_MEDIUM as SAFETY_MEDIUM,
)
from jaxunlearn.diffusion.safe_guidance import (
  SAFETY_STRONG as SAFETY_STRONG,
)
from jaxunlearn.diffusion.safe_guidance import (
  SAFETY_WEAK as SAFETY_WEAK,
)
from jaxunlearn.diffusion.safe_guidance import (
  SafetyStrength as SafetyStrength,
)
from jaxunlearn.diffusion.safe_guidance import (
  safe_guidance as safe_guidance,
)
from jaxunlearn.diffusion.safegen import mosaic as mosaic
from jaxunlearn.diffusion.safegen import safegen as safegen
from jaxunlearn.diffusion.salun import guided_task as guided_task
from jaxunlearn.diffusion.salun import replace_words as replace_words
from jaxunlearn.diffusion.salun import salun as salun
from jaxunlearn.diffusion.samplers import image_keys as image_keys
from jaxunlearn.diffusion.samplers import sample as sample
from jaxunlearn.diffusion.samplers import start_noise as start_noise
from jaxunlearn.diffusion.samplers import trajectory as trajectory
from jaxunlearn.diffusion.samplers import walk as walk
from jaxunlearn.diffusion.score_distillation import one_step as one_step
from jaxunlearn.diffusion.sdd import sdd as sdd
from jaxunlearn.diffusion.sfd import sfd as sfd
from jaxunlearn.diffusion.steps import Sampling as Sampling
from jaxunlearn.diffusion.surgery import gradient_surgery as gradient_surgery
from jaxunlearn.diffusion.token_search import SoftSearch as SoftSearch
from jaxunlearn.diffusion.token_search import TokenSearch as TokenSearch
from jaxunlearn.diffusion.training import denoising_task as denoising_task
from jaxunlearn.diffusion.training import drop_words as drop_words
from jaxunlearn.diffusion.types import Diffusion as Diffusion
from jaxunlearn.diffusion.types import Predictor as Predictor
from jaxunlearn.diffusion.types import parameter_group as parameter_group
from jaxunlearn.diffusion.types import parameter_groups as parameter_groups
from jaxunlearn.diffusion.uce import uce as uce
from jaxunlearn.methods.baselines import finetune as fitting
from jaxunlearn.methods.salun import saliency_mask as saliency_mask

__all__ = [
  "SAFETY_MAX",
  "SAFETY_MEDIUM",
  "SAFETY_STRONG",
  "SAFETY_WEAK",
  "AttackRates",
  "Concept",
  "Diffusion",
  "Predictor",
  "PromptAttack",
  "SafetyStrength",
  "Sampling",
  "SoftSearch",
  "TokenSearch",
  "adv_unlearn",
  "attach",
  "attack_prompts",
  "attack_rates",
  "attention_norm",
  "both_eps",
  "classifier_free",
  "concept_ablation",
  "concept_curve",
  "denoising_task",
  "doco",
  "drop_words",
  "esd",
  "fitting",
  "forget_me_not",
  "from_linen",
  "gradient_surgery",
  "guided_eps",
  "guided_task",
  "hand_over",
  "image_keys",
  "one_step",
  "parameter_group",
  "parameter_groups",
  "partial_diffusion",
  "replace_words",
  "requests",
  "safe_guidance",
  "saliency_mask",
  "salun",
  "sample",
  "schedules",
  "sfd",
  "start_noise",
  "text_to_image",
  "text_to_image_unet",
  "train",
  "train_many",
  "trajectory",
  "uce",
  "walk",
  "word_positions",
]
