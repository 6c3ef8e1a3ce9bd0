"""Result backends: the contract, and those that fulfil it."""
