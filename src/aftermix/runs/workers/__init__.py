"""Workers of a run, as its folder tells of them."""
