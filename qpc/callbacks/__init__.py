"""What watches long runs: `qpc.Callback`, and ready ones for TensorBoard and MLflow."""
