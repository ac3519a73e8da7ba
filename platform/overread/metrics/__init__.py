"""Overlap, surface, instance and annotator metrics per case, and their summaries over cases. NumPy and SciPy only."""
