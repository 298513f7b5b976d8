"""Stubs generated from `protos/`; never edited. README, "Development", has the command that makes them."""
