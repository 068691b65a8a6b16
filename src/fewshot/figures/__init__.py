"""Draw one run's pictures from files and arrays.

Nothing here imports the report.
"""
