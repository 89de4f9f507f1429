"""Image data sets that come with capkit or are fetched, with class names and descriptions."""

from capkit.datasets._characters import load_digits, load_handwriting
from capkit.datasets._cub200 import fetch_cub200
from capkit.datasets._dtd import fetch_dtd
from capkit.datasets._eurosat import fetch_eurosat
from capkit.datasets._fgvc_aircraft import fetch_fgvc_aircraft
from capkit.datasets._flowers102 import fetch_flowers102
from capkit.datasets._image_folder import load_image_folder
from capkit.datasets._planted import make_concept_space
from capkit.datasets._resisc45 import fetch_resisc45
from capkit.datasets._satellite import fetch_whurs19_features

__all__ = [
    "fetch_cub200",
    "fetch_dtd",
    "fetch_eurosat",
    "fetch_fgvc_aircraft",
    "fetch_flowers102",
    "fetch_resisc45",
    "fetch_whurs19_features",
    "load_digits",
    "load_handwriting",
    "load_image_folder",
    "make_concept_space",
]
