"""Feature extractors: photograph crop -> deep features (F of the method)."""

from genet_ext.extractors.face_cnn import Extractor, ExtractorOutput

__all__ = ["Extractor", "ExtractorOutput"]
