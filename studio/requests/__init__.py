"""What users ask for: a picture (Shot) or a training (TrainingRequest), each as one dataclass."""
