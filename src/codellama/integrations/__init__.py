"""One module per other library that can use what this package knows; nothing here is imported by it."""
