"""The vLLM engine: a living engine in processes of its own, which makes the merged weights where it runs."""
