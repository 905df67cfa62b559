"""A cell that never ends, and one after it."""

# %% Interrupted by the client
count = 0
while True:
    count += 1

# %% The kernel goes on
print("counted:", count > 0)
