"""Files beside the weights that go along with a model, and those that stay behind."""
