"""`tierd top` on a terminal: a view of everything that keeps itself up to date.

keys: what was typed · state: what is looked at, and what a key makes of that · asking: what the daemon is asked for ·
lines, overview, lists, frame: what is drawn, as lines of text · screen: the terminal, taken and given back · live: the
loop. Only `screen` and `live` know that there is a terminal.
"""
