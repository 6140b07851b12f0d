"""What was before pinstream: old orders and events, and lists of people, out of a shop's own files."""
