"""Pictures of one run. They read files and arrays, and import no report."""
