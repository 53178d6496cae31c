"""`aftermix evaluate`: scores of one merge, and prompts as the model is given them."""
