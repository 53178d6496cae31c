"""`aftermix average`: one model from the checkpoints of one training run."""
