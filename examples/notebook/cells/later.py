"""What is run after a suspend."""

# %% After a suspend: the same kernel, with its names
sum(primes)
