"""Mixed precision: the recipe's bits, allocated where the model's answers need them."""
