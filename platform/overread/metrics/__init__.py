"""Overlap metrics per case and their summaries over cases. NumPy only."""
