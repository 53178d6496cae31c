"""Records of a merge beside its weights, where it is no model folder."""
