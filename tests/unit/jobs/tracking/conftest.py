"""A tiny real world to train in, for the tests of this room."""

from support.training_world import _one_thread, base_folder, corpus, make_config, model

__all__ = ["_one_thread", "base_folder", "corpus", "make_config", "model"]
