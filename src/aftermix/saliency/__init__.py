"""Statistics of what an expert's linear layers are fed on its own text: they make saliency out of magnitude."""
