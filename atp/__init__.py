"""ATP: source-free adaptation of semantic-segmentation models (align, teach, propagate)."""
