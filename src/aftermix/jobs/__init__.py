"""What the commands do: the only place where merging, evaluation, search, training and report meet."""
