"""Points proposed by what is known of all items: first design, candidates, and the strategy `response`."""
