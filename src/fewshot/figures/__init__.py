"""Draw pictures of one run from files and arrays; nothing here imports the report."""
