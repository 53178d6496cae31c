"""Tables of a finished or unfinished run as rows of ready text: pure functions from the run's records."""
