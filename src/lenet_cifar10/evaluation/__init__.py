"""What the predictions say: metrics, statistics, comparison, figures and model card."""
