"""MLflow, and only here: where the runs live, what is written, which trials people call winners, and the UI.

`mlflow` is imported inside functions: importing this package is cheap. One process writes: the driver of a search.
"""
