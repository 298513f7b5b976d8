"""Tables and arrays from files and data frames: read whole or in chunks, and turned into a model's tensors.

`rows` says what a source of rows is, and `sources` opens one: a .csv (`text`), .parquet, .npy or .npz (`arrays`) file,
a pandas or polars frame. `cells` turns columns into numbers and strings, naming the row and the column that cannot be;
`matching` says which columns make up which tensor; `whole` reads a sample for the converters, guessing kinds. Knows no
model beyond a signature. pyarrow is loaded for .parquet alone.
"""
