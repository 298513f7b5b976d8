"""The release gate: a package moves on when the evidence says so, and only then.

`policy` is what the owner demands, `finding` an answer with number, interval and threshold, `inference` the statistics
(pure, with sources), `held_out` the rows that quality is judged on, `documents` checks what the package says of itself,
`quality` judges answers on held-out rows, `profile_check` the reference profile, `measured` what real servers showed,
`check` runs everything and writes one record, `gate` decides from the ledger whether an alias may move, `page` draws a
report, `pipeline` runs all steps from data to an alias. Nothing here is on the way of a request; servers and load
generators come in as callables.
"""
