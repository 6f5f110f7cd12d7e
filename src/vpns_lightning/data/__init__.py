"""Data sets: ``uint8`` images from disk, augmented and scaled on the device."""

from vpns_lightning.data.check import CheckReport
from vpns_lightning.data.images.dataset import ImageDataset
from vpns_lightning.data.images.decode import BadImageError
from vpns_lightning.data.images.sampler import EvalSampler, ViewSampler
from vpns_lightning.data.images.transforms import EvalTransform, TrainTransform
from vpns_lightning.data.layout import Layout
from vpns_lightning.data.module import ImageData
from vpns_lightning.data.sets.cifar import CIFAR10, CIFAR100
from vpns_lightning.data.sets.csv_images import CSVImages
from vpns_lightning.data.sets.digits import Digits
from vpns_lightning.data.sets.dtd import DTD
from vpns_lightning.data.sets.flowers102 import Flowers102
from vpns_lightning.data.sets.food101 import Food101
from vpns_lightning.data.sets.given import FromDatasets, from_datasets
from vpns_lightning.data.sets.image_folder import ImageFolder
from vpns_lightning.data.sets.imagenet import ImageNet
from vpns_lightning.data.sets.oxford_pets import OxfordPets
from vpns_lightning.data.sets.stanford_cars import StanfordCars
from vpns_lightning.data.sets.tiny_imagenet import TinyImageNet
from vpns_lightning.data.split import Split

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "DTD",
    "BadImageError",
    "CSVImages",
    "CheckReport",
    "Digits",
    "EvalSampler",
    "EvalTransform",
    "Flowers102",
    "Food101",
    "FromDatasets",
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
    "from_datasets",
]
