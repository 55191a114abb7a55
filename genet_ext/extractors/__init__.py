"""Feature extractors: photograph crop -> deep features (F of the method)."""

from genet_ext.extractors.close_look import CLOSE_SIZE, CloseLook
from genet_ext.extractors.face_cnn import Extractor, ExtractorOutput

__all__ = ["CLOSE_SIZE", "CloseLook", "Extractor", "ExtractorOutput"]
