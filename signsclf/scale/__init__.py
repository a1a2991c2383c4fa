"""Work shared between processes: batch prediction, and training on several of them."""
