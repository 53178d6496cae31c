"""The Python interface: what `import aftermix` gives, and what the command line is written on."""
