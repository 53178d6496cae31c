"""`aftermix analyze` and `aftermix inspect`: vectors looked at before they are merged."""
