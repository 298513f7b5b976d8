"""One module per framework, each with a function `draft(model, sample, target)`; imported for its models alone."""
