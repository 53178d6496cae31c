"""Jobs behind the commands: the only place where merging, evaluation, search, training and report meet."""
