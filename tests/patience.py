"""How long tests wait for a process whose work takes what it takes, before they call it stuck.

On a loaded machine work takes many times as long, and nothing is wrong with it. Where it is the
time that is tested, as of what must end at once, tests have bounds of their own.
"""

LONG = 1500.0  # seconds
