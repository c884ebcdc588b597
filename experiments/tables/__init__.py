"""Tables: those of the papers, measured on the embedded world or on models of one's own (docs/guide/tables.md)."""
