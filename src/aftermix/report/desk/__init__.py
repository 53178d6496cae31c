"""The mixing desk: a fitted response put into the page, whose script predicts any merge where it is read."""
