"""`penstock quickstart --kind release`: from a CSV to an alias, drift, a retrained canary, and a bad one rolled back.

`world` makes the data and changes it, `folder` writes what a user's own would hold, `traffic` asks the server
meanwhile, `programs` runs the commands that a person would type, `tour` goes the way, `evidence` holds the ledger to
it. What lies in `files` is a user's: it is copied, not imported.
"""
