"""Architectures that are searched for, and whether forgetting changes them."""

from jaxunlearn.nas import supernet as supernet
from jaxunlearn.nas.architecture import agreement as agreement
from jaxunlearn.nas.architecture import (
  architecture_distance as architecture_distance,
)
from jaxunlearn.nas.architecture import describe as describe
from jaxunlearn.nas.architecture import discretise as discretise
from jaxunlearn.nas.architecture import expected_cost as expected_cost
from jaxunlearn.nas.architecture import mixture as mixture
from jaxunlearn.nas.architecture import (
  random_architecture as random_architecture,
)
from jaxunlearn.nas.darts import darts as darts
from jaxunlearn.nas.darts import search_model as search_model
from jaxunlearn.nas.darts import unrolled as unrolled
from jaxunlearn.nas.darts import weights_sgd as weights_sgd
from jaxunlearn.nas.dynamic_image import dynamic_image as dynamic_image
from jaxunlearn.nas.dynamic_image import harmonic_weights as harmonic_weights
from jaxunlearn.nas.dynamic_image import simple_weights as simple_weights
from jaxunlearn.nas.emonas import emonas as emonas
from jaxunlearn.nas.emonas import network_model as network_model
from jaxunlearn.nas.emonas import train_network as train_network
from jaxunlearn.nas.emonas import tune_network as tune_network
from jaxunlearn.nas.supernet import Space as Space
