"""Relations between readings, the scores made of them, and how well these rank cases. NumPy and SciPy, no torch."""
