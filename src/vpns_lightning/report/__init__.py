"""Reports: figures, tables and a page from finished runs."""
