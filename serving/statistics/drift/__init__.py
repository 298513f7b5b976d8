"""How the rows that are served differ from those of the reference profile.

`layout` and `counting` turn batches into counts, `distances` and `detector` counts into what they mean.
"""
