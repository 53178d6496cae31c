"""Knowledge of loaders about the families of models: names of one tensor, parts that are not loaded."""
