"""Redis as broker and as result store: the only package that imports redis."""
