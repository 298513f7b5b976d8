"""What a person types: one module per command, put together in `serving.__main__`."""
