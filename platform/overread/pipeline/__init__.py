"""The road from a data set to a report: each stage calls one package and leaves its record in the run folder."""
