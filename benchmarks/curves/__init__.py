"""Tables of real learning curves, and the script that trains them."""
