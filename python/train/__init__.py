"""Training of the extractor F, the image generator G and the feature generator H on renders."""
