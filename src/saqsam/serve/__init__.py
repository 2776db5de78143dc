"""``saqsam serve``: the page and a plain HTTP interface, computed in Python on this machine."""
