"""`aftermix.Study`: points asked for and told; begin in study.py."""
