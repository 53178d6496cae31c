"""What the linear layers of an expert are fed on its own text: the statistics that make saliency out of magnitude."""
