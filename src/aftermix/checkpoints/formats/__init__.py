"""Models that are not plain safetensors folders: adapters, FP8, GGUF, stored vectors. Each is read as a `Model`."""
