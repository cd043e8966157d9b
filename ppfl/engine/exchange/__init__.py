"""What becomes of what the clients of a cohort send: their sum, or rows for a rule that looks at each of them."""
