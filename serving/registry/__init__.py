"""The registry: which packages a model has, which of them each alias names, and who decided that on which evidence.

`names` parses references (pure), `record` is one line of the ledger and its chain (pure), `aliases` tells who held an
alias (pure), `catalogue` keeps the records in one SQLite file, `store` keeps blobs in an OCI image layout, `audit`
looks for damage in both, `client` has the verbs. `follower` follows aliases for a server; `source` is what it asks, of
this registry or, by `mlflow`, of another. Nothing here is on the way of a request.
"""
