"""The vector beside an expert: begin in own_vector.py."""
