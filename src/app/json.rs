//! JSON text as Python's `json.dumps` writes it.
