"""The client's side: one connection, its requests one after the other."""
