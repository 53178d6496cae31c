"""One's own evaluation: a function of the user's that scores items, in the place of lm-eval's tasks."""
