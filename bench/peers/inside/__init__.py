"""What runs inside the peers' environments: copied beside the model of a peer, and never imported here."""
