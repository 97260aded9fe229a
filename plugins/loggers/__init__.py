"""Where the figures of a training go, beside the run's own metrics.jsonl."""
