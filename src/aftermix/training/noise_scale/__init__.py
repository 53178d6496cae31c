"""The scale of merge-aware noise, by what it costs the base or by the vectors of siblings: begin in damage.py."""
