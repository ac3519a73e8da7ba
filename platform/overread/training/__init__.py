"""Plain PyTorch training of one trial: steps, epochs, checkpoints, evaluation. Knows neither Ray nor MLflow nor Optuna.

Read `worker` first (one trial from start to end), then `loop` (epochs), `step` (one optimiser step) and `inference`.
"""
