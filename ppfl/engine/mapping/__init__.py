"""How the function of one client is applied to many: a loop, vectorized, joint, or as lanes."""
