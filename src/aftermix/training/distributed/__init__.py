"""Several processes that train one model: how many, which, and what each holds."""
