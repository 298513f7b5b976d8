"""Tables and arrays from files and data frames: read whole or in chunks, and turned into a model's tensors.

`sources` opens .csv, .parquet, .npy and .npz files and pandas or polars frames; `cells` turns columns into numbers and
strings, naming the row and the column that cannot be; `matching` says which columns make up which tensor; `whole` reads
a sample for the converters, guessing kinds. Knows no model beyond a signature. pyarrow is loaded for .parquet alone.
"""
