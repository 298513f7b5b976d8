"""Which rows run together: `policy` decides (pure), `batcher` holds the queue and acts."""
