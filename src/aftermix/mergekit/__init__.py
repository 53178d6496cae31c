"""mergekit's recipes in and out: its YAML read as a configuration, a configuration written as its YAML."""
