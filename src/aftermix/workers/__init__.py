"""Workers: one small interface over processes of this machine and actors of Ray, and the crew that keeps them busy."""
