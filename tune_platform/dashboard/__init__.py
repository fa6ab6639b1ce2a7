"""The page in a browser: it reads the store, and steers a search by the same inbox as the command line."""
