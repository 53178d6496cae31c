"""The Python interface: what `import aftermix` gives, and what the command line is written on."""

from aftermix.progress.place import settle_notebook

settle_notebook()
