"""Generative adversarial networks, and what makes them forget.

A request is a mask over a pool of the generator's own samples, marked by a user
or a classifier; or the embedding of a prompt.
"""

from jaxunlearn.gan.adapt_unlearn import (
  adapt_to_negatives as adapt_to_negatives,
)
from jaxunlearn.gan.adapt_unlearn import adapt_unlearn as adapt_unlearn
from jaxunlearn.gan.adapt_unlearn import extrapolate as extrapolate
from jaxunlearn.gan.latent_edits import Keep as Keep
from jaxunlearn.gan.latent_edits import Mapper as Mapper
from jaxunlearn.gan.latent_edits import edited as edited
from jaxunlearn.gan.latent_edits import train_mapper as train_mapper
from jaxunlearn.gan.networks import Gan as Gan
from jaxunlearn.gan.networks import image_gan as image_gan
from jaxunlearn.gan.networks import vector_gan as vector_gan
from jaxunlearn.gan.repulsion import exponential as exponential
from jaxunlearn.gan.repulsion import inverse as inverse
from jaxunlearn.gan.repulsion import negative as negative
from jaxunlearn.gan.scores import degree_of_unlearning as degree_of_unlearning
from jaxunlearn.gan.scores import recall as recall
from jaxunlearn.gan.scores import unlearned_share as unlearned_share
from jaxunlearn.gan.text_to_unlearn import prompt_ascent as prompt_ascent
from jaxunlearn.gan.text_to_unlearn import text_to_unlearn as text_to_unlearn
from jaxunlearn.gan.training import GanFit as GanFit
from jaxunlearn.gan.training import adversarial as adversarial
from jaxunlearn.gan.training import finetune as finetune
from jaxunlearn.gan.training import pool as pool
from jaxunlearn.gan.training import train as train
