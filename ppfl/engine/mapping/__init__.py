"""How the function of one client is applied to many: a loop, batched, joint, or as lanes."""
