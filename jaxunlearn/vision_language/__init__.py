"""Vision-language models: forgetting what is told of an image.

`prefix_model` joins an image tower and a decoder; over a stack of images it is a
`LanguageModel`, so that data, requests, methods (`language.gradient_ascent`,
`language.idk`, ...), generation and attacks are those of the language room.
"""

from jaxunlearn.vision_language.fact_defences import (
  fact_erasure as fact_erasure,
)
from jaxunlearn.vision_language.fact_defences import (
  head_projection as head_projection,
)
from jaxunlearn.vision_language.fact_defences import (
  input_rephrasing as input_rephrasing,
)
from jaxunlearn.vision_language.fact_defences import max_entropy as max_entropy
from jaxunlearn.vision_language.fact_edits import Site as Site
from jaxunlearn.vision_language.fact_edits import edit_facts as edit_facts
from jaxunlearn.vision_language.fact_edits import first_token as first_token
from jaxunlearn.vision_language.fact_edits import kernel_delta as kernel_delta
from jaxunlearn.vision_language.fact_edits import lens as lens
from jaxunlearn.vision_language.fact_edits import with_delta as with_delta
from jaxunlearn.vision_language.prefix_model import FROZEN_TOWER as FROZEN_TOWER
from jaxunlearn.vision_language.prefix_model import PrefixModel as PrefixModel
from jaxunlearn.vision_language.prefix_model import (
  lora_and_projector as lora_and_projector,
)
from jaxunlearn.vision_language.prefix_model import prefix_model as prefix_model
from jaxunlearn.vision_language.prompt_decoupling import decoupled as decoupled
from jaxunlearn.vision_language.prompt_decoupling import (
  prompt_decoupling as prompt_decoupling,
)
from jaxunlearn.vision_language.rows import image_of as image_of
from jaxunlearn.vision_language.rows import seeing as seeing
from jaxunlearn.vision_language.rows import with_images as with_images
from jaxunlearn.vision_language.single_image import Targets as Targets
from jaxunlearn.vision_language.single_image import four_targets as four_targets
from jaxunlearn.vision_language.single_image import siu as siu

__all__ = [
  "FROZEN_TOWER",
  "PrefixModel",
  "Site",
  "Targets",
  "decoupled",
  "edit_facts",
  "fact_erasure",
  "first_token",
  "four_targets",
  "head_projection",
  "image_of",
  "input_rephrasing",
  "kernel_delta",
  "lens",
  "lora_and_projector",
  "max_entropy",
  "prefix_model",
  "prompt_decoupling",
  "seeing",
  "siu",
  "with_delta",
  "with_images",
]
