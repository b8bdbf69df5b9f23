"""Properties: claims over a whole space of inputs, searched for a shrunk counterexample.

To add one: its declaration in `searches`, a function in `of_models` or `of_rules` that returns a
`Search`, and a line in the table at the end of that file.
"""
