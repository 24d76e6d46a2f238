"""What is published (documents, limits, settings, errors) held against what runs."""
