"""Models of any origin beside the winner, `compare:` of the file: begin in contest.py."""
