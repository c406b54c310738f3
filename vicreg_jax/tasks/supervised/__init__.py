"""Training with labels as tasks: `finetune` and `linear`."""
