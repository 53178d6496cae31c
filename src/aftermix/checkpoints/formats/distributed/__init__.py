"""Distributed checkpoints of PyTorch (DCP), of Megatron too, read as models and written again."""
