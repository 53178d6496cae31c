"""Training experts: documents read and packed, a Hugging Face Trainer on them, the result as a model folder."""
