"""LoRA adapters of PEFT, read as the difference that they make of their base."""
