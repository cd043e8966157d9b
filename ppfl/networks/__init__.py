"""Models as stages of pure functions, and the fast ways through them."""
