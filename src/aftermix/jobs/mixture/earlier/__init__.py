"""`aftermix mixture --from`: merges of an earlier mixture run that are points of this one."""
