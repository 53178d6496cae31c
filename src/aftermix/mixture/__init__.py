"""From merge weights to data mixtures."""
