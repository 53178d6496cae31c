"""Models as folders of named tensors: read lazily, aligned with one another, written atomically."""
