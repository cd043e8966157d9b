"""Arithmetic on the rows that clients send: sums, products, orders, the same bits on any number of ranks."""
