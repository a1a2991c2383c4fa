"""What the server speaks: a module for each protocol, whose ``routes`` gives its routes."""
