"""What converts: models of every family, trained on data that ships with scikit-learn, converted and measured.

`zoo` trains scikit-learn's, `others` those of heavy frameworks, `measure` converts and compares them, and
`python -m converters.matrix --readme README.md` writes the table into the README.
"""
