"""Images for searching and for final training, held in memory."""

from supernet.data.augment import Normalise, crop_flip, draw_crops
from supernet.data.image_set import ImageSet
from supernet.data.images import DATA_SETS, describe, halves
from supernet.data.modules import ImageData, RetrainData, SearchData

__all__ = [
    "DATA_SETS",
    "ImageData",
    "ImageSet",
    "Normalise",
    "RetrainData",
    "SearchData",
    "crop_flip",
    "describe",
    "draw_crops",
    "halves",
]
