"""What people look at: the review page, its curves, and the tables of the terminal."""
