"""The steps by which a database comes to the newest form of our tables, each written once."""
