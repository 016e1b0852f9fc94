"""Flax models for the experiments, and layers that are fast under vmap."""

from jaxunlearn.models.cnn import CNN as CNN
from jaxunlearn.models.conv import Conv as Conv
from jaxunlearn.models.conv import convolution as convolution
from jaxunlearn.models.generator import ImageGenerator as ImageGenerator
from jaxunlearn.models.generator import VectorGenerator as VectorGenerator
from jaxunlearn.models.layers import max_pool as max_pool
from jaxunlearn.models.mlp import MLP as MLP
from jaxunlearn.models.patch_tower import PatchTower as PatchTower
from jaxunlearn.models.resnet import BasicBlock as BasicBlock
from jaxunlearn.models.resnet import BottleneckBlock as BottleneckBlock
from jaxunlearn.models.resnet import ResNet as ResNet
from jaxunlearn.models.resnet import resnet18 as resnet18
from jaxunlearn.models.resnet import resnet20 as resnet20
from jaxunlearn.models.vit import ViT as ViT
