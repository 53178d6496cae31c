"""Vectors looked at before they are merged: norms, angles, and what training left alone."""
