"""The search: spaces and their budget, fair stopping, and one Tune run over a persistent Optuna study."""
