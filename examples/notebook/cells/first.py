"""Output of every kind; the cells of one notebook."""

# %% Names stay from cell to cell
primes = [n for n in range(2, 50) if all(n % d for d in range(2, n))]
print(len(primes), "primes")
primes[-1]

# %% Rich output: what a page can show
from IPython.display import HTML

HTML("<b>" + ", ".join(map(str, primes[:5])) + "</b>")

# %% An error is an output like any other
primes[100]
