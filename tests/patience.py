"""How long tests wait for a process before they call it stuck: longer than any takes anywhere.

On a loaded machine work takes many times as long as on one's own, and nothing is wrong with it.
"""

LONG = 1500.0  # seconds
