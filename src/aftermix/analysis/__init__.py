"""What vectors look like before they are merged: norms, angles, and what training left alone."""
