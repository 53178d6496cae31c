"""Records of rounds: what `aftermix iterate` keeps beside the runs of its rounds."""
