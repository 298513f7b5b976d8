"""Scoring in bulk: a file of rows in, a file of answers out, without a server.

`opened` opens a model from wherever it lies; `run` turns rows into answers chunk by chunk and can be interrupted;
`spool` keeps answers until all are there; `outcome` writes them as the file that was asked for.
"""
