"""`penstock bench`: measure servers. Each command is a module; what they share are `options` and `reporting`."""
