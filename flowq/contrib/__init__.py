"""Where flowq meets other frameworks; nothing else of flowq imports it but by its name."""
