"""`aftermix mixture --table`: data ratios from a table of trained mixtures."""
