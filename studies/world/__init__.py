"""The world that the studies share: real text of six domains, a base, experts of several seeds, held-out tasks."""
