"""An HTTP server for model folders: what it takes, in what order it works, and what it answers."""
