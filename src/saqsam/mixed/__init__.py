"""Mixed precision: the recipe's bits, spent where the model's answers need them."""
