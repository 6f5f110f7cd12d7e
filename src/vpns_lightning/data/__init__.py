"""Data sets: `uint8` images from disk, augmented and scaled on the device."""

from vpns_lightning.data.base import ImageData
from vpns_lightning.data.check import CheckReport
from vpns_lightning.data.cifar import CIFAR10, CIFAR100
from vpns_lightning.data.digits import Digits
from vpns_lightning.data.dtd import DTD
from vpns_lightning.data.flowers102 import Flowers102
from vpns_lightning.data.food101 import Food101
from vpns_lightning.data.image_folder import ImageFolder
from vpns_lightning.data.imagenet import ImageNet
from vpns_lightning.data.images import BadImageError, ImageDataset, Split
from vpns_lightning.data.oxford_pets import OxfordPets
from vpns_lightning.data.reading import Layout
from vpns_lightning.data.sampler import EvalSampler, ViewSampler
from vpns_lightning.data.stanford_cars import StanfordCars
from vpns_lightning.data.tiny_imagenet import TinyImageNet
from vpns_lightning.data.transforms import EvalTransform, TrainTransform, stream_key

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "DTD",
    "BadImageError",
    "CheckReport",
    "Digits",
    "EvalSampler",
    "EvalTransform",
    "Flowers102",
    "Food101",
    "ImageData",
    "ImageDataset",
    "ImageFolder",
    "ImageNet",
    "Layout",
    "OxfordPets",
    "Split",
    "StanfordCars",
    "TinyImageNet",
    "TrainTransform",
    "ViewSampler",
    "stream_key",
]
