"""The model repository: what lies on disk, which of it should serve, and what is loaded.

`scanner` looks, `version_policy` chooses (pure), `lifecycle` says which moves are legal (pure), `handle` counts who
uses a servable, `manager` acts.
"""
