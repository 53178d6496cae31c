"""The one face that jobs see of whatever scores a model: lm-eval's tasks, or a function of the user's own."""
